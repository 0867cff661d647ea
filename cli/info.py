"""aurora-export info: print what a bundle's manifest, or the header of a state file, says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aurora_export.cli.measured import lines_of
from aurora_export.cli.options import size_text, time_text
from aurora_export.cli.program import Subcommand

if TYPE_CHECKING:
    from aurora_export.contract import TensorSpec
    from aurora_export.manifest import Manifest, Quantization
    from aurora_export.runtime.state import StateFile
    from aurora_export.runtime.timeline import Checkpoint

PLAIN_WIDTH = 160
"""Columns where stdout is no terminal: a digest is not broken into two lines."""

_OF_A_BLOCK = re.compile(r"([^.]+\.)([0-9]{1,6})(\..+)")
"""A group of layers: before the number of its block, the number, after it."""


@click.command("info", cls=Subcommand)
@click.argument("path", type=click.Path(path_type=Path), metavar="BUNDLE|FILE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info_command(*, path: Path, as_json: bool) -> None:
    """Show what a BUNDLE or a state FILE is.

    Of a bundle: model, settings, graphs, files, measured errors; no file but the manifest is read. Of a state: what it
    has seen, which model it belongs to, its checkpoints; nothing but the headers is read, and no bundle is needed.
    """
    if path.is_file():
        _show_state(path, as_json=as_json)
        return
    from aurora_export.manifest import read_manifest

    manifest = read_manifest(path)
    if as_json:
        click.echo(manifest.model_dump_json(indent=2))
    else:
        _print_tables(_sections(manifest))


def _show_state(path: Path, *, as_json: bool) -> None:
    from aurora_export.runtime.state import read_state_header
    from aurora_export.runtime.timeline import Timeline

    file = read_state_header(path)
    checkpoints = Timeline.beside(path).checkpoints()
    if as_json:
        found = {
            **file.header.model_dump(),
            "encoding": file.encoding,
            "n_bytes": file.n_bytes,
            "checkpoints": [{"time_s": entry.time_s, "n_bytes": entry.n_bytes} for entry in checkpoints],
        }
        # ASCII: control characters of a stranger's file stay escaped.
        click.echo(json.dumps(found, indent=2))
    else:
        _print_tables(_state_sections(path, file, checkpoints))


def _print_tables(sections: Iterable[tuple[str, list[tuple[str, str]]]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    for title, rows in sections:
        shown = Text(_printable(title), "bold")
        table = Table(box=box.SIMPLE, show_header=False, title=shown, title_justify="left")
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for key, value in rows:
            table.add_row(Text(_printable(key)), Text(_printable(value)))
        console.print(table)


def _printable(text: str) -> str:
    """Control characters of a stranger's file must not reach the terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _state_sections(
    path: Path, file: StateFile, checkpoints: Sequence[Checkpoint]
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    header = file.header
    rows = {
        "seen": f"{header.frames_seen} frames, {header.tokens_seen} tokens, up to {time_text(header.position_s)}",
        "phase": header.phase,
        "frames chosen": header.sampling,
        "prompt form": header.prompt_form,
        "primed for": header.primed_for,
        "model": header.fingerprint,
        "precision": header.precision,
        "made on": header.backend,
        "video digest": header.video_digest,
        "continues": header.parent_digest,
        "format": f"{header.format_version}, {file.encoding}",
        "size": size_text(file.n_bytes),
    }
    yield str(path), [(key, value) for key, value in rows.items() if value is not None]
    if checkpoints:
        listed = [(time_text(entry.time_s), size_text(entry.n_bytes)) for entry in checkpoints]
        total = size_text(sum(entry.n_bytes for entry in checkpoints))
        yield "checkpoints", [*listed, ("all", f"{len(checkpoints)}, {total}")]


def _sections(manifest: Manifest) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Titles, each with its rows of name and value."""
    config = manifest.config
    head = {
        "created": manifest.created,
        "format": manifest.schema_version,
        "fingerprint": manifest.fingerprint,
        "precision": manifest.precision,
        "profile": config.profile,
        "tokens per frame": f"{config.tokens_per_frame} of {config.vision.n_patches} patches",
        "operators here": _operators_here(),
        "size": f"{sum(entry.size for entry in manifest.digests.values()) / 1e6:.1f} MB",
    }
    if pages := [path for path in manifest.digests if path.startswith("reports/") and path.endswith(".html")]:
        head["accuracy report"] = ", ".join(pages)
    yield manifest.name, list(head.items())
    yield "checkpoint", list(manifest.source.items())
    for section in ("vision", "merge", "frames", "projector", "language", "prompt"):
        values = getattr(config, section).model_dump()
        yield section, [(key, repr(value) if isinstance(value, str) else str(value)) for key, value in values.items()]
    for name, spec in manifest.contract.items():
        rows = [(f"→ {tensor.name}", _tensor_text(tensor)) for tensor in spec.inputs]
        yield f"graph {name}", rows + [(f"  {tensor.name} →", _tensor_text(tensor)) for tensor in spec.outputs]
    yield "files", [(path, f"{entry.size:>12}  {entry.sha256}") for path, entry in manifest.digests.items()]
    for target, variant in manifest.engines.items():
        versions = [f"{package} {version}" for package, version in variant.builder.items()]
        rows = [("compute capability", ", ".join(variant.compute_capabilities)), ("built with", ", ".join(versions))]
        yield f"engines for {target}", rows + list(variant.files.items())
    if manifest.quantization is not None:
        yield "quantization", list(_quantization_rows(manifest.quantization))
    yield "errors against the reference", [("", line) for line in lines_of(manifest.verification)]
    yield "built with", list(manifest.tools.items())


def _quantization_rows(found: Quantization) -> Iterator[tuple[str, str]]:
    yield "ranges chosen by", found.method
    yield "quantized", ", ".join(_by_kind(found.groups)) or "nothing"
    yield "left in float", ", ".join(_by_kind(found.kept)) or "nothing"
    yield "all else computes in", found.rest
    yield (
        "weights rounded",
        "with error feedback, where moments are known" if found.error_feedback else "to the nearest",
    )
    yield "residual stream on the clips", f"up to {found.residual_maximum:g}"


def _by_kind(groups: Iterable[str]) -> list[str]:
    """Groups of layers as a person reads them: `language.0-23.att.r` for that of every block."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for group in groups:
        if match := _OF_A_BLOCK.fullmatch(group):
            kinds.setdefault((match[1], match[3]), []).append(int(match[2]))
        else:
            kinds[group, ""] = []
    return [before + _spans(blocks) + after for (before, after), blocks in kinds.items()]


def _spans(numbers: Sequence[int]) -> str:
    """`0-3,5` of 0, 1, 2, 3, 5."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def _operators_here() -> str:
    """What the language graph would run on, on this machine's CPU."""
    from aurora_export.plugins.cpu import chosen_level, library_path

    path = library_path()
    if path is None:
        return "functions of the graph (slower); `aurora-export doctor` says why"
    try:
        return f"native, {chosen_level(path)}"
    except (OSError, ValueError) as error:
        return f"native, not usable: {error}"


def _tensor_text(tensor: TensorSpec) -> str:
    return f"{tensor.dtype} [{', '.join(str(size) for size in tensor.shape)}]"
