from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from render import coverage, draw_frames, label_patches, write_clip
from scenes import COLOURS, SHAPES, sample_scene


def test_drawing_is_deterministic_and_does_not_depend_on_the_part_drawn() -> None:
    scene = sample_scene(11)
    whole = draw_frames(scene, scene.times_s)
    assert whole.shape == (8, 64, 64, 3)
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(whole[3:5], draw_frames(scene, scene.times_s[3:5]))


def test_the_large_drawing_scaled_down_is_the_small_one() -> None:
    worst = 0.0
    for seed in range(12):
        scene = sample_scene(seed)
        for item in scene.objects:
            small = coverage(item, scene, scene.times_s, 64)
            large = coverage(item, scene, scene.times_s, 256)
            worst = max(worst, float(np.abs(large.reshape(8, 64, 4, 64, 4).mean(axis=(2, 4)) - small).max()))
    assert worst < 0.3  # at the corners of the sharpest shapes; on average far less


def test_every_shape_covers_enough_patches_to_be_recognised() -> None:
    for shape in SHAPES:
        found = [
            int((label_patches(scene, scene.times_s)[..., 1] == 1 + SHAPES.index(shape)).sum(axis=1).max())
            for scene in map(sample_scene, range(60))
            if shape in {item.shape for item in scene.objects}
        ]
        assert min(found) >= 2, (shape, found)


def test_labels_name_the_object_and_its_centre() -> None:
    scene = sample_scene(2, n_objects=1)
    (item,) = scene.objects
    labels = label_patches(scene, scene.times_s)
    visible = item.visible(scene.times_s)
    assert (labels[~visible] == 0).all()
    rows = labels[visible]
    rows = rows[rows[..., 0] > 0]
    assert set(rows[:, 0]) == {1 + list(COLOURS).index(item.colour)}
    assert set(rows[:, 1]) == {1 + SHAPES.index(item.shape)}
    centres = item.positions(scene.times_s)[visible]
    assert np.abs(rows[:, None, 2:] - centres[None]).sum(-1).min(axis=1).max() < 1e-6


def test_a_clip_is_real_h264_and_decodes_to_the_drawing(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    scene = sample_scene(4)
    write_clip(scene, tmp_path / "clip.mp4", side=128, fps=2)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    drawn = draw_frames(scene, np.arange(16) / 2, side=128)
    assert decoded.shape == drawn.shape
    assert np.abs(decoded.astype(int) - drawn.astype(int)).mean() < 12
