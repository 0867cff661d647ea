"""Stage 2: train projector and RWKV-6 on the frozen tower's tokens.

Half of the steps use the general instruction before the frames and fork the watched state over several questions,
or ask them one after the other; half put one question before the frames and again after them. Answers are the loss,
and, dropped afterwards, linear heads that after every frame read from the hidden state what has been seen so far:
without them the recurrence has to discover the difference between two frames by itself, and direction stays at
chance for long.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cross_entropy

from aurora_export.model.language import LanguageState, Rwkv
from aurora_export.model.projector import Projector
from aurora_export.plugins.wkv.reference import wkv6_chunked
from dialogue import Turns, choose_questions, make_turns, prefix_ids
from features import N_BINS, FeatureSet, Observations, make_features
from network import draw_language_weights, make_config
from scenes import COLOURS, DIRECTIONS, HELD_OUT_SEEDS, KINDS, NUMBERS, SHAPES, TRAINING_SEEDS, Question, questions

_PEAK_RATE = 1.5e-3
_WARM_UP_STEPS = 100
_DECAY_SHARE = 0.4
_TOKENS_PER_BATCH = 1080
"""Visual tokens of one process's batch: 15 videos of 8 frames."""
_N_QUESTIONS = 5
_DUPLICATE_SHARE = 0.47
_CONVERSATION_SHARE = 0.13
"""Steps with the question before the frames too, and steps with several questions one after the other."""
_AUXILIARY_WEIGHT = 1.0


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


