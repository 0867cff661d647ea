"""Draw scenes: frames for the model, labels for its training, and real H.264 files.

Edges are drawn from signed distances (how much of a pixel lies inside a shape), so a 256-pixel video scaled down
to 64 pixels looks like the 64-pixel drawing that the model was trained on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scenes import COLOURS, SHAPES, MovingObject, Scene


def coverage(item: MovingObject, scene: Scene, times_s: np.ndarray, side: int) -> np.ndarray:
    """How much of each pixel the object covers, shape (F, side, side), float32 in 0..1; 0 while it is not in view."""
    centres = (item.positions(times_s) * side).astype(np.float32)
    grid = np.arange(side, dtype=np.float32) + 0.5
    x = grid[None, None, :] - centres[:, 0, None, None]
    y = grid[None, :, None] - centres[:, 1, None, None]
    distance = _signed_distance(item.shape, x, y, np.float32(item.radius * side))
    # Never sharper than one pixel.
    inside = np.clip(0.5 - distance / max(1.0, scene.softness * side), 0, 1)
    return np.asarray(inside * item.visible(times_s)[:, None, None], dtype=np.float32)


def _signed_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: np.float32) -> np.ndarray:
    """Distance to the outline in pixels, negative inside; corners of the polygons are not rounded off."""
    if shape == "circle":
        return np.sqrt(x * x + y * y) - radius
    ax, ay = np.abs(x), np.abs(y)
    if shape == "square":
        return np.maximum(ax, ay) - np.float32(0.86) * radius
    if shape == "triangle":
        inner = np.float32(0.56) * radius
        lowered = y - np.float32(0.2) * radius
        return np.maximum(lowered, np.float32(0.8660254) * ax - np.float32(0.5) * lowered) - inner
    if shape == "cross":
        arm = np.float32(0.34) * radius
        return np.minimum(np.maximum(ax - radius, ay - arm), np.maximum(ax - arm, ay - radius))
    raise ValueError(f"unknown shape {shape!r}; shapes: {', '.join(SHAPES)}")


def draw_frames(scene: Scene, times_s: np.ndarray, *, side: int = 64) -> np.ndarray:
    """Frames at the given times, shape (F, side, side, 3), uint8 RGB."""
    rng = np.random.default_rng((scene.seed, 2))
    ramp = (np.arange(side, dtype=np.float32) + 0.5) / side
    down, across = ramp[:, None, None], ramp[None, :, None]
    corners = np.asarray(scene.background, dtype=np.float32)
    still = (corners[0] * (1 - across) + corners[1] * across) * (1 - down)
    still = still + (corners[2] * (1 - across) + corners[3] * across) * down
    still = still + np.float32(scene.texture) * rng.standard_normal((side, side, 1), dtype=np.float32)
    frames = np.repeat(still[None], len(times_s), axis=0)
    for item in scene.objects:
        inside = coverage(item, scene, times_s, side)[..., None]
        frames += inside * (np.asarray(COLOURS[item.colour], dtype=np.float32) - frames)
    frames *= np.float32(scene.gain)
    for frame, time_s in zip(frames, times_s, strict=True):
        # Keyed by the time, so that a clip drawn in parts is the clip drawn at once.
        grain = np.random.default_rng((scene.seed, 3, round(time_s * 1000)))
        frame += np.float32(scene.noise) * grain.standard_normal((side, side, 1), dtype=np.float32)
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)


def label_patches(scene: Scene, times_s: np.ndarray, *, side: int = 64, patch: int = 8) -> np.ndarray:
    """What each patch shows, for the training of the vision tower, shape (F, P, 4), float32.

    Columns: colour (0 background, 1.. in the order of COLOURS), shape (0 background, 1.. in the order of SHAPES),
    and the centre x, y of the object that the patch belongs to, as shares of the side. A patch belongs to the object
    that covers the most of it, if that is a fifth or more.
    """
    n = side // patch
    labels = np.zeros((len(times_s), n * n, 4), dtype=np.float32)
    most = np.full((len(times_s), n * n), 0.2, dtype=np.float32)
    for item in scene.objects:
        inside = coverage(item, scene, times_s, side)
        share = inside.reshape(len(times_s), n, patch, n, patch).mean(axis=(2, 4)).reshape(len(times_s), n * n)
        belongs = share >= most
        centres = item.positions(times_s).astype(np.float32)
        kind = np.array([1 + list(COLOURS).index(item.colour), 1 + SHAPES.index(item.shape)], dtype=np.float32)
        row = np.concatenate([np.broadcast_to(kind, (len(times_s), 2)), centres], axis=1)
        labels[belongs] = np.broadcast_to(row[:, None], labels.shape)[belongs]
        most[belongs] = share[belongs]
    return labels


def write_clip(scene: Scene, path: Path, *, side: int = 256, fps: int = 8, crf: int = 28) -> None:
    """Encode the scene as an H.264 video in an MP4 file (libx264, 4:2:0)."""
    import av

    times_s = np.arange(scene.duration_s * fps) / fps
    with av.open(str(path), "w") as container:
        # The default tag is the encoder's version; without it the same scene always gives the same bytes.
        container.metadata.clear()
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "threads": "1"})
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for start in range(0, len(times_s), 64):
            for frame in draw_frames(scene, times_s[start : start + 64], side=side):
                for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                    container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
