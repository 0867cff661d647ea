"""What is trained in stage 2: projector, language model, and training-only read-outs; its losses and its accuracy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from aurora_export.model.language import LanguageState, Rwkv
from aurora_export.model.projector import Projector
from aurora_export.plugins.wkv.reference import wkv6_chunked
from dialogue import Turns, choose_questions, make_turns, prefix_ids
from features import N_BINS, FeatureSet, Observations
from network import draw_language_weights, make_config
from scenes import COLOURS, DIRECTIONS, KINDS, NUMBERS, SHAPES


class Student(nn.Module):
    """What is trained: projector, language model, and the training-only read-outs of what has been seen."""

    def __init__(self) -> None:
        super().__init__()
        config = make_config()
        self.projector = Projector(config)
        self.language = Rwkv(config.language, wkv=wkv6_chunked)
        draw_language_weights(self.language)
        n_colours = len(COLOURS)
        self.observer_widths = (
            n_colours * (2 + len(DIRECTIONS)),
            n_colours * (1 + len(SHAPES)),
            n_colours * 2 * N_BINS,
            1 + n_colours,
            1 + n_colours,
            len(NUMBERS),
        )
        self.observer = nn.Linear(config.language.width, sum(self.observer_widths))
        self.token_observer_widths = (2 + len(DIRECTIONS), 2 * N_BINS)
        self.token_observer = nn.Linear(config.language.width, sum(self.token_observer_widths))

    def watch(self, prefixes: Sequence[tuple[int, ...]], tokens: Tensor) -> tuple[LanguageState, Tensor]:
        """Read one prefix (for all) or one for each video, then the frames.

        tokens: shape (B, F, K, D).  Returns the states after the last frame and the hidden state of each token,
        shape (B, F, K, E).
        """
        n_videos, n_frames, _, _ = tokens.shape
        state = self._read_prefixes(prefixes)
        if len(prefixes) == 1:
            state = _select(state, torch.zeros(n_videos, dtype=torch.int64))
        embeddings = self.projector(tokens.float()).flatten(1, 2)
        hidden, state = self.language.hidden(embeddings, state)
        return state, self.language.ln_out(hidden).unflatten(1, (n_frames, -1))

    def _read_prefixes(self, prefixes: Sequence[tuple[int, ...]]) -> LanguageState:
        """States after each prefix. Prefixes of one length run together: a padding token would change the state."""
        groups: dict[int, list[int]] = defaultdict(list)
        for i, prefix in enumerate(prefixes):
            groups[len(prefix)].append(i)
        states, order = [], []
        for members in groups.values():
            ids = torch.tensor([prefixes[i] for i in members])
            states.append(self.language.hidden(self.language.emb(ids), self.language.zero_state(len(members)))[1])
            order += members
        joined = LanguageState(*(torch.cat(parts, dim=1) for parts in zip(*states, strict=True)))
        return _select(joined, torch.tensor(order).argsort())

    def answer(self, state: LanguageState, turns: Turns) -> Tensor:
        """Logits (M, T, V) of each turn, from a fork of the state of its video."""
        embeddings = self.language.emb(turns.ids)
        return self.language(embeddings, _select(state, turns.video), all_positions=True)[0]


def _select(state: LanguageState, index: Tensor) -> LanguageState:
    return LanguageState(*(part.index_select(1, index) for part in state))


@dataclass(frozen=True)
class Batch:
    """Videos of one duration and ratio with what is asked about them."""

    tokens: Tensor
    colour: Tensor
    seen: Observations
    prefixes: list[tuple[int, ...]]
    turns: list[Turns]


def observer_loss(student: Student, hidden: Tensor, batch: Batch) -> Tensor:
    """Cross-entropies of what is read from the hidden state after every frame; hidden: shape (B, F, K, E)."""
    seen = batch.seen
    outputs = student.observer(hidden[:, :, -1]).split(student.observer_widths, dim=-1)
    motion, shape, place, first, last, count = outputs
    motion, shape = motion.unflatten(-1, (len(COLOURS), -1)), shape.unflatten(-1, (len(COLOURS), -1))
    # Most colours are not there: absence is soon learned and must not drown the rest.
    weight = torch.tensor([0.15, 0.5, *[1.0] * len(DIRECTIONS)])
    loss = 2 * cross_entropy(motion.flatten(0, 2), seen.motion.flatten(), weight=weight)
    loss = loss + cross_entropy(
        shape.flatten(0, 2), seen.shape.flatten(), weight=torch.tensor([0.15, *[1.0] * len(SHAPES)])
    )
    place = place.unflatten(-1, (len(COLOURS), 2, N_BINS))
    loss = loss + 0.2 * cross_entropy(place.flatten(0, 3), seen.place.flatten(), ignore_index=-1)
    for logits, target in ((first, seen.first), (last, seen.last), (count, seen.count)):
        loss = loss + cross_entropy(logits.flatten(0, 1), target.flatten())
    return loss / 4 + token_observer_loss(student, hidden, batch)


def token_observer_loss(student: Student, hidden: Tensor, batch: Batch) -> Tensor:
    """What each token of an object has to know of its own past: where it was a frame ago, and how it moves.

    This is the step from which direction follows: look up the object by its colour, compare with now.
    """
    motion, before = student.token_observer(hidden).split(student.token_observer_widths, dim=-1)
    shows = batch.colour > 0
    own = (batch.colour - 1).clamp(min=0)
    motion_target = batch.seen.motion.gather(2, own).masked_fill(~shows, -100)
    place_before = torch.cat([torch.full_like(batch.seen.place[:, :1], -1), batch.seen.place[:, :-1]], dim=1)
    before_target = place_before.gather(2, own[..., None].expand(-1, -1, -1, 2)).masked_fill(~shows[..., None], -1)
    loss = cross_entropy(motion.flatten(0, 2), motion_target.flatten(), ignore_index=-100)
    before = before.unflatten(-1, (2, N_BINS))
    return loss + 0.5 * cross_entropy(before.flatten(0, 3), before_target.flatten(), ignore_index=-1)


def answer_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the turns; within a turn, the sum over its ids divided by the root of their number."""
    losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
    n_ids = (targets >= 0).sum(dim=1)
    return (losses.view_as(targets).sum(dim=1) / n_ids.sqrt()).mean()