def draw_batch(sets: Sequence[FeatureSet], shares: Sequence[float], rng: np.random.Generator) -> Batch:
    """Draw videos from one of the sets, a prompt form, and questions."""
    chosen = sets[int(rng.choice(len(sets), p=np.asarray(shares) / sum(shares)))]
    n_visual = chosen.tokens.shape[1] * chosen.tokens.shape[2]
    n_videos = max(2, min(len(chosen.scenes), _TOKENS_PER_BATCH // n_visual))
    index = rng.choice(len(chosen.scenes), n_videos, replace=False)
    scenes = [chosen.scenes[i] for i in index]
    # Captions are long: in a batch of their own the others need no padding.
    short: list[tuple[int, tuple[Question, ...]]] = []
    captions: list[tuple[int, tuple[Question, ...]]] = []
    prefixes = [prefix_ids()]
    form = rng.random()
    if form < _DUPLICATE_SHARE:
        prefixes = []
        for video, scene in enumerate(scenes):
            own, *others = choose_questions(scene, rng, 3, captions=True)
            prefixes.append(prefix_ids(own.text))
            # The sandwich asks what was announced; now and then something else is asked after all.
            for question in (own, *others) if rng.random() < 0.2 else (own,):
                (captions if question.kind == "caption" else short).append((video, (question,)))
    elif form < _DUPLICATE_SHARE + _CONVERSATION_SHARE:
        for video, scene in enumerate(scenes):
            captions += [(video, tuple(choose_questions(scene, rng, 3, captions=True))) for _ in range(2)]
    else:
        for video, scene in enumerate(scenes):
            short += [(video, (q,)) for q in choose_questions(scene, rng, _N_QUESTIONS, captions=False)]
            if rng.random() < 0.4:
                captions.append((video, (questions(scene, int(rng.integers(1 << 62)))[-1],)))
    turns = [make_turns(pairs) for pairs in (short, captions) if pairs]
    at = torch.from_numpy(index)
    return Batch(chosen.tokens[at], chosen.colour[at].long(), chosen.observations.take(at), prefixes, turns)


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


Plan = Sequence[tuple[int, int, Sequence[float]]]
"""Duration in seconds, number of scenes, kept ratios."""


def load_or_make(path: Path, weights: Path, plan: Plan, seeds: range, *, n_processes: int = 2) -> list[FeatureSet]:
    """Feature sets for (duration, number of scenes, kept ratios), kept on disk between runs."""
    sets: list[FeatureSet] = []
    first = seeds[0]
    for duration_s, n_scenes, ratios in plan:
        file = path / f"features_{first}_{duration_s}s_{n_scenes}_{'_'.join(map(str, ratios))}.pt"
        if not file.exists():
            made = make_features(
                weights,
                range(first, first + n_scenes),
                duration_s=duration_s,
                settings=[(ratio, "ascending") for ratio in ratios],
                n_processes=n_processes,
            )
            path.mkdir(parents=True, exist_ok=True)
            torch.save(made, file)
        sets += torch.load(file, weights_only=False)  # our own file of a moment ago
        first += n_scenes
    return sets


def learning_rate(step: int, n_steps: int) -> float:
    """Warm up, hold, and fall linearly over the last part."""
    left = (n_steps - step) / (_DECAY_SHARE * n_steps)
    return _PEAK_RATE * min((step + 1) / _WARM_UP_STEPS, 1.0, max(0.02, left))


@dataclass(frozen=True)
class Course:
    """What is trained on, for how long, and where the result goes."""

    path: Path
    sets: Sequence[FeatureSet]
    shares: Sequence[float]
    held_out: Sequence[FeatureSet]
    n_steps: int
    seed: int = 1
    log_every_s: float = 60
    n_processes: int = 1


def train_language(course: Course) -> None:
    """Train from the last saved step on, or from nothing; measure and save to `course.path` every so often.

    Two processes of one thread each, which average their gradients, use two cores far better than two threads in one
    process: most of the operations are too small to be shared.
    """
    course.path.parent.mkdir(parents=True, exist_ok=True)
    if course.n_processes == 1:
        _train(0, course)
        return
    meeting_point = Path(tempfile.mkdtemp()) / "meeting_point"
    spawn(_join_and_train, (course, str(meeting_point)), nprocs=course.n_processes)


def _join_and_train(rank: int, course: Course, meeting_point: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=course.n_processes
    )
    _train(rank, course)
    distributed.destroy_process_group()


def _train(rank: int, course: Course) -> None:
    torch.manual_seed(course.seed)
    student = Student()
    optimiser = _make_optimiser(student)
    first_step = 0
    if course.path.exists():
        saved = torch.load(course.path, weights_only=True)
        student.load_state_dict(saved["student"])
        optimiser.load_state_dict(saved["optimiser"])
        first_step = saved["step"]
    start = last_log = time.monotonic()
    recent: list[tuple[float, float]] = []
    for step in range(first_step, course.n_steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, course.n_steps)
        batch = draw_batch(course.sets, course.shares, np.random.default_rng((course.seed, step, rank)))
        answers, observed = batch_loss(student, batch)
        optimiser.zero_grad(set_to_none=True)
        (answers + _AUXILIARY_WEIGHT * observed).backward()
        if course.n_processes > 1:
            _average_gradients(student, course.n_processes)
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        recent.append((answers.item(), observed.item()))
        is_last = step == course.n_steps - 1
        if rank == 0 and (time.monotonic() - last_log > course.log_every_s or is_last):
            line = _progress(student, course.held_out, recent)
            print(json.dumps({"step": step + 1, "seconds": round(time.monotonic() - start)} | line), flush=True)
            saved = {"student": student.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            # Whoever reads the file while it is written sees the one before.
            torch.save(saved, course.path.with_suffix(".tmp"))
            course.path.with_suffix(".tmp").replace(course.path)
            recent, last_log = [], time.monotonic()


def _make_optimiser(student: Student) -> torch.optim.Optimizer:
    """AdamW; only matrices decay."""
    matrices = [p for p in student.parameters() if p.ndim == 2 and min(p.shape) > 2]
    ids = {id(p) for p in matrices}
    vectors = [p for p in student.parameters() if id(p) not in ids]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )


def _average_gradients(student: Student, n_processes: int) -> None:
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in student.parameters()]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= n_processes
    for parameter, part in zip(student.parameters(), flat.split([g.numel() for g in gradients]), strict=True):
        parameter.grad = part.view_as(parameter)


def _progress(
    student: Student, held_out: Sequence[FeatureSet], losses: Sequence[tuple[float, float]]
) -> dict[str, object]:
    """Mean losses, and accuracy on each held-out set; every second set is asked in the duplicate form."""
    mean = np.mean(losses, axis=0)
    line: dict[str, object] = {"loss": round(float(mean[0]), 4), "observer_loss": round(float(mean[1]), 4)}
    for i, data in enumerate(held_out):
        scores = answer_accuracy(student, data, duplicate=bool(i % 2))
        line[f"{data.tokens.shape[1]}f_{'dup' if i % 2 else 'gen'}"] = {k: round(v, 3) for k, v in scores.items()}
    return line


PLAN: Plan = (
    (8, 8_000, (0.1,)),
    (8, 1_500, (0.1, 0.2, 0.5)),
    (16, 1_500, (0.1,)),
    (32, 700, (0.1,)),
    (64, 350, (0.1,)),
)
SHARES = (0.22, 0.06, 0.06, 0.04, 0.14, 0.22, 0.26)
"""How often a batch comes from each (duration, ratio), in the order of PLAN."""
HELD_OUT_PLAN = ((8, 96, (0.1,)), (8, 24, (0.1,)), (32, 48, (0.1,)))


def main() -> None:
    """Parse the command line, make the features, train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("build/testbed_training"), help="folder of vision.pt and of what is made"
    )
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    vision = options.work / "vision.pt"
    train_language(
        Course(
            path=options.work / "language.pt",
            sets=load_or_make(options.work, vision, PLAN, TRAINING_SEEDS),
            shares=SHARES,
            held_out=load_or_make(options.work, vision, HELD_OUT_PLAN, HELD_OUT_SEEDS),
            n_steps=options.steps,
            n_processes=options.processes,
        )
    )


if __name__ == "__main__":
    main()
