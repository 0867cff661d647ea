"""The contract follows the config."""

from __future__ import annotations

import pytest

from aurora_export.contract import STATE_NAMES, graphs


def test_shapes(config):
    vision, language = graphs(config)["vision"], graphs(config)["language"]
    assert vision["frames"].resolve(F=2) == (2, 64, 64, 3)
    assert vision["visual_tokens"].resolve(F=2) == (2, config.tokens_per_frame, 128)
    assert vision["token_of_patch"].resolve(F=1) == (1, 64)
    assert language["embeddings"].resolve(B=3, T=7) == (3, 7, 128)
    assert language["wkv"].resolve(B=3) == (3, 3, 2, 64, 64)
    assert language["logits"].resolve(B=3) == (3, 100)


def test_every_state_comes_out_as_it_went_in(config):
    language = graphs(config)["language"]
    for name in STATE_NAMES:
        assert language[name].shape == language[f"next_{name}"].shape
        assert language[name].dtype == language[f"next_{name}"].dtype


def test_a_name_or_letter_that_does_not_exist(config):
    language = graphs(config)["language"]
    with pytest.raises(KeyError, match="hidden"):
        language["hidden"]
    with pytest.raises(KeyError, match="T"):
        language["embeddings"].resolve(B=1)
