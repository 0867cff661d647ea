"""The pass over clips: what it sees, that it goes on where it was, and what it refuses."""

from __future__ import annotations

from aurora_export.calibration.calibrate import calibrate
from aurora_export.calibration.clips import Showing


class Silent:
    """Progress that keeps what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def phase(self, name: str) -> None:
        self.said.append(name)

    def detail(self, text: str) -> None:
        self.said.append(text)


SHOWING = Showing(num_frames=4, answer_tokens=5, clips_per_sequence=4)


def run(bundle, clips, out, **options):
    return calibrate(bundle, clips, out, progress=Silent(), showing=SHOWING, threads=1, **options)