def batch_loss(student: Student, batch: Batch) -> tuple[Tensor, Tensor]:
    """Losses of the answers and of the read-outs."""
    state, hidden = student.watch(batch.prefixes, batch.tokens)
    n_turns = sum(len(turns.asked) for turns in batch.turns)
    answers = sum(
        (
            answer_loss(student.answer(state, turns), turns.targets) * (len(turns.asked) / n_turns)
            for turns in batch.turns
        ),
        start=torch.zeros(()),
    )
    return answers, observer_loss(student, hidden, batch)


@torch.inference_mode()
def answer_accuracy(student: Student, data: FeatureSet, *, duplicate: bool, per_video: int = 6) -> dict[str, float]:
    """Share of questions whose whole answer is greedy-right, per kind.

    Every id of the answer must be the arg-max given the right ids before it, which is when a greedy answer is right.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    rng = np.random.default_rng(7)
    for start in range(0, len(data.scenes), 32):
        scenes = data.scenes[start : start + 32]
        pairs = [
            (v, (q,)) for v, scene in enumerate(scenes) for q in choose_questions(scene, rng, per_video, captions=True)
        ]
        tokens = data.tokens[start : start + 32]
        if duplicate:
            tokens = tokens[torch.tensor([video for video, _ in pairs])]
            prefixes = [prefix_ids(q.text) for _, (q,) in pairs]
            pairs = [(i, asked) for i, (_, asked) in enumerate(pairs)]
        else:
            prefixes = [prefix_ids()]
        state, _ = student.watch(prefixes, tokens)
        turns = make_turns(pairs)
        hits = (student.answer(state, turns).argmax(-1) == turns.targets) | (turns.targets < 0)
        for (question,), hit in zip(turns.asked, hits.all(dim=1).tolist(), strict=True):
            right[question.kind].append(hit)
    short = [hit for kind, hits in right.items() if kind != "caption" for hit in hits]
    result = {"all": float(np.mean(short))}
    return result | {kind: float(np.mean(right[kind])) for kind in KINDS if right[kind]}
