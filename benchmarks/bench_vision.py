r"""Time of a frame in the vision graph on a CPU, beside plain ONNX Runtime and OpenVINO, in turns.

    aurora-export build build/released --out build/full_size/int8.aurora --precision int8
    aurora-export build build/released --out build/full_size/fp32.aurora
    python -m venv build/venv-openvino && build/venv-openvino/bin/pip install openvino==2026.4.1
    python benchmarks/record.py vision_speed -- python benchmarks/bench_vision.py build/full_size/int8.aurora \
        --fp32 build/full_size/fp32.aurora --openvino-python build/venv-openvino/bin/python --work build/bench

The graphs of the peers are made of the fp32 bundle's (plain_vision.py). A frame is noise: time does not depend on what
it shows. Several frames at once are measured for ours. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np
from bench_language import without_library
from plain_vision import write

from aurora_export.contract import graphs
from aurora_export.manifest import read_manifest
from aurora_export.plugins.cpu import chosen_level, library_path
from aurora_export.runtime.engine_onnx import OnnxEngine
from aurora_export.runtime.limits import LimitsMeter
from aurora_export.runtime.workload import vision_operations

OURS = "ours, int8"

Run = Callable[[int], float]
"""Seconds of a run of so many frames."""


def on_onnx_runtime(engine: OnnxEngine, side: int) -> Run:
    """A run of an engine; side: of a frame in pixels."""

    def run(n_frames: int) -> float:
        frames = np.random.default_rng(1).integers(0, 256, (n_frames, side, side, 3), np.uint8)
        began = time.perf_counter()
        engine.run({"frames": frames})
        return time.perf_counter() - began

    return run


class OpenVino:
    """peer_openvino.py in its own environment."""

    def __init__(self, python: Path, graph: Path, threads: int) -> None:
        """Raise ValueError if it does not answer."""
        program = Path(__file__).with_name("peer_openvino.py")
        command = [str(python), str(program), str(graph), str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.version, self.precision = self._answer()["version"], ""

    def run(self, n_frames: int) -> float:
        """Seconds of a run; the first one of a number of frames compiles."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{n_frames}\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.precision = answer["precision"]
        return float(answer["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return dict(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def take_turns(runs: dict[str, Run], rounds: int) -> dict[str, Any]:
    """Medians of a frame, and of the ratios to ours within a round."""
    for run in runs.values():
        run(1)  # warm up
        run(1)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(run(1))
    rows = {}
    for name, seconds in times.items():
        ratios = [other / mine for other, mine in zip(seconds, times[OURS], strict=True)]
        rows[name] = {
            "seconds": round(statistics.median(seconds), 4),
            "lowest_s": round(min(seconds), 4),
            "highest_s": round(max(seconds), 4),
            "time_over_native": round(statistics.median(ratios), 3),
            "time_over_native_range": [round(min(ratios), 3), round(max(ratios), 3)],
        }
        print(f"{name}: {rows[name]}", file=sys.stderr)
    return rows


def several_frames(run: Run, counts: list[int], rounds: int) -> list[dict[str, Any]]:
    """Seconds a frame when several are seen at once, and of how much that is to one at a time, in turns."""
    for n in counts:
        run(n)
    times = {n: [] for n in counts}  # type: dict[int, list[float]]
    for _ in range(rounds):
        for n in counts:
            times[n].append(run(n) / n)
    return [
        {
            "n_frames": n,
            "seconds_a_frame": round(statistics.median(seconds), 4),
            "over_one_at_a_time": round(
                statistics.median(many / one for many, one in zip(seconds, times[1], strict=True)), 3
            ),
        }
        for n, seconds in times.items()
    ]


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--fp32", type=click.Path(exists=True, path_type=Path), help="fp32 bundle: ours, and to make the peers of"
)
@click.option("--openvino-python", type=click.Path(exists=True, path_type=Path), help="interpreter that has openvino")
@click.option("--rounds", default=9, show_default=True, help="in which each takes its turn once")
@click.option("--frames", default="1,2,4", show_default=True, help="frames at once, for ours; 1 is among them")
@click.option("--threads", default=len(os.sched_getaffinity(0)), show_default=True)
@click.option("--work", type=click.Path(path_type=Path), help="keep the graphs that are written, for the next run")
def main(
    bundle: Path,
    fp32: Path | None,
    openvino_python: Path | None,
    rounds: int,
    frames: str,
    threads: int,
    work: Path | None,
) -> None:
    """Measure the vision graph of BUNDLE, built with --precision int8."""
    library = library_path()
    if library is None:
        raise click.ClickException("the native library is not there: `aurora-export doctor` says why")
    manifest = read_manifest(bundle)
    spec, side = graphs(manifest.config)["vision"], manifest.config.vision.image_size
    path = bundle / manifest.files["vision"]
    with ExitStack() as stack:
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory(dir=bundle.parent)))
        folder.mkdir(parents=True, exist_ok=True)
        runs = {OURS: on_onnx_runtime(OnnxEngine(path, spec, threads=threads), side)}
        with without_library():
            runs["ONNX Runtime, MatMulNBits"] = on_onnx_runtime(OnnxEngine(path, spec, threads=threads), side)
        peers: dict[str, OpenVino] = {}
        if fp32 is not None:
            source = fp32 / read_manifest(fp32).files["vision"]
            runs["ours, fp32"] = on_onnx_runtime(OnnxEngine(source, spec, threads=threads), side)
            for way in ("dynamic", "compressed"):
                if not (folder / f"vision-{way}.onnx").exists():
                    write(source, way, folder / f"vision-{way}.onnx")
            engine = OnnxEngine(folder / "vision-dynamic.onnx", spec, threads=threads)
            runs["ONNX Runtime, DynamicQuantizeMatMul"] = on_onnx_runtime(engine, side)
            if openvino_python is not None:
                for name, graph in (("float", source), ("int8 weights", folder / "vision-compressed.onnx")):
                    peers[f"OpenVINO, {name}"] = OpenVino(openvino_python, graph, threads)
        for name, peer in peers.items():
            stack.callback(peer.close)
            runs[name] = peer.run
        meter = stack.enter_context(LimitsMeter(threads))
        before = meter.measure()
        rows = take_turns(runs, rounds)
        several = several_frames(runs[OURS], [int(n) for n in frames.split(",")], max(3, rounds // 2))
        limits = before.or_better(meter.measure())
        done = vision_operations(manifest.config) / rows[OURS]["seconds"] / 1e9
        rows[OURS] |= {"gop_per_s": round(done, 1)}
        if limits.int8_gop_per_s:
            rows[OURS]["share_of_int8_peak"] = round(done / limits.int8_gop_per_s, 3)
        vision = manifest.config.vision
        result = {
            "model": f"SigLIP, {vision.layers_used} layers of {vision.width}, {vision.n_patches} patches, "
            f"{manifest.config.tokens_per_frame} tokens left",
            "threads": threads,
            "level": chosen_level(library),
            "openvino": {name: f"{peer.version}, computes in {peer.precision}" for name, peer in peers.items()},
            "rounds": rounds,
            "limits": vars(limits),
            "sides": rows,
            "several_frames": several,
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
