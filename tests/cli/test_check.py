from __future__ import annotations

import json
import subprocess
import sys

import onnx
import pytest
from onnx import numpy_helper

from aurora_export.manifest import read_manifest
from handmade_bundle import FILES, rewrite_manifest


@pytest.fixture
def changed(bundle_copy):
    """A bundle whose language graph has another weight, with digests that agree."""
    path = bundle_copy / FILES["language"]
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "most":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.01, "most"))
    onnx.save(model, path)
    rewrite_manifest(bundle_copy)
    return bundle_copy


def test_pass(bundle, invoke):
    result = invoke("check", bundle)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "self-check:"
    assert all(line.startswith("  ok  ") for line in lines[1:-2])
    assert lines[-1] == "PASS"


def test_fail_of_accuracy(changed, invoke):
    result = invoke("check", changed)
    assert result.exit_code == 5
    assert result.stdout.splitlines()[-1] == "FAIL"
    assert "  OVER next_wkv: " in result.stdout
    assert "  ok   next_att_shift: " in result.stdout


def test_one_json_object(bundle, changed, invoke):
    report = json.loads(invoke("check", bundle, "--json").stdout)
    assert report["passed"] is True
    assert report["fingerprint"] == read_manifest(bundle).fingerprint
    assert report["self-check"]["outputs"]["logits"]["error"] <= report["self-check"]["outputs"]["logits"]["limit"]
    result = invoke("check", changed, "--json")
    assert result.exit_code == 5
    assert json.loads(result.stdout)["passed"] is False


def test_fail_of_integrity(bundle_copy, invoke):
    path = bundle_copy / FILES["embeddings"]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    result = invoke("check", bundle_copy)
    assert result.exit_code == 4
    assert result.stdout == "FAIL\n"
    assert f"error: {path}: SHA-256 is " in result.stderr


def test_a_self_check_that_is_none(bundle_copy, invoke):
    (bundle_copy / FILES["selfcheck"]).write_bytes(b"nothing")
    rewrite_manifest(bundle_copy)
    result = invoke("check", bundle_copy)
    assert (result.exit_code, result.stdout) == (4, "FAIL\n")
    assert "not a self-check" in result.stderr


def test_layers_need_a_reference(bundle, refused):
    assert refused("check", bundle, "--layers") == ("--layers compares with a reference", 2)


def test_needs_no_torch(bundle):
    """The self-check is for machines that only run bundles."""
    program = """
import sys
sys.modules.update(torch=None, onnx=None, onnxscript=None)
from aurora_export.cli import main
main(sys.argv[1:])
"""
    process = subprocess.run(
        [sys.executable, "-c", program, "check", str(bundle)], capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stdout.splitlines()[-1]) == (0, "PASS"), process.stderr
