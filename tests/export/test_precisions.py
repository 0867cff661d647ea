"""Whole bundles in fewer than 32 bits: built, verified, opened, compared layer by layer, and asked."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from aurora_export.errors import AccuracyError
from aurora_export.export import bundle as bundle_module
from aurora_export.export.bundle import build_bundle, estimated_bytes
from aurora_export.export.comparison import LIMITS
from aurora_export.export.half_precision import overflow_fold
from aurora_export.export.layers import SHARE_ALIKE, _difference, compare_layers
from aurora_export.export.verify import verify_bundle
from aurora_export.manifest import read_manifest
from aurora_export.runtime.session import Aurora


@pytest.fixture(scope="module", params=["fp16", "int8", "int4"])
def narrow(request, built6, tmp_path_factory):
    """A bundle of the RWKV-6 model in another precision."""
    path = tmp_path_factory.mktemp(request.param) / "narrow.aurora"
    build_bundle(built6.loaded, path, precision=request.param)
    return path


def test_build_is_verified_and_opens(narrow, built6):
    manifest = read_manifest(narrow)
    verification = verify_bundle(narrow, built6.model)
    assert verification == manifest.verification
    assert {"logits", "next_wkv", "embeddings", "merging", "token_sizes"} <= set(verification.outputs)
    for name, measured in verification.outputs.items():
        assert measured.error <= LIMITS[manifest.precision][name]
    assert verification.outputs["logits"].error > 1e-5, "the graphs compute in fewer bits"
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    with Aurora.open(narrow) as aurora:
        aurora.watch(frames)
        assert len(list(aurora.generate_ids("What is it?", max_tokens=3))) <= 3
        assert aurora.state.header.precision == manifest.precision


def test_size_is_what_the_precision_promises(narrow, built6):
    manifest = read_manifest(narrow)
    written = sum(entry.size for entry in manifest.digests.values())
    assert written < sum(entry.size for entry in built6.manifest.digests.values())
    estimate = estimated_bytes(built6.model, manifest.precision)
    assert written < estimate < written + 2 * bundle_module.SLACK_BYTES


def test_layers_agree(narrow, built6):
    manifest, rows = read_manifest(narrow), compare_layers(narrow, built6.model)
    assert not any(row.differs for row in rows), rows
    for row in rows:
        assert (row.set_error is None) == (not row.name.startswith("vis"))
    expected = overflow_fold(built6.model.config.language.n_layers) if manifest.precision == "fp16" else 1
    assert manifest.residual_divisor == expected


def test_divided_residual_stream_is_compared_at_its_own_scale(built6, tmp_path, monkeypatch):
    """Two layers are not divided by themselves; a divisor of 8 that the graph has and the manifest says."""
    monkeypatch.setattr("aurora_export.export.onnx_from_torch.overflow_fold", lambda _n_layers: 8)
    manifest = build_bundle(built6.loaded, tmp_path / "folded.aurora", precision="fp16")
    assert manifest.residual_divisor == 8
    assert not any(row.differs for row in compare_layers(tmp_path / "folded.aurora", built6.model))


@pytest.mark.parametrize(
    ("tensor", "first"),
    [
        ("vision.encoder.layers.1.layer_norm2.bias", "vision.layers.1"),
        ("language.blocks.1.ln1.bias", "language.layers.1"),
    ],
)
def test_first_layer_that_differs_is_where_the_fault_was_planted(narrow, built6, tmp_path, tensor, first):
    copy = tmp_path / "copy.aurora"
    build = read_manifest(narrow)
    copy.mkdir()
    for relative in (*build.digests, "manifest.json"):
        (copy / relative).parent.mkdir(exist_ok=True)
        (copy / relative).write_bytes((narrow / relative).read_bytes())
    path = copy / f"onnx/{tensor.partition('.')[0]}.onnx"
    model = onnx.load(path)
    (value,) = [value for value in model.graph.initializer if value.name == tensor]
    array = onnx.numpy_helper.to_array(value)
    value.CopyFrom(onnx.numpy_helper.from_array((array + 3).astype(array.dtype), tensor))
    onnx.save(model, path)
    rows = compare_layers(copy, built6.model)
    assert next(row.name for row in rows if row.differs) == first
    with pytest.raises(AccuracyError):
        verify_bundle(copy, built6.model)


def test_tokens_are_compared_as_a_set():
    """Half of the tokens hold other patches and all stand elsewhere: no difference. All are wrong: one."""
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(2, 40, 8)).astype(np.float32)
    actual = expected[:, ::-1].copy()
    actual[:, :20] = rng.normal(size=(2, 20, 8))
    row = _difference("vision.layers.0", actual, expected, limit=0.02, as_sets=True)
    assert (row.set_error, row.differs) == (0, False)
    assert row.relative_error > 0.5
    assert row.n_moved == 2 * 20
    wrong = _difference("vision.layers.0", actual + 0.2, expected, limit=0.02, as_sets=True)
    assert wrong.differs
    by_position = _difference("vision.layers.0", actual, expected, limit=0.02, as_sets=False)
    assert by_position.differs
    assert SHARE_ALIKE < 0.5


def test_numbers_that_are_none_differ_as_a_set_too():
    expected = np.ones((1, 4, 2), np.float32)
    actual = expected.copy()
    actual[0, 0, 0] = np.nan
    assert _difference("vision.layers.0", actual, expected, limit=0.1, as_sets=True).differs
