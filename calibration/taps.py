"""Engines that let what flows through them be seen: a graph of a bundle with inner values made outputs.

They are engines as the session knows them, so that calibration runs what the product runs, state and all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from aurora_export.contract import STATE_NAMES, GraphSpec
from aurora_export.runtime.engine_onnx import load_library, register_operators

EXTERNAL_FOLDER_OPTION = "session.model_external_initializers_file_folder_path"

MAX_TAP_BYTES = 512 * 2**20
"""Of what is seen of one run at a time; more is seen in several runs of the same inputs."""

LARGE_MODEL_BYTES = 2**30
"""Of weights: over this they stay mapped from the file instead of being laid out anew, which takes them twice."""

Observe = Callable[[Mapping[str, np.ndarray], int], None]
"""name of a tap -> its value in one run; `n_before` of the engine"""


class TappedEngine:
    """One graph in ONNX Runtime, whose taps are handed on after each run."""

    def __init__(
        self, path: Path, spec: GraphSpec, taps: Iterable[str], observe: Observe, *, threads: int | None = None
    ) -> None:
        """Open a graph with the values of some names as further outputs."""
        self.spec, self.backend, self._observe = spec, "onnxruntime-cpu", observe
        model = onnx.load(path, load_external_data=False)
        self._taps = tuple(dict.fromkeys(taps))
        outputs = {value.name for value in model.graph.output}
        known = {value.name: value for value in model.graph.value_info}
        for name in self._taps:
            if name not in outputs:
                model.graph.output.append(known.get(name) or onnx.ValueInfoProto(name=name))
        runtime = load_library()
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry(EXTERNAL_FOLDER_OPTION, str(path.parent))
        if sum(file.stat().st_size for file in path.parent.glob(f"{path.name}.data")) > LARGE_MODEL_BYTES:
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.enable_cpu_mem_arena = False
        if threads is not None:
            options.intra_op_num_threads = threads
        register_operators(options)
        self._session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._bytes_per_row: dict[str, int] = {}
        self.n_before = 0
        """frames or tokens that were run before, since somebody set it to 0"""

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs of the contract; the taps go to `observe`, as many at a time as may be held."""
        names = [output.name for output in self.spec.outputs]
        result: dict[str, np.ndarray] = {}
        n_rows = int(np.prod(next(iter(inputs.values())).shape[:2]))
        for taps in self._in_groups(n_rows):
            values: Sequence[Any] = self._session.run([*names, *taps], dict(inputs))
            result = dict(zip(names, values[: len(names)], strict=True))
            seen = dict(zip(taps, values[len(names) :], strict=True))
            self._bytes_per_row |= {name: -(-array.nbytes // n_rows) for name, array in seen.items()}
            self._observe(seen, self.n_before)
        self.n_before += inputs["frames"].shape[0] if "frames" in inputs else inputs["embeddings"].shape[1]
        return result

    def _in_groups(self, n_rows: int) -> Iterator[tuple[str, ...]]:
        """Taps, so many that they fit; how large they are is known from the run before, and at first from one row."""
        group: list[str] = []
        n_bytes = 0
        for name in self._taps:
            size = self._bytes_per_row.get(name, 0) * n_rows
            if group and n_bytes + size > MAX_TAP_BYTES:
                yield tuple(group)
                group, n_bytes = [], 0
            group.append(name)
            n_bytes += size
        yield tuple(group)

    def open_loop(self) -> TappedLoop:
        """A new recurrence over this graph, its state zero."""
        return TappedLoop(self)


class TappedLoop:
    """A recurrence over a tapped language graph."""

    def __init__(self, engine: TappedEngine) -> None:
        self._engine = engine
        self._state = {name: np.zeros(engine.spec[name].resolve(B=1), np.float32) for name in STATE_NAMES}

    def advance(self, embeddings: np.ndarray) -> np.ndarray:
        """Run T tokens and move the state on; see `engine.Loop`."""
        inputs = {"embeddings": np.ascontiguousarray(embeddings[None], np.float32), **self._state}
        output = self._engine.run(inputs)
        self._state = {name: output[f"next_{name}"] for name in STATE_NAMES}
        return output["logits"][0]

    def feed(self, embeddings: np.ndarray) -> None:
        """As `advance`, where nobody needs the logits."""
        self.advance(embeddings)

    def read_state(self) -> dict[str, np.ndarray]:
        """Copies of the state arrays by name, of batch 1."""
        return {name: array.copy() for name, array in self._state.items()}

    def write_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Continue from another state; the arrays are copied."""
        self._state = {name: np.array(arrays[name], np.float32) for name in STATE_NAMES}


class ReplayedEngine:
    """Stands for the vision graph where its outputs are known already: gives them in turn."""

    def __init__(self, spec: GraphSpec) -> None:
        self.spec, self.backend = spec, "replayed"
        self.coming: list[dict[str, np.ndarray]] = []
        """outputs of the runs to come, each of one frame"""

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The next of what is coming."""
        assert len(inputs["frames"]) == 1
        return self.coming.pop(0)

    def open_loop(self) -> TappedLoop:
        """There is none."""
        raise TypeError("the vision graph has no state")
