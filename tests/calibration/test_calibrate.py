"""The pass over clips: what it sees, that it goes on where it was, and what it refuses."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from aurora_export.calibration import calibrate as module
from aurora_export.calibration import streaming_pass, taps
from aurora_export.calibration.calibrate import Method, calibrate, divisor_for
from aurora_export.calibration.clips import Showing, read_clips
from aurora_export.calibration.error_feedback import Moments
from aurora_export.calibration.scales_file import read_scales
from aurora_export.errors import IncompatibleError, IntegrityError, ResourceError, UsageError
from handmade_bundle import FILES, rewrite_manifest
from test_calibration_fixtures import SITES, write_named_bundle


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
