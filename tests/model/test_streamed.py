"""A streamed model is the model: same numbers, in memory only while they are held."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tiny
from aurora_export.errors import IntegrityError
from aurora_export.export.reference_outputs import LanguageRun, Reference, next_state
from aurora_export.export.sample_inputs import sample_embeddings, sample_frames
from aurora_export.model.checkpoint import load_checkpoint, open_checkpoint


@pytest.fixture(params=[(6, ".bin", torch.float32), (6, ".safetensors", torch.bfloat16), (7, ".bin", torch.float16)])
def source(request, tmp_path):
    version, suffix, dtype = request.param
    config = tiny.tiny_config(version)
    names = "hf" if version == 6 else "fla"
    return tiny.write_released(
        tmp_path, config, tiny.tiny_weights(config), language_names=names, suffix=suffix, dtype=dtype
    )


def test_every_weight_is_that_of_the_whole_model_however_often_it_is_read(source):
    whole, streamed = load_checkpoint(source).model, open_checkpoint(source).model
    for _ in range(2):  # once more after the pages were given back
        for name, value in whole.state_dict().items():
            assert torch.equal(streamed.weight(name), value), name


def test_parts_are_in_memory_only_while_they_are_held(source):
    model = open_checkpoint(source).model
    with model.held("vision.", "language.blocks.1."):
        held = {name for name, value in model.named_parameters() if value.device.type == "cpu"}
    assert held == {name for name, _ in model.named_parameters() if name.startswith(("vision.", "language.blocks.1."))}
    assert all(value.is_meta for value in model.parameters())


def test_reference_outputs_are_those_of_the_whole_model_to_the_bit(source):
    whole, streamed = (Reference(load(source).model) for load in (load_checkpoint, open_checkpoint))
    frames = sample_frames(2, whole.config.vision.image_size)
    embeddings = sample_embeddings(whole.embedding_table, 3, 5)
    state = whole.state_after(sample_embeddings(whole.embedding_table, 3, 2))
    for expected, actual in (
        (whole.run_vision(frames, layers=True), streamed.run_vision(frames, layers=True)),
        (whole.run_language(embeddings, state, layers=True), streamed.run_language(embeddings, state, layers=True)),
    ):
        assert expected.keys() == actual.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(actual[name], value, err_msg=name)


def test_runs_side_by_side_are_the_forward_pass_of_the_model(source):
    model = load_checkpoint(source).model
    table = model.weight("language.emb.weight").numpy()
    first, second = sample_embeddings(table, 2, 3), sample_embeddings(table, 2, 4, seed=1)
    outputs = Reference(model).run_languages([LanguageRun(first), LanguageRun(second, 0), LanguageRun(second, 0, True)])
    with torch.inference_mode():
        _, state = model.language(torch.from_numpy(first), model.language.zero_state(2))
        logits, after = model.language(torch.from_numpy(second), state)
    assert np.array_equal(outputs[1]["logits"], logits.numpy())
    for run, expected in ((outputs[0], state), (outputs[1], after)):
        assert all(np.array_equal(*pair) for pair in zip(next_state(run).values(), expected, strict=True))
    assert not np.array_equal(outputs[2]["logits"], outputs[1]["logits"])
    np.testing.assert_allclose(outputs[2]["logits"], outputs[1]["logits"], atol=1e-3)


def test_numbers_that_are_not_finite_are_refused_when_they_are_read(tmp_path):
    config = tiny.tiny_config()
    weights = tiny.tiny_weights(config)
    weights["language.blocks.1.ffn.key.weight"][3, 4] = float("nan")
    model = open_checkpoint(tiny.write_released(tmp_path, config, weights)).model
    with pytest.raises(IntegrityError, match=r"blocks\.1\.feed_forward\.key\.weight .*not a number"):
        model.weight("language.blocks.1.ffn.key.weight")
