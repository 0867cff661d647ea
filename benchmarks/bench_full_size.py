"""What a 2B model takes: building, checking and running it, in seconds and in memory.

    python testbed/full_size.py build/released --layout released --language rwkv6-1b6 --dtype fp16
    python benchmarks/bench_full_size.py build/released --work build/full_size --precisions fp32,fp16,int8 --check --run

Each step is a process of its own. Its peak is what the kernel counted (ru_maxrss), which includes pages of mapped
files, and is at least this program's own, about 100 MB. What the system cannot take back is the anonymous part, of
which the highest value seen is kept beside it.
Writes benchmarks/results/full_size_build.json, full_size_check.json and full_size_run.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from environment import ROOT, write_result

from aurora_export.runtime.synthetic_clip import write_clip

SOURCE_FRAMES_PER_SECOND = 2
PROMPT = "Describe the video in detail."
SECONDS_BETWEEN_LOOKS = 0.02
ACCURACY_EXIT_CODE = 5
OPEN = """
import json, sys, time
began = time.monotonic()
from aurora_export.runtime.session import Aurora
imported = time.monotonic()
aurora = Aurora.open(sys.argv[1], verify=sys.argv[2] == "verified")
print(json.dumps({"import_s": round(imported - began, 3), "open_s": round(time.monotonic() - imported, 3)}))
"""
"""Run by a new interpreter: the time to import the runtime, and to open a bundle."""


def measure(command: Sequence[str], *, accepted: tuple[int, ...] = (0,)) -> tuple[dict[str, Any], str]:
    """Run a command to its end. Returns its exit code, seconds and peaks of memory; and what it wrote to stdout.

    Ends the program if the command fails, with the end of what it said.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        began = time.monotonic()
        with subprocess.Popen(command, stdout=out, stderr=errors) as process:
            anonymous, pid = 0, 0
            while not pid:
                anonymous = max(anonymous, _anonymous_bytes(process.pid))
                time.sleep(SECONDS_BETWEEN_LOOKS)
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        out.seek(0)
        errors.seek(0)
        output, said = out.read().decode(), errors.read().decode("utf-8", "replace")
    if process.returncode not in accepted:
        raise SystemExit(f"{said[-2000:]}\n{' '.join(command)} ended with {process.returncode}")
    figures = {
        "exit_code": process.returncode,
        "wall_s": round(seconds, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_rss_mib": round(usage.ru_maxrss / 1024, 1),
        "peak_anonymous_mib": round(anonymous / 2**20, 1),
    }
    return figures, output


def _anonymous_bytes(pid: int) -> int:
    """Memory of a process that no file stands behind; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def aurora_export(*arguments: object) -> list[str]:
    """The command line of a subcommand."""
    return [sys.executable, "-m", "aurora_export", *map(str, arguments)]


def build(checkpoint: Path, bundle: Path, precision: str) -> dict[str, Any]:
    """Build one bundle; figures of the process, its size, times of the phases, errors it was accepted with."""
    figures, _ = measure(aurora_export("build", checkpoint, "--out", bundle, "--precision", precision, "--quiet"))
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    report = json.loads((bundle / "reports/build.json").read_text(encoding="utf-8"))
    return {
        "precision": precision,
        **figures,
        "bundle_bytes": _n_bytes(bundle),
        "phase_seconds": report["phase_seconds"],
        "verification": manifest["verification"],
        "source": manifest["source"],
    }


def check(checkpoint: Path, bundle: Path, precision: str) -> dict[str, Any]:
    """Check one bundle, layers included. A bundle over its limits is a result, too."""
    command = aurora_export("check", bundle, "--reference", checkpoint, "--layers", "--json", "--quiet")
    figures, output = measure(command, accepted=(0, ACCURACY_EXIT_CODE))
    found = json.loads(output)
    layers = found.pop("layers")
    found.pop("fingerprint")
    worst = max(layers, key=lambda layer: layer["relative_error"] / layer["limit"])
    differing = [layer["name"] for layer in layers if layer["differs"]]
    return {
        "precision": precision,
        **figures,
        **found,
        "n_layers": len(layers),
        "layers_over_their_limit": differing,
        "worst_layer": worst,
    }


def open_times(bundle: Path) -> dict[str, Any]:
    """Open a bundle twice with warm file caches: with the digests of its files compared, and without."""
    figures = {}
    measure([sys.executable, "-c", OPEN, str(bundle), "verified"])  # reads all files once
    for kind in ("verified", "unverified"):
        process, output = measure([sys.executable, "-c", OPEN, str(bundle), kind])
        figures[kind] = {**process, **json.loads(output)}
    return figures


def run(bundle: Path, clip: Path, n_frames: int, max_tokens: int) -> dict[str, Any]:
    """Watch a clip and answer; what the random weights say is left out."""
    options = ("--prompt", PROMPT, "--num-frames", n_frames, "--max-tokens", max_tokens, "--json", "--quiet")
    figures, output = measure(aurora_export("run", bundle, clip, *options))
    answer = json.loads(output)
    if answer["n_frames"] != n_frames:
        raise SystemExit(f"{answer['n_frames']} frames were watched, not {n_frames}")
    return {**figures, **{name: value for name, value in answer.items() if name not in ("answer", "prompt")}}


def run_lengths(bundle: Path, lengths: Sequence[int], max_tokens: int) -> list[dict[str, Any]]:
    """Watch clips of growing length, each from a clip with twice as many frames."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for length in lengths:
            clip = Path(folder, f"{length}.mp4")
            write_clip(clip, length, fps=SOURCE_FRAMES_PER_SECOND)
            rows.append(run(bundle, clip, length, max_tokens))
            _say(f"run, {length} frames", rows[-1])
    return rows


def _n_bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _say(what: str, figures: dict[str, Any]) -> None:
    peaks = f"{figures['peak_rss_mib']} MiB at most, {figures['peak_anonymous_mib']} MiB of it anonymous"
    click.echo(f"{what}: {figures['wall_s']} s, {peaks}", err=True)


Step = Callable[[Path, Path, str], dict[str, Any]]
"""of one precision, from checkpoint and bundle"""


def _each(what: str, step: Step, checkpoint: Path, work: Path, names: list[str]) -> list[dict[str, Any]]:
    rows = []
    for name in names:
        rows.append(step(checkpoint, work / f"{name}.aurora", name))
        _say(f"{what}, {name}", rows[-1])
    return rows


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, path_type=Path))
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), required=True, help="folder of the bundles")
@click.option("--precisions", default="fp32,fp16,int8", show_default=True, help="of bundles to build and check")
@click.option("--build/--no-build", "with_build", default=True, show_default=True, help="or take those in --work")
@click.option("--check", "with_check", is_flag=True, help="compare with the checkpoint, layer by layer")
@click.option("--run", "with_run", is_flag=True, help="open a bundle, and answer about clips")
@click.option("--run-precision", default="int8", show_default=True, help="of the bundle that is opened and run")
@click.option("--frames", default="8,64,600", show_default=True, help="frames to watch, fewest first")
@click.option("--max-tokens", default=4, show_default=True, help="of an answer")
def main(
    checkpoint: Path,
    work: Path,
    precisions: str,
    *,
    with_build: bool,
    with_check: bool,
    with_run: bool,
    run_precision: str,
    frames: str,
    max_tokens: int,
) -> None:
    """Measure the bundles of CHECKPOINT, a folder or file: build them, check them, run one."""
    work.mkdir(parents=True, exist_ok=True)
    names = precisions.split(",")
    program = "python benchmarks/bench_full_size.py CHECKPOINT --work DIR"
    command = f"{program} --precisions {precisions}"
    if with_build:
        rows = _each("build", build, checkpoint, work, names)
        sources = [row.pop("source") for row in rows]
        described = {"bytes": _n_bytes(checkpoint), **sources[0]}
        _write("full_size_build", command, {"checkpoint": described, "builds": rows})
    if with_check:
        rows = _each("check", check, checkpoint, work, names)
        _write("full_size_check", f"{command} --no-build --check", {"checks": rows})
    if with_run:
        bundle = work / f"{run_precision}.aurora"
        opened = open_times(bundle)
        _say(f"open, {run_precision}", opened["verified"])
        rows = run_lengths(bundle, [int(entry) for entry in frames.split(",")], max_tokens)
        _write(
            "full_size_run",
            f"{program} --no-build --run --run-precision {run_precision} --frames {frames} --max-tokens {max_tokens}",
            {
                "precision": run_precision,
                "bundle_bytes": _n_bytes(bundle),
                "opened": opened,
                "growth_mib": round(rows[-1]["peak_rss_mib"] - rows[0]["peak_rss_mib"], 1),
                "runs": rows,
            },
        )


def _write(name: str, command: str, result: dict[str, Any]) -> None:
    path = write_result(name, command, result)
    click.echo(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
