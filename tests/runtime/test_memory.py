"""Peak memory does not depend on the length of the video."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource, sys
from aurora_export.runtime.session import Aurora
with Aurora.open(sys.argv[1], threads=1) as aurora:
    report = aurora.watch(sys.argv[2], fps=4)
print(report.n_frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
ALLOWED_MB = 4
"""FFmpeg keeps an index of the packets, some bytes each."""


def frames_and_peak_mb(bundle, video) -> tuple[int, float]:
    command = [sys.executable, "-c", PROGRAM, str(bundle), str(video)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    n_frames, kilobytes = process.stdout.split()
    return int(n_frames), int(kilobytes) / 1024


def test_peak_memory_of_ten_seconds_and_ten_minutes(bundle, make_video):
    """Kept frames of 0.1 MB each would be 240 MB; even a tenth of them would show."""
    short, long = (make_video("clip.mp4", n, rate=4, codec="mpeg4", size=(256, 128)) for n in (40, 2400))
    n_short, short_mb = frames_and_peak_mb(bundle, short)
    n_long, long_mb = frames_and_peak_mb(bundle, long)
    assert (n_short, n_long) == (40, 2400)
    assert long_mb - short_mb < ALLOWED_MB, f"{short_mb:.1f} MB for 10 s, {long_mb:.1f} MB for 10 min"
