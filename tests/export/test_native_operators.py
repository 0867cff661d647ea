"""A graph on the native operators equals the same graph on the functions that it carries."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from aurora_export.contract import STATE_NAMES, graphs
from aurora_export.export.onnx_from_torch import DATA_ALIGNMENT_BYTES, MIN_EXTERNAL_BYTES
from aurora_export.export.sample_inputs import sample_embeddings, sample_frames
from aurora_export.export.weight_only import quantize_weights
from aurora_export.plugins import cpu
from aurora_export.runtime.engine_onnx import OnnxEngine

pytestmark = pytest.mark.skipif(cpu.library_path() is None, reason="the operator library was not built")


def engines(path, spec, monkeypatch):
    """The graph with the library, and without."""
    native = OnnxEngine(path, spec, threads=2)
    with monkeypatch.context() as patch:
        patch.setenv(cpu.SWITCH, "off")
        return native, OnnxEngine(path, spec, threads=2)


def narrow_path(built, graph, folder, *, bits=8):
    model = ir.load(built.path / f"onnx/{graph}.onnx")
    quantize_weights(model, bits=bits)
    path = folder / f"{graph}.onnx"
    ir.save(
        model,
        path,
        external_data=f"{path.name}.data",
        size_threshold_bytes=MIN_EXTERNAL_BYTES,
        alignment=DATA_ALIGNMENT_BYTES,
    )
    return path


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("cuts", [(2,), (21,), (3, 8, 39)])
def test_runs_of_integers_may_be_joined(built, bits, cuts, tmp_path):
    """`OpenedBundle.joins_runs`: a token has the same bits in a run of any length but 1."""
    spec = graphs(built.model.config)["language"]
    engine = OnnxEngine(narrow_path(built, "language", tmp_path, bits=bits), spec, threads=2)
    table = built.model.weight("language.emb.weight").numpy()
    embeddings = sample_embeddings(table, 1, 48, seed=0)[0]
    whole, divided = engine.open_loop(), engine.open_loop()
    expected = whole.advance(embeddings).copy()
    for part in np.split(embeddings, cuts):
        logits = divided.advance(part)
    np.testing.assert_array_equal(logits, expected)
    for name, array in whole.read_state().items():
        np.testing.assert_array_equal(divided.read_state()[name], array)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize(("n_sequences", "n_tokens"), [(1, 1), (1, 40), (3, 7)])
def test_language(built, precision, n_sequences, n_tokens, tmp_path, monkeypatch):
    path = built.path / "onnx/language.onnx"
    if precision != "fp32":
        path = narrow_path(built, "language", tmp_path, bits=int(precision[3:]))
    spec = graphs(built.model.config)["language"]
    native, plain = engines(path, spec, monkeypatch)
    table = built.model.weight("language.emb.weight").numpy()
    state = {name: np.zeros(spec[name].resolve(B=n_sequences), np.float32) for name in STATE_NAMES}
    for seed in range(2):
        inputs = {"embeddings": sample_embeddings(table, n_sequences, n_tokens, seed=seed), **state}
        actual, expected = native.run(inputs), plain.run(inputs)
        for name, wanted in expected.items():
            # At 8 bits a rounding that is nearly a tie may fall the other way.
            limit = (2e-5 if precision == "fp32" else 2e-2) * np.abs(wanted).max()
            assert np.abs(actual[name] - wanted).max() <= limit, name
        state = {name: expected[f"next_{name}"] for name in STATE_NAMES}


def test_vision(built6, tmp_path, monkeypatch):
    native, plain = engines(narrow_path(built6, "vision", tmp_path), graphs(built6.model.config)["vision"], monkeypatch)
    frames = sample_frames(3, built6.model.config.vision.image_size)
    # Merging may differ where similarities are nearly equal; the mean over the patches does not.
    means = []
    for engine in (native, plain):
        found = engine.run({"frames": frames})
        sizes = found["token_sizes"][..., None]
        means.append((found["visual_tokens"] * sizes).sum(1) / sizes.sum(1))
    assert np.abs(means[0] - means[1]).max() <= 5e-2 * np.abs(means[1]).max()
