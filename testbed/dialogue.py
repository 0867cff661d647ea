"""Questions as token ids: what stands before the frames, what stands after them, and which ids are learned.

The text around the frames is the product's own (core/prompt.py); an answer is ` {answer}` and the end of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aurora_export import prompt
from aurora_export.config import PromptConfig
from aurora_export.tokenizer import END_OF_TEXT, Tokenizer
from network import make_config
from scenes import Question, Scene, questions
from vocabulary import FILE_NAME, write_vocabulary

# Motion and order are the hard ones; a caption is one question that supervises all of an answer's words.
KIND_WEIGHTS = {"colour": 1.0, "shape": 1.0, "count": 1.5, "order": 3.0, "direction": 3.0, "caption": 1.0}


@cache
def tokenizer() -> Tokenizer:
    """The tokenizer of the testbed's vocabulary, read from the checkpoint folder by the product's own reader."""
    path = Path(__file__).parent / "checkpoint" / FILE_NAME
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_vocabulary(path)
    return Tokenizer.from_file(path)


@cache
def _prompt_config() -> PromptConfig:
    return make_config().prompt


@cache
def prefix_ids(question: str | None = None) -> tuple[int, ...]:
    """Ids before the frames: the question, or the general instruction."""
    return prompt.prefix_ids(_prompt_config(), tokenizer(), question)


@cache
def question_ids(question: str, *, is_first: bool) -> tuple[int, ...]:
    """Ids from the last frame, or from the answer before, to this question's answer."""
    ids_of = prompt.suffix_ids if is_first else prompt.turn_ids
    return ids_of(_prompt_config(), tokenizer(), question)


@cache
def answer_ids(answer: str) -> tuple[int, ...]:
    """Ids of the answer, with the end of text."""
    return (*tokenizer().encode(f" {answer}"), END_OF_TEXT)


@dataclass(frozen=True)
class Turns:
    """M rows of one or more questions about watched videos, padded on the right."""

    video: Tensor
    """which video of the batch each row is about, shape (M,)"""
    ids: Tensor
    """questions and answers, shape (M, T)"""
    targets: Tensor
    """the next id where it belongs to an answer, -100 elsewhere, shape (M, T)"""
    asked: list[tuple[Question, ...]]


def make_turns(rows: Sequence[tuple[int, tuple[Question, ...]]]) -> Turns:
    """Rows from (index of the video, questions asked one after the other).

    Where a second question follows, it stands right after the answer: the end of text is said, not read.
    """
    lines = [_row_ids(asked) for _, asked in rows]
    n_tokens = max(len(ids) for ids, _ in lines)
    ids, targets = torch.zeros(len(rows), n_tokens, dtype=torch.int64), torch.full((len(rows), n_tokens), -100)
    for i, (line, line_targets) in enumerate(lines):
        ids[i, : len(line)] = torch.tensor(line)
        targets[i, : len(line)] = torch.tensor(line_targets)
    return Turns(torch.tensor([video for video, _ in rows]), ids, targets, [asked for _, asked in rows])


def _row_ids(asked: tuple[Question, ...]) -> tuple[list[int], list[int]]:
    ids: list[int] = []
    targets: list[int] = []
    for question in asked:
        before, answer = question_ids(question.text, is_first=not ids), answer_ids(question.answer)
        ids += [*before, *answer[:-1]]
        targets += [*([-100] * (len(before) - 1)), *answer]
    return ids, targets


def choose_questions(scene: Scene, rng: np.random.Generator, n: int, *, captions: bool) -> list[Question]:
    """Draw n different questions of a scene (fewer if it has not so many), the hard kinds more often."""
    asked = [q for q in questions(scene, int(rng.integers(1 << 62))) if captions or q.kind != "caption"]
    n_of_kind = {kind: sum(q.kind == kind for q in asked) for kind in KIND_WEIGHTS}
    weights = np.array([KIND_WEIGHTS[q.kind] / n_of_kind[q.kind] for q in asked])
    chosen = rng.choice(len(asked), min(n, len(asked)), replace=False, p=weights / weights.sum())
    return [asked[i] for i in chosen]
