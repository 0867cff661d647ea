"""scales.json: what was measured on clips, for a person to read and edit, and for a build to use.

It belongs to one model and one set of clips, each named by a digest. Ranges are those of activations: `int8` and
`fp8` are where the codes of each type end, by the method; `maximum` is the largest that was seen.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
from pydantic import Field, ValidationError, model_validator

from aurora_export.calibration.sites import Site
from aurora_export.config import Section
from aurora_export.errors import IncompatibleError, IntegrityError, UsageError

FORMAT = 1
MAX_BYTES = 64 * 2**20
HINT = "calibrate again: aurora-export calibrate BUNDLE --data CLIPS --out FILE"


class TensorRange(Section):
    """The activation of one site."""

    int8: float = Field(gt=0, description="where the codes of int8 end")
    fp8: float = Field(gt=0, description="where the codes of fp8 end")
    maximum: float = Field(ge=0, description="largest absolute value")
    dead_channels: int = Field(default=0, ge=0, description="that were zero throughout")
    smoothing: tuple[float, ...] | None = Field(
        default=None, description="by which each channel is divided, the weights that read it multiplied"
    )

    @model_validator(mode="after")
    def _check_smoothing(self) -> TensorRange:
        if self.smoothing is not None and not all(factor > 0 for factor in self.smoothing):
            raise ValueError("smoothing factors must be above 0")
        return self


class Residual(Section):
    """The residual stream of the language model, which float16 must hold."""

    maximum: float = Field(ge=0, description="largest absolute value after any block")
    divisor: int = Field(ge=1, description="power of two that a float16 graph divides it by")

    @model_validator(mode="after")
    def _check_divisor(self) -> Residual:
        if self.divisor & (self.divisor - 1):
            raise ValueError("the divisor must be a power of two")
        return self


class Data(Section):
    """The clips that the ranges are from."""

    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="of clips, prompts and how they were shown")
    clips: int = Field(ge=1)
    frames: int = Field(ge=1)
    tokens: int = Field(ge=0, description="through the language graph in runs of several")
    steps: int = Field(ge=0, description="through the language graph one by one")


class Scales(Section):
    """The whole file."""

    format: int
    graphs: dict[str, str] = Field(description="graph -> digest")
    data: Data
    method: str = Field(description="max, percentile, entropy or mse, with its parameter")
    residual: Residual
    keep: tuple[str, ...] = Field(default=(), description="groups to leave in float, by name or pattern")
    tensors: dict[str, TensorRange]

    def require_graph(self, name: str, digest: str, *, source: str) -> None:
        """Raise IncompatibleError unless these are the scales of a graph of this digest. source: their file."""
        if self.graphs.get(name) != digest:
            raise IncompatibleError(
                f"{source}: is of another model: its {name} graph is {self.graphs.get(name, 'missing')[:12]}, "
                f"this one {digest[:12]}",
                hint=HINT,
            )


def graph_digest(model: ir.Model) -> str:
    """SHA-256 over what a float32 graph computes: nodes, names, and the numbers of the weights, all read once."""
    digest = hashlib.sha256()
    for node in model.graph:
        ends = [[value.name if value is not None else None for value in node.inputs], [v.name for v in node.outputs]]
        digest.update(json.dumps([node.domain, node.op_type, ends]).encode())
        for _, attribute in sorted(node.attributes.items()):
            # As in a file: there numbers are float32.
            digest.update(ir.serde.serialize_attribute(attribute).SerializeToString(deterministic=True))
    for name, value in sorted(model.graph.initializers.items()):
        tensor = value.const_value
        assert tensor is not None
        digest.update(json.dumps([name, tensor.dtype.name, list(tensor.shape.numpy())]).encode())
        digest.update(tensor.tobytes())
        if isinstance(tensor, ir.ExternalTensor):
            tensor.release()  # or the whole file stays mapped, and counts as memory
    return digest.hexdigest()


def read_scales(path: Path) -> Scales:
    """Read and validate a scale file.

    Raises UsageError (no such file), IntegrityError that names the key (no valid file, or edited to nonsense),
    IncompatibleError (of another version).
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file", hint=HINT)
    if path.stat().st_size > MAX_BYTES:
        raise IntegrityError(f"{path}: {path.stat().st_size} bytes, over the limit of {MAX_BYTES}", hint=HINT)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: not valid JSON: {error}", hint=HINT) from error
    if not isinstance(content, dict):
        raise IntegrityError(f"{path}: expected a JSON object, found {type(content).__name__}", hint=HINT)
    if content.get("format") != FORMAT:
        found = content.get("format", "missing")
        raise IncompatibleError(f"{path}: format is {found}; this version reads {FORMAT}", hint=HINT)
    try:
        return Scales.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        what = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise IntegrityError(f"{path}: {where}: {what}", hint=f"mend it, or {HINT}") from error


def write_scales(scales: Scales, path: Path) -> None:
    """Write a scale file, a tensor a line; whole or not at all."""
    content = scales.model_dump(mode="json", exclude_none=True)
    tensors = content.pop("tensors")
    head = json.dumps(content, indent=2)[:-2]
    lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(_short(entry))}" for name, entry in tensors.items())
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(f'{head},\n  "tensors": {{\n{lines}\n  }}\n}}\n', encoding="utf-8")
    partial.replace(path)


def _short(value: Any) -> Any:
    """Numbers with five digits: more is noise, and hard to read."""
    if isinstance(value, dict):
        return {key: _short(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_short(entry) for entry in value]
    return float(f"{value:.5g}") if isinstance(value, float) and math.isfinite(value) else value


def check_scales(scales: Scales, sites: Mapping[str, Site], graph: str, *, source: str) -> None:
    """Refuse what does not fit the sites of a graph: names, widths, patterns of groups to keep.

    graph: `vision` or `language`.  source: the scales' file. Raises IntegrityError.
    """
    hint = f"mend it, or {HINT}"
    of_graph = [name for name in scales.tensors if name.startswith("language.") == (graph == "language")]
    if unknown := [name for name in of_graph if name not in sites]:
        raise IntegrityError(f"{source}: tensors.{unknown[0]}: the {graph} graph has no such tensor", hint=hint)
    for name in of_graph:
        smoothing, n_channels = scales.tensors[name].smoothing, sites[name].n_channels
        if smoothing is not None and len(smoothing) != n_channels:
            raise IntegrityError(
                f"{source}: tensors.{name}.smoothing: {len(smoothing)} factors for {n_channels} channels", hint=hint
            )
