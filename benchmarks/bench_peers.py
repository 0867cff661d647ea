r"""The language model of an int8 bundle beside llama.cpp, taking turns, on random weights of the same shapes.

    python testbed/full_size.py build/released --layout released --language rwkv6-1b6 --dtype fp16
    aurora-export build build/released --out build/full_size/int8.aurora --precision int8
    python -m venv build/venv-llama && build/venv-llama/bin/pip install llama-cpp-python==0.3.36 gguf==0.19.0
    build/venv-llama/bin/python benchmarks/random_gguf.py build/gguf
    python benchmarks/record.py peers -- python benchmarks/bench_peers.py build/full_size/int8.aurora \
        --llama-python build/venv-llama/bin/python --gguf build/gguf

Each peer is a process of its own that waits while the others run. A ratio is of two times within a round. A peer that
is not installed is left out, and the result says why. Ours against plain ONNX Runtime: bench_language.py.
Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import click
import numpy as np

from aurora_export.contract import MAX_CHUNK_TOKENS, graphs
from aurora_export.manifest import Manifest, read_manifest
from aurora_export.plugins.cpu import chosen_level, library_path
from aurora_export.runtime.engine_onnx import OnnxEngine
from aurora_export.runtime.limits import LimitsMeter

HERE = Path(__file__).resolve().parent
LLAMA_FILES = {"llama.cpp Q8_0": "q8_0.gguf", "llama.cpp Q4_0": "q4_0.gguf"}
WARM_UP = {"prefill": 64, "step": 4}


class Side(Protocol):
    """One of those that take turns."""

    peak_rss_mib: float

    def run(self, test: str, n_tokens: int) -> float:
        """Seconds of `prefill` or `step`."""
        ...


class Ours:
    """The language graph of a bundle, in this process, as a session runs it."""

    def __init__(self, bundle: Path, manifest: Manifest, threads: int) -> None:
        """Open the graph; its digest is not compared."""
        spec = graphs(manifest.config)["language"]
        self._loop = OnnxEngine(bundle / manifest.files["language"], spec, threads=threads).open_loop()
        self._table = np.load(bundle / manifest.files["embeddings"], mmap_mode="r")
        self._rng = np.random.default_rng(0)
        self.peak_rss_mib = 0.0

    def run(self, test: str, n_tokens: int) -> float:
        """See `Side`."""
        chunk = MAX_CHUNK_TOKENS if test == "prefill" else 1
        ids = self._rng.integers(0, len(self._table), n_tokens)
        began = time.perf_counter()
        for start in range(0, n_tokens, chunk):
            self._loop.advance(np.asarray(self._table[ids[start : start + chunk]], np.float32))
        seconds = time.perf_counter() - began
        self.peak_rss_mib = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
        return seconds


class Peer:
    """A program that answers on its stdout; see peer_llama.py."""

    def __init__(self, command: list[str], log: Path) -> None:
        """Start it. Raises OSError or ValueError if it cannot run here."""
        # Threads that wait actively would take the cores from those whose turn it is.
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
        self.peak_rss_mib = 0.0
        try:
            self.version = self._answer()["version"]
        except ValueError as error:
            last = (log.read_text(errors="replace").strip().splitlines() or [str(error)])[-1]
            raise ValueError(last) from error

    def run(self, test: str, n_tokens: int) -> float:
        """See `Side`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{test} {n_tokens}\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.peak_rss_mib = answer["peak_rss_mib"]
        return float(answer["seconds"])

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return dict(json.loads(self._process.stdout.readline() or "no answer"))


def start_peers(python: Path | None, folder: Path | None, threads: int) -> tuple[dict[str, Peer], dict[str, str]]:
    """Those that run here, and the versions of all, or why they do not."""
    peers: dict[str, Peer] = {}
    states = {}
    for name, file in LLAMA_FILES.items():
        if python is None or folder is None:
            states[name] = "skipped: --llama-python and --gguf were not given"
        elif not (folder / file).is_file():
            states[name] = f"skipped: no {file}; see random_gguf.py"
        else:
            command = [str(python), str(HERE / "peer_llama.py"), str(folder / file), str(threads)]
            try:
                peers[name] = Peer(command, folder / f"{file}.log")
                states[name] = f"llama-cpp-python {peers[name].version}"
            except (OSError, ValueError) as error:
                states[name] = f"skipped: {error}"
        print(f"{name}: {states[name]}", file=sys.stderr)
    return peers, states


def compare(sides: dict[str, Side], test: str, n_tokens: int, rounds: int) -> dict[str, Any]:
    """Let all take turns; medians of each, and of its times over ours in the same round."""
    for side in sides.values():
        side.run(test, WARM_UP[test])
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            times[name].append(side.run(test, n_tokens))
    row: dict[str, Any] = {"test": test, "n_tokens": n_tokens, "sides": {}}
    for name, seconds in times.items():
        ratios = [other / mine for other, mine in zip(seconds, times["ours"], strict=True)]
        row["sides"][name] = {
            "tokens_per_s": round(n_tokens / statistics.median(seconds), 2),
            "lowest": round(n_tokens / max(seconds), 2),
            "highest": round(n_tokens / min(seconds), 2),
            "time_over_ours": round(statistics.median(ratios), 3),
            "time_over_ours_by_round": [round(ratio, 3) for ratio in ratios],
        }
    print(row, file=sys.stderr)
    return row


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--llama-python", type=click.Path(path_type=Path), help="interpreter that has llama-cpp-python")
@click.option("--gguf", type=click.Path(path_type=Path), help="folder of random_gguf.py")
@click.option("--prefill", default=512, show_default=True, help="tokens of a prefill")
@click.option("--steps", default=32, show_default=True, help="tokens decoded in a round")
@click.option("--rounds", default=5, show_default=True, help="in which each takes its turn once")
@click.option("--threads", default=len(os.sched_getaffinity(0)), show_default=True)
def main(
    bundle: Path, llama_python: Path | None, gguf: Path | None, prefill: int, steps: int, rounds: int, threads: int
) -> None:
    """Compare the language model of BUNDLE with the peers that are installed."""
    manifest = read_manifest(bundle)
    language, library = manifest.config.language, library_path()
    with LimitsMeter(threads) as meter:
        limits = [meter.measure()]
    ours = Ours(bundle, manifest, threads)
    peers, states = start_peers(llama_python, gguf, threads)
    try:
        sides: dict[str, Side] = {"ours": ours, **peers}
        rows = [compare(sides, "step", steps, rounds), compare(sides, "prefill", prefill, rounds)]
    finally:
        for peer in peers.values():
            peer.close()
    with LimitsMeter(threads) as meter:
        limits.append(meter.measure())
    result = {
        "model": f"RWKV-{language.version}, {language.n_layers} layers of {language.width}, {manifest.precision}",
        "threads": threads,
        "level": chosen_level(library) if library else "functions",
        "rounds": rounds,
        "peers": states,
        "limits": [vars(found) for found in limits],
        "peak_rss_mib": {name: side.peak_rss_mib for name, side in sides.items()},
        "runs": rows,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
