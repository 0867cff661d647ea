"""The graphs that `--keep-graphs` keeps, through the Polygraphy commands that docs/DEVICES.md gives."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from aurora_export.export.engine_graph import write_plain_graph

pytestmark = pytest.mark.tensorrt

N_TOKENS = 7


def polygraphy(folder: Path, *arguments: object, rtx: bool = False) -> tuple[int, str]:
    """Exit code and everything that it says. It leaves files where it runs, so that is a folder of the test."""
    ran = subprocess.run(
        [sys.executable, Path(sys.executable).with_name("polygraphy"), *map(str, arguments)],
        cwd=folder,
        env=os.environ | ({"POLYGRAPHY_USE_TENSORRT_RTX": "1"} if rtx else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout


@pytest.fixture
def kept(built6, tmp_path) -> Path:
    """The language graph as TensorRT-RTX gets it, with its weights beside it."""
    links, kept = tmp_path / "links", tmp_path / "kept"
    links.mkdir()
    write_plain_graph(built6.path / "onnx/language.onnx", links)
    shutil.copytree(links, kept)
    return kept / "language.onnx"


def test_the_graph_of_an_engine_against_that_of_the_bundle(built6, kept, tmp_path):
    spec = built6.manifest.contract["language"]
    shapes = [f"{tensor.name}:{list(tensor.resolve(B=1, T=N_TOKENS))}" for tensor in spec.inputs]
    inputs, outputs = tmp_path / "inputs.json", tmp_path / "outputs.json"
    source = built6.path / "onnx/language.onnx"
    code, said = polygraphy(
        tmp_path,
        "run",
        source,
        "--onnxrt",
        "--input-shapes",
        *shapes,
        "--save-inputs",
        inputs,
        "--save-outputs",
        outputs,
    )
    assert code == 0, said
    compared = ["--onnxrt", "--load-inputs", inputs, "--load-outputs", outputs, "--atol", "1e-4", "--rtol", "1e-4"]
    code, said = polygraphy(tmp_path, "run", kept, *compared)
    assert code == 0, said
    assert "All outputs matched" in said

    model = onnx.load(kept)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    onnx.save(model, tmp_path / "changed.onnx")
    code, said = polygraphy(tmp_path, "run", tmp_path / "changed.onnx", *compared)
    assert code == 1
    assert "FAILED" in said


def test_what_a_builder_lacks_is_named(kept):
    code, said = polygraphy(kept.parent, "inspect", "capability", kept, rtx=True)
    assert code == 0, said
    assert "Graph is fully supported by TensorRT" in said

    model = onnx.load(kept, load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    node.op_type, node.domain = "Strange", "foreign"
    model.opset_import.append(onnx.helper.make_opsetid("foreign", 1))
    onnx.save(model, kept)
    _, said = polygraphy(kept.parent, "inspect", "capability", kept, rtx=True)
    assert "Strange" in said
    assert "Graph is fully supported" not in said
