r"""Where the time of an int8 bundle goes on a CPU: a frame, a prefill of 92 and of 512 tokens, and a step, by operator.

    python benchmarks/record.py profile -- python benchmarks/bench_profile.py build/full_size/int8.aurora

Times are those of ONNX Runtime's profiler, whose own cost is in `outside_ms`: what a run took beyond its operators.
Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from aurora_export.contract import STATE_NAMES, graphs
from aurora_export.manifest import Manifest, read_manifest
from aurora_export.plugins.cpu import chosen_level, library_path
from aurora_export.runtime.engine_onnx import load_library, register_operators

KERNEL = "_kernel_time"
"""End of the names of events that are the work of an operator."""


def inputs_of(manifest: Manifest, n_tokens: int) -> dict[str, np.ndarray]:
    """Inputs of the language graph for so many tokens; of the vision graph, one frame, for 0."""
    spec, rng = graphs(manifest.config), np.random.default_rng(0)
    if not n_tokens:
        return {"frames": rng.integers(0, 256, spec["vision"]["frames"].resolve(F=1), np.uint8)}
    language = spec["language"]
    embeddings = rng.normal(size=language["embeddings"].resolve(B=1, T=n_tokens)).astype(np.float32)
    return {"embeddings": embeddings} | {
        name: np.zeros(language[name].resolve(B=1), np.float32) for name in STATE_NAMES
    }


def profile(path: Path, inputs: dict[str, np.ndarray], *, threads: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Milliseconds of a run by operator, the median round's; the first run is left out."""
    runtime = load_library()
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    register_operators(options)
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        session.run(names, inputs)
        seconds.append(time.perf_counter() - began)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(KERNEL)]
    n_of_run = len(kernels) // (rounds + 1)
    by_operator: dict[str, list[float]] = defaultdict(lambda: [0.0] * (rounds + 1))
    counts: dict[str, int] = defaultdict(int)
    for i, event in enumerate(kernels):
        by_operator[event["args"]["op_name"]][i // n_of_run] += event["dur"] / 1000
        counts[event["args"]["op_name"]] += 1
    rows = [
        {"operator": name, "n_nodes": counts[name] // (rounds + 1), "ms": round(statistics.median(times[1:]), 3)}
        for name, times in by_operator.items()
    ]
    total = 1000 * statistics.median(seconds[1:])
    inside = sum(row["ms"] for row in rows)
    return {
        "ms": round(total, 2),
        "outside_ms": round(total - inside, 2),
        "operators": sorted(rows, key=lambda row: -row["ms"]),
    }


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--tokens", default="1,92,512", show_default=True, help="tokens of a run; 1 is a step")
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=len(os.sched_getaffinity(0)), show_default=True)
def main(bundle: Path, tokens: str, rounds: int, threads: int) -> None:
    """Profile the graphs of BUNDLE."""
    manifest, library = read_manifest(bundle), library_path()
    work = {"a frame": 0} | {f"{n} tokens" if n > 1 else "a step": n for n in map(int, tokens.split(","))}
    with tempfile.TemporaryDirectory(prefix="aurora-profile-") as folder:
        rows = {
            name: profile(
                bundle / manifest.files["language" if n else "vision"],
                inputs_of(manifest, n),
                threads=threads,
                rounds=rounds,
                folder=Path(folder),
            )
            for name, n in work.items()
        }
    result = {
        "model": f"{manifest.name}, {manifest.precision}",
        "threads": threads,
        "level": chosen_level(library) if library else "functions",
        "work": rows,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
