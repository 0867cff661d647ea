"""Explicit quantization of real graphs: exact folds, whole bundles, and scales that do not fit."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from aurora_export.calibration.scales_file import graph_digest, read_scales, write_scales
from aurora_export.calibration.sites import find_sites, groups_of
from aurora_export.calibration.smoothing import divided_parameters, fold_smoothing
from aurora_export.errors import IncompatibleError, UsageError
from aurora_export.export.bundle import SCALES, build_bundle
from aurora_export.export.graph_lint import lint
from aurora_export.export.onnx_from_torch import export_onnx
from aurora_export.export.quantizer import open_quantizer
from aurora_export.export.selfcheck import run_selfcheck
from aurora_export.manifest import read_manifest
from aurora_export.runtime.opened_bundle import open_bundle


def graph_of(built, name: str) -> ir.Model:
    return ir.load(built.path / built.manifest.files[name])


def run(model: ir.Model, inputs: dict[str, np.ndarray], folder) -> list[np.ndarray]:
    ir.save(model, folder / "g.onnx", external_data="g.onnx.data", size_threshold_bytes=1024)
    return onnxruntime.InferenceSession(str(folder / "g.onnx")).run(None, inputs)


def inputs_of(built, name: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        spec.name: rng.integers(0, 256, shape, dtype=np.uint8) if spec.dtype == "uint8" else
        (0.3 * rng.normal(size=shape)).astype(np.float32)
        for spec in built.manifest.contract[name].inputs
        for shape in [spec.resolve(F=2, B=1, T=9)]
    }  # fmt: skip


@pytest.mark.parametrize("name", ["vision", "language"])
def test_smoothing_changes_nothing_but_the_last_digits(built, tmp_path, name):
    """Of both RWKV versions and both profiles, all sites at once, by factors up to 30 either way."""
    inputs, rng = inputs_of(built, name), np.random.default_rng(1)
    before, model = run(graph_of(built, name), inputs, tmp_path), graph_of(built, name)
    sites = {site: entry for site, entry in find_sites(model.graph).items() if divided_parameters(site, model.graph)}
    groups = {re.sub(r"\d+", "N", site) for site in sites}
    rwkv6 = {"language.N.att.o"} if built.manifest.config.language.version == 6 else set()
    expected = {
        "vision": {"vision.N.qkv", "vision.N.out", "vision.N.mlp.fcN"},
        "language": {"language.N.ffn.v", "language.head", *rwkv6},
    }
    assert groups == expected[name]
    fold_smoothing(model, {site: 30 ** rng.uniform(-1, 1, entry.n_channels) for site, entry in sites.items()})
    after = run(model, inputs, tmp_path)
    for x, y in zip(after, before, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=3e-6 * np.abs(y).max())


def test_smoothing_of_what_cannot_be_divided_is_refused(built6):
    with pytest.raises(ValueError, match=r"language\.0\.att\.k: nothing that computes it can be divided"):
        fold_smoothing(graph_of(built6, "language"), {"language.0.att.k": np.ones(32)})


def test_scales_fit_the_graph_that_a_build_traces(built6, scales6, tmp_path):
    """The digest of a file is that of the graph before it was written."""
    scales = read_scales(scales6)
    assert graph_digest(graph_of(built6, "vision")) == scales.graphs["vision"]
    quantizer = open_quantizer(scales6, "int8")
    path = tmp_path / "language.onnx"
    export_onnx(built6.graphs["language"], path, precision="int8-qdq", quantizer=quantizer)
    assert "language.head" in quantizer.groups
    lint(path, built6.graphs["language"])


@pytest.mark.parametrize(("recipe", "rest"), [("int8", "fp32"), ("fp8", "fp32"), ("int4", "fp16")])
def test_bundles(built6, scales6, quantized_before, tmp_path, recipe, rest):
    quantizer = open_quantizer(scales6, recipe, keep=("language.1.*",), rest=rest, error_feedback=recipe == "int4")
    out = tmp_path / "q.aurora"
    manifest = build_bundle(built6.loaded, out, precision=quantizer.precision, quantizer=quantizer)
    assert manifest == read_manifest(out) and manifest.precision == f"{recipe}-qdq"
    assert manifest.fingerprint != built6.manifest.fingerprint
    said, sites = manifest.quantization, {}
    for name in ("vision", "language"):
        sites |= find_sites(graph_of(built6, name).graph)
    assert said is not None and (said.rest, said.method) == (rest, "mse, smoothing 0.5, moments of language.*")
    assert set(said.groups) | set(said.kept) == set(groups_of(sites))
    kept = {group for group in groups_of(sites) if group.startswith("language.1.")} | {"vision.patch"}
    assert set(said.kept) == kept
    assert read_scales(out / SCALES).keep == ("language.1.*",)
    opened = open_bundle(out, threads=1)
    check = run_selfcheck(out, manifest, opened.vision, opened.language)
    assert all(output.error <= output.limit for output in check.outputs.values())
    model = ir.load(out / "onnx/language.onnx")
    function = next(iter(model.functions.values()))
    assert all("Quantize" not in node.op_type and "Dequantize" not in node.op_type for node in function)
    kinds = {value.dtype for name, value in model.graph.initializers.items() if name.endswith(".scales")}
    assert kinds == {ir.DataType.FLOAT16 if rest == "fp16" else ir.DataType.FLOAT}


def test_error_feedback_rounds_otherwise(built6, scales6, tmp_path):
    codes = []
    for error_feedback in (False, True):
        model = graph_of(built6, "language")
        open_quantizer(scales6, "int4", error_feedback=error_feedback).apply(model, built6.graphs["language"])
        name = "language.blocks.0.ffn.value.weight.int4"
        codes.append(model.graph.initializers[name].const_value.numpy().astype(int))
    assert codes[0].shape == codes[1].shape and np.mean(codes[0] != codes[1]) > 0.05
    assert np.abs(codes[0] - codes[1]).max() < 15


def test_scales_of_another_model_are_refused(built7, scales6):
    with pytest.raises(IncompatibleError, match="is of another model: its language graph is"):
        open_quantizer(scales6, "int8").apply(graph_of(built7, "language"), built7.graphs["language"])


def test_the_residual_stream_is_divided_as_measured(built6, scales6, tmp_path):
    scales = read_scales(scales6)
    path = tmp_path / "scales.json"
    write_scales(scales.model_copy(update={"residual": scales.residual.model_copy(update={"divisor": 8})}), path)
    assert open_quantizer(path, "int8").residual_divisor == 1
    quantizer = open_quantizer(path, "int8", rest="fp16")
    assert quantizer.residual_divisor == 8
    model = graph_of(built6, "language")
    quantizer.apply(model, built6.graphs["language"])
    plain = graph_of(built6, "language")
    open_quantizer(path, "int8").apply(plain, built6.graphs["language"])
    ratios = [
        plain.graph.initializers[name].const_value.numpy() / model.graph.initializers[name].const_value.numpy()
        for name in ("language.blocks.0.ffn.value.weight.scales", "language.blocks.0.ffn.receptance.weight.scales")
    ]
    assert [round(float(np.median(ratio))) for ratio in ratios] == [8, 1]


def test_precisions_that_take_no_scales(scales6):
    with pytest.raises(UsageError, match="precision fp16 takes no scales"):
        open_quantizer(scales6, "fp16")
