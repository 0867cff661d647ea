"""Engines that the TensorRT stand-in opens, put into a bundle without a builder: each is the bundle's own graph."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from aurora_export.contract import GraphSpec
from aurora_export.manifest import EngineVariant, digest_files, read_manifest, resolve, write_manifest

PROFILES = {
    "vision": ({"F": (1, 1, 2)},),
    "language": ({"B": (1, 1, 1), "T": (1, 1, 1)}, {"B": (1, 1, 1), "T": (1, 256, 256)}),
}


def shapes(spec: GraphSpec, profile: dict[str, tuple[int, int, int]]) -> dict[str, list[list[int]]]:
    ends = [{letter: sizes[i] for letter, sizes in profile.items()} for i in range(3)]
    return {tensor.name: [list(tensor.resolve(**sizes)) for sizes in ends] for tensor in spec.inputs}


def write_engines(
    bundle: Path,
    *,
    target: str = "orin",
    version: str = "10.3.0",
    gpu: str = "Orin",
    capability: str = "8.7",
    compatible: tuple[str, ...] = (),
    package: str = "tensorrt",
) -> Path:
    """Put engines for a target into a bundle."""
    manifest = read_manifest(bundle)
    folder = bundle / "engines" / target
    folder.mkdir(parents=True)
    for graph, spec in manifest.contract.items():
        described = {
            "version": version,
            "flags": ["VERSION_COMPATIBLE"] if "version" in compatible else [],
            "profiles": [shapes(spec, profile) for profile in PROFILES[graph]],
            "plugins": [],
        }
        model = onnx.load(resolve(bundle, manifest, graph))
        (folder / f"{graph}.engine").write_bytes(json.dumps(described).encode() + b"\n" + model.SerializeToString())
    variant = EngineVariant(
        files={graph: f"engines/{target}/{graph}.engine" for graph in manifest.contract},
        builder={package: version},
        compute_capabilities=(capability,),
        profiles=PROFILES,
        gpu=gpu,
        compatible=compatible,
    )
    engines = {**manifest.engines, target: variant}
    write_manifest(bundle, manifest.model_copy(update={"engines": engines, "digests": digest_files(bundle)}))
    return bundle
