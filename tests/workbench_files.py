"""A bundle with layers, scales of it, and questions: what a sensitivity table is made from."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from aurora_export.calibration.scales_file import (
    FORMAT,
    Data,
    Residual,
    Scales,
    TensorRange,
    graph_digest,
    write_scales,
)
from aurora_export.calibration.sites import find_sites
from aurora_export.manifest import read_manifest, resolve
from handmade_bundle import rewrite_manifest
from named_bundle import write_named_bundle
from question_files import write_questions


def write_workbench(folder: Path, *, end: float = 4.0) -> tuple[Path, Path, Path]:
    """Write a bundle, scales that keep nothing, and questions without answers; returns their paths.

    end: of all codes; a small one cuts off most of every activation.
    """
    bundle = write_named_bundle(folder / "fp32.aurora")
    manifest = read_manifest(bundle)
    for graph in ("vision", "language"):
        path = resolve(bundle, manifest, graph)
        onnx.save(onnx.shape_inference.infer_shapes(onnx.load(path)), path)
    rewrite_manifest(bundle)
    models = {graph: ir.load(resolve(bundle, manifest, graph)) for graph in ("vision", "language")}
    names = [name for model in models.values() for name in find_sites(model.graph)]
    scales = Scales(
        format=FORMAT,
        graphs={graph: graph_digest(model) for graph, model in models.items()},
        data=Data(digest="0" * 64, clips=2, frames=2, tokens=2, steps=2),
        method="max",
        residual=Residual(maximum=1, divisor=1),
        tensors={name: TensorRange(int8=end, fp8=end, maximum=end) for name in names},
    )
    write_scales(scales, folder / "scales.json")
    return bundle, folder / "scales.json", write_questions(folder, n_videos=2, answer=None)
