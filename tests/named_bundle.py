"""A bundle written by hand whose products stand under the names of real layers: no torch, and a pass takes no time."""

from __future__ import annotations

from pathlib import Path

import onnx

from handmade_bundle import FILES, rewrite_manifest, write_bundle

RENAMED = {
    "vision": {"projection": "projector.model.0.weight.transposed"},
    "language": {
        "head_of_shift": "language.blocks.0.ffn.key.weight.transposed",
        "head_of_wkv": "language.head.weight.transposed",
    },
}
SITES = {"vision": ["projector.fc1"], "language": ["language.0.ffn.k", "language.head"]}


def write_named_bundle(folder: Path, *, seed: int = 0) -> Path:
    """A handmade bundle with SITES; `next_ffn_shift` stands for the residual stream."""
    write_bundle(folder, seed=seed)
    for graph, names in RENAMED.items():
        model = onnx.load(folder / FILES[graph])
        for tensor in model.graph.initializer:
            tensor.name = names.get(tensor.name, tensor.name)
        for node in model.graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
        onnx.save(model, folder / FILES[graph])
    rewrite_manifest(folder, layer_outputs={"vision": [], "language": ["next_ffn_shift"]})
    return folder
