"""The reference against two independent implementations: transformers' SigLIP, and the `rwkv` package."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import tiny
from aurora_export.model.checkpoint import CheckpointSource, load_checkpoint

TOKENS = [7, 250, 1, 33, 33, 120, 4, 299, 64, 12, 5]
_RWKV_SCRIPT = """
import sys
import numpy as np
from rwkv.model import RWKV
model = RWKV(model=sys.argv[1], strategy="cpu fp32")
results = {}
state = None
for number, tokens in enumerate(([%(first)s], [%(second)s])):
    logits, state = model.forward(tokens, state, full_output=True)
    results[f"logits{number}"] = logits.numpy()
results |= {f"state{number}": value.numpy() for number, value in enumerate(state)}
np.savez(sys.argv[2], **results)
"""
"""In a process of its own: the package chooses its classes by environment variables, at import."""


@pytest.mark.parametrize("image_size", [64, 48])
def test_tower_without_merging_is_siglip(image_size):
    transformers = pytest.importorskip("transformers")
    merge = {"kept_ratio": 1.0, "drop_first": False, "protect_first": False}
    vision = {"layer_norm_eps": 1e-6, "image_size": image_size}
    model = tiny.tiny_model(6, seed=3, merge=merge, vision=vision)
    sizes = model.config.vision
    oracle = transformers.SiglipVisionModel(
        transformers.SiglipVisionConfig(
            hidden_size=sizes.width,
            intermediate_size=sizes.mlp_width,
            num_hidden_layers=sizes.n_layers,
            num_attention_heads=sizes.n_heads,
            image_size=image_size,
            patch_size=sizes.patch_size,
            vision_use_head=False,
        )
    ).eval()
    tower = {key.removeprefix("vision_model."): key for key in oracle.state_dict()}
    weights = {tower[key]: value for key, value in model.vision.state_dict().items()}
    unset = oracle.load_state_dict(weights, strict=False)
    assert not unset.unexpected_keys
    assert all(".layers.3." in f".{key}" or "post_layernorm" in key for key in unset.missing_keys)
    pixels = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(4))

    with torch.no_grad():
        expected = oracle(pixels, output_hidden_states=True).hidden_states[-2]
        found = model.vision(pixels)

    assert (found.sizes == 1).all()
    torch.testing.assert_close(found.tokens, expected, rtol=1e-5, atol=1e-5)


def run_rwkv_package(folder, version, path):
    pytest.importorskip("rwkv", reason="the dev extra holds the oracle")
    first, second = (", ".join(map(str, part)) for part in (TOKENS[:8], TOKENS[8:]))
    result = folder / "oracle.npz"
    flags = {"RWKV_V7_ON": "1" if version == 7 else "0", "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"}
    script = _RWKV_SCRIPT % {"first": first, "second": second}
    model = path.with_suffix("")  # version 7 always appends .pth
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(model), str(result)],
        env={**os.environ, **flags, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    return np.load(result)


@pytest.mark.parametrize("version", [6, 7])
def test_language_model_is_that_of_the_rwkv_package(tmp_path, version):
    config = tiny.tiny_config(version, language={"width": 128, "head_size": 64})
    # A draw on which float32 itself is good to 1e-6: some are not (their GroupNorms divide by a small spread).
    weights = tiny.tiny_weights(config, seed=6)
    named = tiny.language_tensors(weights, "blinkdl")
    if version == 7:  # present in BlinkDL's own files, used by nobody
        named |= {f"blocks.0.att.v{number}": named[f"blocks.1.att.v{number}"] for number in range(3)}
    path = tiny.save_tensors(tmp_path / "rwkv.pth", named)
    oracle = run_rwkv_package(tmp_path, version, path)
    tiny.write_settings(tmp_path, config)
    tiny.write_vocabulary(tmp_path / "vocabulary.txt")
    tiny.save_tensors(tmp_path / "visual_encoder/model.bin", tiny.vision_tensors(weights, config))
    tiny.save_tensors(tmp_path / "projector/model.bin", tiny.projector_tensors(weights, "xtuner"))
    model = load_checkpoint(CheckpointSource(tmp_path)).model

    state = model.language.zero_state()
    for number, tokens in enumerate((TOKENS[:8], TOKENS[8:])):
        logits, state = model.language(model.embed_ids(tokens), state, all_positions=True)
        np.testing.assert_allclose(logits[0].numpy(), oracle[f"logits{number}"], rtol=1e-4, atol=1e-4)

    for layer in range(config.language.n_layers):
        att_shift, wkv, ffn_shift = (oracle[f"state{3 * layer + offset}"] for offset in range(3))
        if version == 7:
            wkv = wkv.transpose(0, 2, 1)  # the package indexes [value, key]
        np.testing.assert_allclose(state.att_shift[layer, 0].numpy(), att_shift, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state.wkv[layer, 0].numpy(), wkv, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(state.ffn_shift[layer, 0].numpy(), ffn_shift, rtol=1e-4, atol=1e-5)
