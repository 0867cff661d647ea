"""Sessions never mix: many at once, step by step in any order or in threads, are each what it is alone, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from aurora_export.runtime.session import Aurora
from aurora_export.runtime.video import Frame
from aurora_export.sampling import SamplingOptions

N_SESSIONS = 24
SEEDS = range(N_SESSIONS)


def story(aurora: Aurora, seed: int, folder) -> Iterator[object]:
    """What one session does, a small step at a time: watch, ask, save, load, watch again; yields what it says."""
    rng = np.random.default_rng(seed)
    options = SamplingOptions(temperature=0.0 if seed % 3 else 20.0, seed=seed)
    prompt = f"Look for {seed}." if seed % 2 else None
    for index in range(int(rng.integers(2, 7))):
        frame = rng.integers(0, 256, (18 + seed % 5, 20, 3), dtype=np.uint8)
        aurora.watch([Frame(frame, float(index))], prompt=prompt if not index else None)
        yield index
    yield from aurora.generate_ids(f"What is {seed}?", options=options, max_tokens=int(rng.integers(3, 12)))
    path = folder / f"{seed}.aurstate"
    aurora.save(path, packed=bool(seed % 2))
    yield "saved"
    if seed % 4 == 0:
        aurora.reset()
        yield "reset"
    aurora.load(path)
    yield from aurora.fork().generate_ids("And then?", options=options, max_tokens=4)
    yield from aurora.generate_ids("And before?", options=options, max_tokens=4)
    yield aurora.state.digest


@pytest.fixture
def alone(bundle, tmp_path):
    """What each session says when nothing else is there."""
    folder = tmp_path / "alone"
    folder.mkdir()

    def run(seed):
        with Aurora.open(bundle, threads=1) as aurora:
            return list(story(aurora, seed, folder))

    return [run(seed) for seed in SEEDS]


def test_interleaved(bundle, alone, tmp_path):
    first = Aurora.open(bundle, threads=1)
    stories = {seed: story(first.fork(), seed, tmp_path) for seed in SEEDS}
    said: list[list[object]] = [[] for _ in SEEDS]
    order = random.Random(0)
    while stories:
        seed = order.choice(list(stories))
        try:
            said[seed].append(next(stories[seed]))
        except StopIteration:
            del stories[seed]
    assert said == alone
    assert len({steps[-1] for steps in said}) == N_SESSIONS, "they are not all the same"
    assert first.phase == "empty"


def test_in_threads(bundle, alone, tmp_path):
    first = Aurora.open(bundle, threads=1)
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda seed: list(story(first.fork(), seed, tmp_path)), SEEDS))
    assert said == alone
