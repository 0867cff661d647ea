"""aurora-export bench: how fast a bundle is on this machine, and how near to what the machine can do."""

from __future__ import annotations

import csv
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurora_export.cli.options import ahead_option
from aurora_export.cli.program import Subcommand
from aurora_export.errors import UsageError
from aurora_export.runtime.device import CHOICE

if TYPE_CHECKING:
    from aurora_export.runtime.opened_bundle import OpenedBundle

_log = logging.getLogger(__name__)

FORMATS = ("md", "csv", "json", "jsonl")
MD_COLUMNS = {
    "model": "model",
    "operators": "operators",
    "threads": "threads",
    "test": "test",
    "depth": "depth",
    "rate": "rate",
    "ms": "ms",
    "range": "lowest to highest",
    "reached": "reached",
    "limit": "of the limit",
}


class Numbers(click.ParamType):
    """One whole number, or several with commas between them."""

    name = "N[,N...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """`4,8` to (4, 8)."""
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no whole number, and no list of them such as 64,512", param, ctx)


@click.command("bench", cls=Subcommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-p", "--n-prompt", type=Numbers(), default="512", show_default=True, help="Tokens of a prefill.")
@click.option("-n", "--n-gen", type=Numbers(), default="128", show_default=True, help="Tokens to decode.")
@click.option("-d", "--depth", type=Numbers(), default="0", show_default=True, help="Tokens that were read before.")
@click.option("--frames", type=Numbers(), default="4", show_default=True, help="Frames of a video; 0: no vision.")
@click.option("--video", type=click.Path(path_type=Path), help="A clip to watch instead of one that is made here.")
@click.option("-r", "--repetitions", type=int, default=5, show_default=True, help="Of each row, after a warm-up.")
@click.option("-t", "--threads", type=int, help="CPU threads.  [default: one per core]")
@ahead_option
@click.option("--device", default="cpu", show_default=True, help=f"Where to run: {CHOICE}.")
@click.option("-o", "--output", type=click.Choice(FORMATS), default="md", show_default=True, help="Format of the rows.")
def bench_command(
    *,
    bundle: Path,
    n_prompt: tuple[int, ...],
    n_gen: tuple[int, ...],
    depth: tuple[int, ...],
    frames: tuple[int, ...],
    video: Path | None,
    repetitions: int,
    threads: int | None,
    n_ahead: int | None,
    device: str,
    output: str,
) -> None:
    """Measure BUNDLE on this machine: tokenizer, vision, prefill, step, and a video from file to state.

    Each row has the median time of a token or frame, the lowest and the highest. On a CPU a step is held against plain
    reads of memory, vision and prefill against products in registers (8-bit ones for int8 and int4); both are measured
    in the same run. Several numbers, such as 64,512, make a row each, and 0 none. A row goes to stdout when it is done;
    json is one list at the end.
    """
    from aurora_export.cli.progress import Progress
    from aurora_export.runtime.bench import Plan, measure
    from aurora_export.runtime.cores import n_usable_cores
    from aurora_export.runtime.opened_bundle import open_bundle

    plan = Plan(n_prompt, n_gen, depth, frames, repetitions)
    if video is not None and not video.is_file():
        raise UsageError(f"{video}: no such file")
    n_threads = threads or n_usable_cores()
    with Progress() as progress:
        progress.phase("open the bundle")
        opened = open_bundle(bundle, device=device, threads=threads, n_ahead=n_ahead)
        environment = _environment(opened, n_threads)
        eight_bit = opened.manifest.precision in ("int8", "int4")
        write = _writer(output)
        rows = []
        for row in measure(opened, plan, n_threads=n_threads, video=video, say=progress.phase):
            figures = row.figures(eight_bit=eight_bit)
            if not opened.language.backend.endswith("-cpu"):
                figures |= dict.fromkeys((name for name in figures if name.startswith(("limit", "share"))), None)
            rows.append({**environment, **figures, "resident_mib": _resident_mib()})
            write(rows[-1])
    if output == "json":
        click.echo(json.dumps(rows, indent=2))


def _writer(output: str) -> Callable[[dict[str, Any]], None]:
    """A function that prints one row; the first one with the head of its format."""
    head = iter([True])
    writer = csv.writer(sys.stdout, lineterminator="\n")

    def write(row: dict[str, Any]) -> None:
        is_first = next(head, False)
        if output == "jsonl":
            click.echo(json.dumps(row))
        elif output == "csv":
            if is_first:
                writer.writerow(row)
            writer.writerow(row.values())
            sys.stdout.flush()
        elif output == "md":
            if is_first:
                click.echo("\n".join(_md_head(row)))
            cells = _md_cells(row)
            click.echo(f"| {' | '.join(cells[column] for column in MD_COLUMNS)} |")

    return write


def _md_head(row: dict[str, Any]) -> Iterator[str]:
    """What is the same in all rows, then the head of the table."""
    yield f"{row['cpu']}, {row['cores']} cores, {row['memory_gib']} GiB; {row['system']}"
    yield f"aurora-export {row['aurora_export']}, {row['backend']} {row['onnxruntime']}, {row['date']}"
    yield ""
    yield f"| {' | '.join(MD_COLUMNS.values())} |"
    yield f"|{' --- |' * len(MD_COLUMNS)}"


def _md_cells(row: dict[str, Any]) -> dict[str, str]:
    reached = limit = ""
    if row["read_gb_per_s"]:
        reached = f"{row['read_gb_per_s']:.1f} GB/s"
        limit = f"{100 * row['share_of_reads']:.0f} % of {row['limit_read_gb_per_s']:.1f} GB/s"
    elif row["gop_per_s"]:
        reached, limit = f"{row['gop_per_s']:.0f} Gop/s", "not measured"
        if row["share_of_peak"]:
            peak = row["gop_per_s"] / row["share_of_peak"]
            limit = f"{100 * row['share_of_peak']:.0f} % of {peak:.0f} Gop/s"
    elif row["decode_ms"] is not None:
        reached = ", ".join(f"{stage} {row[f'{stage}_ms']:.4g}" for stage in ("decode", "resize", "vision", "prefill"))
    if limit and row["limits_by"] != "native":
        limit += f" ({row['limits_by']})"
    return {
        "model": row["model"],
        "operators": row["operators"],
        "threads": str(row["threads"]),
        "test": row["test"],
        "depth": str(row["depth"]),
        "rate": f"{row['per_s']:.4g} {row['unit']}s/s",
        "ms": f"{row['median_ms']:.4g}",
        "range": f"{row['lowest_ms']:.4g} to {row['highest_ms']:.4g}",
        "reached": reached,
        "limit": limit,
    }


def _environment(opened: OpenedBundle, n_threads: int) -> dict[str, Any]:
    """What every row says of model and machine."""
    import platform
    from datetime import datetime, timezone
    from importlib.metadata import version

    from aurora_export import __version__
    from aurora_export.plugins.cpu import chosen_level, library_path
    from aurora_export.runtime.cores import cpu_name

    manifest, library = opened.manifest, library_path()
    language = manifest.config.language
    return {
        "model": f"RWKV-{language.version} {language.n_layers} x {language.width} {manifest.precision}",
        "bundle": manifest.name,
        "fingerprint": manifest.fingerprint,
        "backend": opened.language.backend,
        "operators": chosen_level(library) if library else "functions",
        "threads": n_threads,
        "n_ahead": opened.n_ahead,
        "aurora_export": __version__,
        "onnxruntime": version("onnxruntime"),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _resident_mib() -> float | None:
    """Memory of this process now, without the buffer that the limits are measured on; None where Linux is not."""
    from aurora_export.runtime.limits import BUFFER_BYTES

    try:
        n_pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    except OSError:
        return None
    return round((n_pages * os.sysconf("SC_PAGE_SIZE") - BUFFER_BYTES) / 2**20, 1)
