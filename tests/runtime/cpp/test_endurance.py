"""Nothing grows: opening and closing, asking, and two hours of video at a frame a second."""

from __future__ import annotations

import ctypes as c
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from aurora_library import Model, Session

FRAME = np.arange(96 * 96 * 3, dtype=np.uint8).reshape(96, 96, 3)

pytestmark = pytest.mark.slow


def resident_bytes() -> int:
    """Of this process, after the allocator gave back what it can."""
    c.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def growth(run, rounds: int) -> list[int]:
    """Resident bytes after each round but the first, which warms up."""
    run()
    sizes = []
    for _ in range(rounds):
        run()
        sizes.append(resident_bytes())
        print(f"{sizes[-1] / 2**20:.2f} MiB", flush=True)  # seen with -s
    return [later - earlier for earlier, later in pairwise(sizes)]


def test_1000_times_opened_and_closed(library, testbed_bundle):
    def run():
        for _ in range(100):
            with Model(library, testbed_bundle, n_threads=1) as model, Session(model):
                pass

    # 100 models that leaked 10 kB each would be 1 MB a round; a leaked session has 200 kB.
    assert np.median(growth(run, 9)) < 200_000


def test_10000_times_asked(session):
    session.watch(FRAME)
    with session.clone() as fork:
        state = fork.save_to_bytes()

        def run():
            for _ in range(1000):
                fork.load_from_bytes(state)
                assert fork.ask("What is shown?", max_tokens=2)

        assert np.median(growth(run, 9)) < 100_000  # 100 bytes an answer


def test_two_hours_of_video(session):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, 96, 96, 3), np.uint8)

    def run():
        for i in range(720):
            session.watch(frames[i % 8], time_s=i)

    sizes = growth(run, 9)  # 7,200 frames, the first round included
    assert session.info["frames_seen"] == 7200
    assert np.median(sizes) < 50_000
