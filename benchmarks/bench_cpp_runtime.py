r"""The C++ runtime beside the Python one on the same bundle: frames and answer tokens, in processes that take turns.

    python testbed/full_size.py build/released --layout released --language rwkv6-1b6 --dtype fp16
    aurora-export build build/released --out build/full_size/int8.aurora --precision int8
    make cpp
    python benchmarks/record.py cpp_runtime -- python benchmarks/bench_cpp_runtime.py build/full_size/int8.aurora

Both watch the same number of frames of noise and answer at a temperature that makes every token about as likely, so
that answers are as long as they may be. A round is one process of each. With the program come what a frame takes by the
call for several, its size, the time to open the testbed's bundle, and what a session costs beside its engine.
Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np

from aurora_export.runtime.session import Aurora
from aurora_export.sampling import SamplingOptions

ROOT = Path(__file__).resolve().parent.parent
SIZE = (480, 640, 3)
QUESTION = "What happens?"
N_OPENED = 9


def python_side(bundle: Path, n_frames: int, n_tokens: int, threads: int | None) -> dict[str, Any]:
    """As `aurora-run --bench`, by the Python runtime."""
    pixels = np.random.default_rng(1).integers(0, 256, SIZE, np.uint8)
    with Aurora.open(bundle, threads=threads, verify=False) as aurora:
        aurora.watch([pixels])
        seconds = []
        for _ in range(n_frames):
            began = time.perf_counter()
            aurora.watch([pixels])
            seconds.append(time.perf_counter() - began)
        list(aurora.ask(QUESTION, options=SamplingOptions(temperature=1000), max_tokens=4))
        before, made, seed = aurora.stats.seconds["answer"], 0, 1
        while made < n_tokens:
            already = aurora.stats.n_answer_tokens
            list(aurora.ask(QUESTION, options=SamplingOptions(temperature=1000, seed=seed), max_tokens=n_tokens - made))
            made, seed = made + aurora.stats.n_answer_tokens - already, seed + 1
        answer_s = aurora.stats.seconds["answer"] - before
    return {"frame_ms": 1000 * statistics.median(seconds), "token_ms": 1000 * answer_s / made}


def child(command: list[object], environment: dict[str, str]) -> dict[str, Any]:
    """What a program prints as JSON."""
    found = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, check=True, env=environment)
    return json.loads(found.stdout)


def stripped_bytes(library: Path) -> int:
    """Size of a library without its symbols."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, library.name)
        subprocess.run(["strip", "-o", copy, library], check=True)
        return copy.stat().st_size


def costs(build: Path, environment: dict[str, str]) -> dict[str, float]:
    """What aurora_costs says of a token: allocations, and microseconds beside the engine."""
    text = subprocess.run(
        [build / "tests/aurora_costs"], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    names = {"allocations_a_token": r"allocations of a token: ([\d.]+)", "token_us": r"beside the engine: ([\d.]+)"}
    return {name: float(re.search(pattern, text.stdout).group(1)) for name, pattern in names.items()}  # type: ignore[union-attr]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--testbed", type=click.Path(path_type=Path), default=ROOT / "build/testbed.aurora", show_default=True)
@click.option("--build", type=click.Path(path_type=Path), default=ROOT / "build/cpp", show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--frames", default=4, show_default=True)
@click.option("--tokens", default=48, show_default=True)
@click.option("--threads", type=int, default=None, help="of one operator; without it the engine chooses")
@click.option("--python-side", "is_child", is_flag=True, hidden=True)
def main(
    *,
    bundle: Path,
    testbed: Path,
    build: Path,
    rounds: int,
    frames: int,
    tokens: int,
    threads: int | None,
    is_child: bool,
) -> None:
    """Measure and print."""
    if is_child:
        print(json.dumps(python_side(bundle, frames, tokens, threads)))
        return
    spec = find_spec("onnxruntime")
    assert spec is not None and spec.submodule_search_locations
    library = next(Path(spec.submodule_search_locations[0], "capi").glob("libonnxruntime.so.*"))
    environment = {**os.environ, "AURORA_ONNXRUNTIME": str(library), "AURORA_TEST_BUNDLE": str(testbed)}
    program = build / "examples/aurora-run"
    numbers = ["--threads", str(threads)] if threads else []
    plan = ["--bench-frames", frames, "--bench-tokens", tokens, *numbers, "--skip-verification"]
    sides: dict[str, list[object]] = {
        "cpp": [program, bundle, "--bench", *plan],
        "python": [sys.executable, __file__, bundle, "--python-side", "--frames", frames, "--tokens", tokens, *numbers],
    }
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for i in range(rounds):
        for side in list(sides)[:: 1 if i % 2 == 0 else -1]:  # each is first as often
            click.echo(f"round {i + 1} of {rounds}: {side}", err=True)
            found[side].append(child(sides[side], environment))
    rows = []
    for unit in ("frame", "token"):
        times = {side: [run[f"{unit}_ms"] for run in runs] for side, runs in found.items()}
        ratios = [python / cpp for python, cpp in zip(times["python"], times["cpp"], strict=True)]
        rows.append(
            {
                "unit": unit,
                **{f"{side}_ms": round(statistics.median(values), 3) for side, values in times.items()},
                "python_over_cpp": round(statistics.median(ratios), 3),
                "python_over_cpp_range": [round(min(ratios), 3), round(max(ratios), 3)],
            }
        )
    opened = [
        child([program, testbed, "--bench", "--bench-frames", 0, "--bench-tokens", 0], environment)["open_ms"]
        for _ in range(N_OPENED)
    ]
    result = {
        "model": found["cpp"][0]["model"]["name"],
        "engine": found["cpp"][0]["model"]["engine"],
        "threads": threads,
        "rounds": rounds,
        "frames_a_round": frames,
        "tokens_a_round": tokens,
        "rows": rows,
        "frame_together_ms": round(statistics.median(run["frame_together_ms"] for run in found["cpp"]), 3),
        "frame_over_together": round(
            statistics.median(run["frame_ms"] / run["frame_together_ms"] for run in found["cpp"]), 3
        ),
        "library_bytes": stripped_bytes(build / "libaurora.so"),
        "open_testbed_ms": round(statistics.median(opened), 1),
        **costs(build, environment),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
