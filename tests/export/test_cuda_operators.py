"""A whole language graph on the CUDA provider's operators, with emulated kernels on the CPU."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from aurora_export.contract import STATE_NAMES
from aurora_export.export.bundle import build_bundle
from aurora_export.manifest import resolve
from aurora_export.model.checkpoint import CheckpointSource, open_checkpoint
from aurora_export.runtime.engine_onnx import OnnxEngine
from emulated_operators import compile_operators


@pytest.fixture(scope="module")
def testbed(root, tmp_path_factory):
    bundle = tmp_path_factory.mktemp("testbed") / "testbed.aurora"
    return bundle, build_bundle(open_checkpoint(CheckpointSource(path=root / "testbed/checkpoint")), bundle)


def test_the_testbeds_language_graph(root, testbed, tmp_path):
    bundle, manifest = testbed
    path, spec = resolve(bundle, manifest, "language"), manifest.contract["language"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(str(compile_operators(root, tmp_path / "libaurora_ort_cuda.so")))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    plain = OnnxEngine(path, spec, threads=1)
    inputs = {tensor.name: np.zeros(tensor.resolve(B=1, T=1), np.float32) for tensor in spec.inputs}
    for n_tokens in (1, 5):
        tokens = np.random.default_rng(n_tokens).normal(size=spec["embeddings"].resolve(B=1, T=n_tokens))
        inputs["embeddings"] = tokens.astype(np.float32)
        ours, expected = session.run(None, inputs), plain.run(inputs)
        for tensor, actual in zip(spec.outputs, ours, strict=True):
            wanted = expected[tensor.name]
            assert np.abs(actual - wanted).max() <= 2e-5 * np.abs(wanted).max()
        inputs |= {name: expected[f"next_{name}"] for name in STATE_NAMES}
