"""Weight-only integers whose errors later inputs make good, and what a build says of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from aurora_export.calibration.moments import Moments, save_moments
from aurora_export.calibration.scales_file import read_scales, write_scales
from aurora_export.errors import IncompatibleError
from aurora_export.export import bundle as bundle_module
from aurora_export.export import onnx_from_torch
from aurora_export.export.bundle import SCALES, build_bundle
from aurora_export.export.feedback_rounding import open_feedback_rounding, round_blocks_with_feedback
from aurora_export.export.rounding import BITS, round_weight
from aurora_export.manifest import read_manifest
from block_linear import dequantized

ZERO = {8: 128, 4: 8}


def correlated(n_rows, n_inputs, seed=0):
    """Inputs that say much about each other, as activations do."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n_rows, 24)) @ rng.normal(size=(24, n_inputs))
    return (shared + 0.1 * rng.normal(size=(n_rows, n_inputs))).astype(np.float32)


def stands_for(codes, scales, bits, n_columns):
    blocks = (codes.astype(np.float32) - ZERO[bits]) * scales.reshape(*codes.shape[:2], 1)
    return blocks.reshape(len(codes), -1)[:, :n_columns]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("n_inputs", "block_size"), [(320, 64), (300, 128), (520, 256), (100, 16)])
def test_outputs_are_nearer_than_by_rounding_each_weight(bits, n_inputs, block_size):
    x = correlated(2000, n_inputs)
    weight = np.random.default_rng(1).normal(size=(30, n_inputs)).astype(np.float32)
    ways = (
        round_weight("w", weight, bits, block_size),
        round_blocks_with_feedback("w", weight, bits, block_size, x.T @ x),
    )
    assert [array.dtype for array in ways[0]] == [array.dtype for array in ways[1]]
    assert [array.shape for array in ways[0]] == [array.shape for array in ways[1]]
    errors = [np.square(x @ (stands_for(*way, bits, n_inputs) - weight).T).sum() for way in ways]
    assert errors[1] < 0.3 * errors[0]
    n_past = -n_inputs % block_size
    assert (ways[1][0][:, -1, block_size - n_past :] == ZERO[bits]).all(), "past the last input there is nothing"


@pytest.mark.parametrize("bits", BITS)
def test_inputs_that_are_independent_change_nothing(bits):
    weight = np.random.default_rng(2).normal(size=(7, 150)).astype(np.float32)
    weight[3] = 0
    codes, scales = round_blocks_with_feedback("w", weight, bits, 64, np.eye(150, dtype=np.float32))
    theirs = round_weight("w", weight, bits, 64)
    np.testing.assert_array_equal(scales, theirs[1])
    # At 4 bits the scale is that of least squares for codes that another one gave.
    assert np.mean(codes != theirs[0]) < (0.005 if bits == 4 else 1e-9)


def test_rows_do_not_depend_on_each_other(monkeypatch):
    x, weight = correlated(500, 96), np.random.default_rng(3).normal(size=(25, 96)).astype(np.float32)
    whole = round_blocks_with_feedback("w", weight, 4, 32, x.T @ x)
    monkeypatch.setattr("aurora_export.export.feedback_rounding.ROWS_AT_ONCE", 7)
    in_parts = round_blocks_with_feedback("w", weight, 4, 32, x.T @ x)
    assert np.mean(whole[0] != in_parts[0]) < 0.01  # a matrix product of other shapes sums in another order
    np.testing.assert_allclose(whole[1], in_parts[1], rtol=0.05)


def test_weights_that_are_not_finite_are_refused():
    weight = np.ones((3, 40), np.float32)
    weight[1, 30] = np.inf
    with pytest.raises(ValueError, match="of w is not finite"):
        round_blocks_with_feedback("w", weight, 4, 16, np.eye(40))


@pytest.fixture
def converted_before(built6, monkeypatch):
    """Makes a build convert the graphs that were exported before, instead of exporting them again."""

    def convert(graph, path, _progress=None, *, precision, quantizer, feedback):
        assert quantizer is None
        model = ir.load(built6.path / f"onnx/{graph.name}.onnx")
        onnx_from_torch._convert(model, graph, precision, feedback)
        ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=1024)

    monkeypatch.setattr(bundle_module, "export_onnx", convert)


@pytest.mark.usefixtures("converted_before")
def test_a_bundle(built6, scales6, tmp_path):
    """Its manifest says what was done; neither the ranges nor the smoothing of the scales have a part."""
    out = tmp_path / "fed.aurora"
    manifest = build_bundle(built6.loaded, out, precision="int4", feedback=open_feedback_rounding(scales6))
    assert manifest == read_manifest(out)
    assert manifest.precision == "int4" and SCALES not in manifest.digests
    said = manifest.quantization
    assert said is not None and said.error_feedback
    assert {"vision.0.qkv", "language.0.att.k", "language.head"} <= set(said.groups)
    assert said.kept == ("vision.patch",)
    weights = dequantized(onnx.load(out / "onnx/language.onnx"))
    moments = Moments(scales6, read_scales(scales6), is_smoothed=False)
    for site, name in (("language.1.ffn.v", "ffn.value"), ("language.1.att.g", "att.gate")):
        name = f"language.blocks.1.{name}.weight"
        exact = built6.model.get_parameter(name).detach().numpy()
        alone = stands_for(*round_weight(name, exact, 4, min(64, weights[name].shape[1])), 4, exact.shape[1])
        of_input = moments.of(site, exact.shape[1])
        errors = [np.einsum("nk,kl,nl->", w - exact, of_input, w - exact) for w in (weights[name], alone)]
        assert errors[0] < 0.9 * errors[1], name


@pytest.mark.usefixtures("converted_before")
def test_moments_of_another_model_are_refused(built6, scales6, tmp_path):
    scales, path = read_scales(scales6), tmp_path / "scales.json"
    scales = scales.model_copy(update={"graphs": {**scales.graphs, "vision": "0" * 64}})
    write_scales(scales, path)
    save_moments({"language.head": np.eye(4, dtype=np.float32)}, path, of=scales)
    with pytest.raises(IncompatibleError, match="is of another model: its vision graph is"):
        build_bundle(built6.loaded, tmp_path / "b.aurora", precision="int8", feedback=open_feedback_rounding(path))
    assert not (tmp_path / "b.aurora").exists()


def test_what_has_no_moments_is_rounded_by_itself(scales6, tmp_path):
    scales, path = read_scales(scales6), tmp_path / "scales.json"
    write_scales(scales, path)
    save_moments({"language.head": np.eye(4, dtype=np.float32)}, path, of=scales)
    weight = np.random.default_rng(4).normal(size=(5, 32)).astype(np.float32)
    for name in ("language.blocks.0.att.key.weight", "some.other.weight"):
        found = open_feedback_rounding(path)(name, weight, 4, 32)
        np.testing.assert_array_equal(found[0], round_weight(name, weight, 4, 32)[0])
