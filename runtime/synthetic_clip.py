"""A clip to watch where none is given: a bright square that circles over a lit ground, as H.264."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from aurora_export.runtime.containers import load_library

FRAMES_PER_SECOND = 25
WIDTH, HEIGHT = 640, 360


def write_clip(path: Path, n_seconds: int, *, fps: int = FRAMES_PER_SECOND) -> Path:
    """Encode n_seconds at `fps` frames a second; by default as much to decode for each second as a camera's stream has.

    Raises DependencyError without PyAV.
    """
    av = load_library()
    ground = np.add.outer(np.linspace(20, 120, HEIGHT), np.linspace(0, 60, WIDTH)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(n_seconds * fps):
            frame = np.stack([ground] * 3, axis=-1)
            x, y = int(WIDTH / 2 + 200 * math.cos(index / 9)), int(HEIGHT / 2 + 120 * math.sin(index / 9))
            frame[y - 40 : y + 40, x - 40 : x + 40] = (220, 60, 60)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path
