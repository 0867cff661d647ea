"""The tower: what merging must leave true of it, whatever the weights."""

from __future__ import annotations

import pytest
import torch

from aurora_export.model.vision import normalise_frames
from tiny import tiny_model

UNMERGED = {"merge": {"kept_ratio": 1.0, "protect_first": False, "drop_first": False, "sort": "none", "order": "none"}}


@pytest.fixture(scope="module")
def frames():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=generator)


def encode(model, frames):
    with torch.inference_mode():
        return model.encode_frames(frames)


def changed(**merge):
    return tiny_model(merge=merge).eval()


def test_normalised_pixels(frames):
    model = tiny_model()
    config = model.config.frames.model_copy(update={"mean": (0.5, 0.25, 0.0), "std": (0.5, 0.25, 1.0)})
    pixels = normalise_frames(frames, config)
    assert pixels.shape == (3, 3, 64, 64)
    expected = (frames[1, 5, 9].double() / 255 - torch.tensor([0.5, 0.25, 0.0])) / torch.tensor([0.5, 0.25, 1.0])
    torch.testing.assert_close(pixels[1, :, 5, 9].double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "merge",
    [
        {},
        {"order": "descending"},
        {"sort": "final"},
        {"sort": "none", "order": "none"},
        {"split": "patches_only", "schedule": "exact", "drop_first": False, "proportional_attention": True},
        {"protect_first": False, "drop_first": False},
        {"kept_ratio": 1.0},
        {"kept_ratio": 0.5},
    ],
    ids=lambda merge: "-".join(map(str, merge.values())) or "released",
)
def test_every_patch_is_in_one_token(frames, merge):
    model = changed(**merge)
    output = encode(model, frames)
    config = model.config
    assert output.tokens.shape == (3, config.tokens_per_frame, config.language.width)
    assert output.sizes.dtype == output.token_of_patch.dtype == torch.int32
    for sizes, owners in zip(output.sizes, output.token_of_patch, strict=True):
        counted = torch.bincount(owners + 1, minlength=config.tokens_per_frame + 1)
        assert counted[1:].tolist() == sizes.tolist()
        assert counted[0] == int(config.merge.drop_first), "one token, of size 1, may be dropped"
    fixed = int(config.merge.protect_first and not config.merge.drop_first)
    steps = output.sizes[:, fixed:].diff(dim=1)
    if config.merge.sort != "none":
        assert (steps >= 0).all() if config.merge.order == "ascending" else (steps <= 0).all()


def test_frames_do_not_see_each_other(frames):
    model = tiny_model().eval()
    together, alone = encode(model, frames), [encode(model, frame[None]) for frame in frames]
    torch.testing.assert_close(together.tokens, torch.cat([output.tokens for output in alone]), rtol=1e-4, atol=1e-5)
    assert torch.equal(together.token_of_patch, torch.cat([output.token_of_patch for output in alone]))


def test_final_sort_permutes_the_unsorted_tokens(frames):
    unsorted = encode(changed(sort="none", order="none"), frames)
    final = encode(changed(sort="final"), frames)
    order = unsorted.sizes.argsort(dim=1, stable=True)
    assert torch.equal(final.sizes, unsorted.sizes.gather(1, order))
    torch.testing.assert_close(final.tokens, unsorted.tokens.take_along_dim(order[..., None], dim=1))


def test_proportional_attention_acts_along_the_keys(frames):
    """Constant per query row, as in the released code, it would cancel in the softmax."""
    plain, proportional = encode(changed(), frames), encode(changed(proportional_attention=True), frames)
    assert not torch.allclose(plain.tokens, proportional.tokens, atol=1e-3)


def test_the_last_layer_of_the_checkpoint_does_not_run():
    model = tiny_model()
    assert len(model.vision.encoder.layers) == model.config.vision.n_layers - 1


def test_at_ratio_one_the_tokens_are_the_patches(frames):
    model = tiny_model(**UNMERGED).eval()
    output = encode(model, frames)
    assert (output.sizes == 1).all()
    assert torch.equal(output.token_of_patch[0], torch.arange(64, dtype=torch.int32))
