"""The whole way: the bundle in the production runtime answers as the reference does, token by token."""

from __future__ import annotations

import numpy as np
import torch

from aurora_export.export.sample_inputs import sample_frames
from aurora_export.prompt import build_prompt
from aurora_export.runtime.session import Aurora
from aurora_export.tokenizer import Tokenizer

QUESTION = "What is there to see?"
N_ANSWER_TOKENS = 24


def reference_answer(built, frames):
    """Ids by plain torch: prefix, frames one after the other, suffix, greedy."""
    model = built.model
    prompt = build_prompt(model.config.prompt, Tokenizer.from_file(built.loaded.vocabulary_path), QUESTION)
    tokens = model.encode_frames(torch.from_numpy(frames)).tokens.flatten(0, 1)[None]
    embeddings = torch.cat([model.embed_ids(prompt.prefix), tokens, model.embed_ids(prompt.suffix)], dim=1)
    return list(model.generate(embeddings, max_tokens=N_ANSWER_TOKENS))


def test_answers_are_those_of_the_reference(built):
    frames = sample_frames(4, built.model.config.vision.image_size, seed=11)
    with Aurora.open(built.path, threads=1) as aurora:
        aurora.watch(list(frames), prompt=QUESTION)
        answer = list(aurora.generate_ids(QUESTION, max_tokens=N_ANSWER_TOKENS))
    assert answer == reference_answer(built, frames)
    assert len(set(answer)) > 3, "an answer of one repeated id would prove little"


def test_what_was_watched_decides_the_answer(built):
    """Were the frames ignored, the comparison above would still pass."""
    first, second = (sample_frames(4, built.model.config.vision.image_size, seed=seed) for seed in (11, 12))
    states = []
    for frames in (first, second):
        with Aurora.open(built.path, threads=1) as aurora:
            aurora.watch(list(frames))
            states.append(aurora.state.arrays["wkv"])
    assert not np.allclose(*states, rtol=1e-2)
