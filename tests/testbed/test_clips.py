from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from make_clips import CLIPS, FPS, Clip, clip_questions, find_scene
from render import draw_frames
from scenes import HELD_OUT_SEEDS, KINDS

FOLDER = Path(__file__).resolve().parents[2] / "testbed" / "clips"


def test_shipped_questions_are_those_of_the_scenes() -> None:
    rows = json.loads((FOLDER / "questions.json").read_text(encoding="utf-8"))
    assert rows == clip_questions()
    for clip in CLIPS:
        assert {row["kind"] for row in rows if row["clip"] == f"{clip.name}.mp4"} == set(KINDS)


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)
def test_shipped_clip_is_h264_and_shows_the_scene(clip: Clip) -> None:
    scene = find_scene(clip)
    assert scene.seed in HELD_OUT_SEEDS
    with av.open(str(FOLDER / f"{clip.name}.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == FPS
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == clip.duration_s * FPS
    middle = len(frames) // 2
    drawn = draw_frames(scene, np.array([middle / FPS]), side=256)[0]
    assert np.abs(frames[middle].astype(int) - drawn.astype(int)).mean() < 12
