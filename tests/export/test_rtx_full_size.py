"""Engines of a random model of the released size, at its full depth, in TensorRT-RTX: minutes, 7 GB of memory and disk.

pytest -m "tensorrt and slow" tests/export
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aurora_export.export.engine_from_onnx import RTX
from aurora_export.manifest import read_manifest, verify_files

pytestmark = [pytest.mark.tensorrt, pytest.mark.slow]

CAPABILITIES = ("8.6", "8.9")


def test_vision_and_language_build_at_full_size(root, tmp_path):
    checkpoint, bundle = tmp_path / "released", tmp_path / "int8.aurora"
    layout = ("--layout", "released", "--language", "rwkv6-1b6", "--dtype", "fp16")
    program = Path(sys.executable).with_name("aurora-export")
    wanted = [argument for capability in CAPABILITIES for argument in ("--compute-capability", capability)]
    for command in (
        (sys.executable, root / "testbed/full_size.py", checkpoint, *layout),
        (program, "build", checkpoint, "--out", bundle, "--precision", "int8", "--quiet"),
        (program, "build", bundle, "--target", RTX, *wanted, "--quiet"),
    ):
        subprocess.run(command, check=True)
    manifest = read_manifest(bundle)
    verify_files(bundle, manifest)
    assert manifest.config.vision.layers_used == 23
    assert manifest.config.language.n_layers == 24
    variant = manifest.engines[RTX]
    assert variant.compute_capabilities == CAPABILITIES
    weights = {graph: (bundle / f"onnx/{graph}.onnx.data").stat().st_size for graph in variant.files}
    for graph, path in variant.files.items():
        assert manifest.digests[path].size > weights[graph]
