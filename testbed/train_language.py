"""Stage 2: train projector and RWKV-6 on the frozen tower's tokens.

Half of the steps use the general instruction before the frames and fork the watched state over several questions,
or ask them one after the other; half put one question before the frames and again after them. Answers are the loss,
and, dropped afterwards, linear heads: after every frame they read from the hidden state what has been seen so far,
and at every token of an object where it was a frame ago and how it moves. Without the second, direction was still at
chance after 1300 steps, when all else was right; with it, 500 steps later, it was not.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn

from dialogue import choose_questions, make_turns, prefix_ids
from features import FeatureSet, make_features
from scenes import HELD_OUT_SEEDS, TRAINING_SEEDS, Question, questions
from student import Batch, Student, answer_accuracy, batch_loss

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
    shares: tuple[Sequence[float], Sequence[float]]
    """how often a batch comes from each set: at first, and in the last third"""
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
        shares = course.shares[step >= course.n_steps * 2 // 3]
        batch = draw_batch(course.sets, shares, np.random.default_rng((course.seed, step, rank)))
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
SHARES = (0.34, 0.08, 0.08, 0.05, 0.17, 0.16, 0.12), (0.22, 0.06, 0.06, 0.04, 0.14, 0.22, 0.26)
"""How often a batch comes from each (duration, ratio), in the order of PLAN."""
HELD_OUT_PLAN = ((8, 96, (0.1,)), (8, 24, (0.1,)), (32, 48, (0.1,)))


def main() -> None:
    """Parse the command line, make the features, train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("build/testbed_training"), help="folder of vision.pt and of what is made"
    )
    parser.add_argument("--steps", type=int, default=5300)
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
