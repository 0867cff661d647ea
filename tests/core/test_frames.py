"""Frames: equal to Pillow's bytes, the geometry of the three modes, refusals."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest

from aurora_export.errors import UsageError
from aurora_export.frames import MAX_SIDE, resample_weights, resize_and_crop, resize_frame
from made_inputs import FRAME_SIZES, integer_pixels


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Uniform bytes with saturated patches, so that the kernel's overshoot has something to clip."""
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    frame[: height // 2][rng.random((height // 2, width)) < 0.5] = 255
    frame[height // 2 :, : width // 2] = 0
    return frame


def pillow_resize(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pillow's bicubic, horizontal pass first: by two calls, since Pillow 13 alone would choose the order."""
    image = pytest.importorskip("PIL.Image", reason="Pillow, the oracle, is not installed")
    bicubic = image.Resampling.BICUBIC
    wide = image.fromarray(frame).resize((width, frame.shape[0]), bicubic)
    return np.asarray(wide.resize((width, height), bicubic))


def pillow_crop(frame: np.ndarray, size: int) -> np.ndarray:
    height, width = frame.shape[:2]
    short = min(height, width)
    full = pillow_resize(frame, int(size * height / short), int(size * width / short))
    top, left = (full.shape[0] - size) // 2, (full.shape[1] - size) // 2
    return full[top : top + size, left : left + size]


def pillow_pad(frame: np.ndarray, size: int, pad_value: tuple[int, int, int]) -> np.ndarray:
    image = pytest.importorskip("PIL.Image", reason="Pillow, the oracle, is not installed")
    height, width = frame.shape[:2]
    side = max(height, width)
    square = image.new("RGB", (side, side), pad_value)
    square.paste(image.fromarray(frame), ((side - width) // 2, (side - height) // 2))
    return pillow_resize(np.asarray(square), size, size)


# The first 16 hex digits of SHA-256, by S and mode; equal to Pillow's when they were recorded.
RECORDED = {
    (32, "crop"): "981b99b069334837",
    (32, "pad"): "bd5253fe9bbe936c",
    (32, "squash"): "247ce30f57f8ad03",
    (200, "crop"): "4f20d0b1e3d9e356",
    (200, "pad"): "2839fb63bb3a0a82",
    (200, "squash"): "47576cf90ef5b827",
}


@pytest.mark.parametrize(("height", "width", "size"), FRAME_SIZES)
def test_equals_pillow_to_the_bit(height: int, width: int, size: int) -> None:
    frame = noise(height, width)
    np.testing.assert_array_equal(resize_frame(frame, size=size, mode="crop"), pillow_crop(frame, size))
    np.testing.assert_array_equal(resize_frame(frame, size=size, mode="squash"), pillow_resize(frame, size, size))
    pad_value = (127, 3, 250)
    np.testing.assert_array_equal(
        resize_frame(frame, size=size, mode="pad", pad_value=pad_value), pillow_pad(frame, size, pad_value)
    )


def test_equals_pillow_at_random_sizes() -> None:
    rng = np.random.default_rng(1)
    for seed in range(60):
        height, width, full_height, full_width = (int(side) for side in rng.integers(1, 150, 4))
        frame = noise(height, width, seed)
        full = resize_and_crop(
            frame, full_size=(full_height, full_width), top=0, left=0, size=(full_height, full_width)
        )
        np.testing.assert_array_equal(full, pillow_resize(frame, full_height, full_width))


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (1280, 720), (480, 640), (333, 500)])
def test_crop_equals_a_single_call_of_pillow(height: int, width: int) -> None:
    """What an image processor does in one call; the order of the passes is no matter where both sides shrink alike."""
    image = pytest.importorskip("PIL.Image", reason="Pillow, the oracle, is not installed")
    frame = noise(height, width)
    full_height, full_width = (int(384 * side / min(height, width)) for side in (height, width))
    full = np.asarray(image.fromarray(frame).resize((full_width, full_height), image.Resampling.BICUBIC))
    top, left = (full_height - 384) // 2, (full_width - 384) // 2
    np.testing.assert_array_equal(resize_frame(frame, size=384), full[top : top + 384, left : left + 384])


def test_a_crop_equals_the_same_part_of_the_whole() -> None:
    frame = noise(90, 140)
    whole = resize_and_crop(frame, full_size=(61, 200), top=0, left=0, size=(61, 200))
    for top, left, height, width in [(0, 0, 61, 200), (60, 199, 1, 1), (13, 77, 20, 50), (0, 150, 61, 50)]:
        part = resize_and_crop(frame, full_size=(61, 200), top=top, left=left, size=(height, width))
        np.testing.assert_array_equal(part, whole[top : top + height, left : left + width])


def test_without_an_oracle_the_bytes_stay_those_recorded() -> None:
    """What the C++ side must reproduce too; the input is made by integer arithmetic only."""
    frame = integer_pixels(90, 160)
    digests = {
        (size, mode): hashlib.sha256(resize_frame(frame, size=size, mode=mode).tobytes()).hexdigest()[:16]
        for size in (32, 200)
        for mode in ("crop", "squash", "pad")
    }
    assert digests == RECORDED


def test_fixed_point_weights_by_hand() -> None:
    """Halving 8 pixels, output 1: its centre is 3, so inputs 0 .. 6 lie at (-2.5 .. 3.5) / 2 of the kernel."""
    first, weights = resample_weights(8, 4, 0, 4)
    assert first.tolist() == [0, 0, 1, 3]
    kernel = {0.25: 0.8671875, 0.75: 0.2265625, 1.25: -0.0703125, 1.75: -0.0234375}
    taps = [kernel[abs(x)] for x in (-1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 1.75)]
    assert weights[1].tolist() == [round(tap / sum(taps) * 2**22) for tap in taps]
    assert weights[2].tolist() == weights[1].tolist()[::-1]


def test_a_plain_frame_stays_plain() -> None:
    for colour in (0, 1, 127, 254, 255):
        frame = np.full((37, 91, 3), colour, np.uint8)
        for mode in ("crop", "squash"):
            assert (resize_frame(frame, size=48, mode=mode) == colour).all()


def test_views_are_accepted_and_left_unchanged() -> None:
    frame = noise(50, 60)
    flipped = frame[::-1, :, ::-1]
    before = flipped.copy()
    np.testing.assert_array_equal(resize_frame(flipped, size=24), resize_frame(before, size=24))
    np.testing.assert_array_equal(flipped, before)
    frame.flags.writeable = False
    resize_frame(frame, size=24, mode="pad")


def test_the_result_is_the_callers_own() -> None:
    frame = noise(24, 24)
    result = resize_frame(frame, size=24)
    result[:] = 0
    assert frame.any()


def test_pad_centres_the_frame_as_llava_does() -> None:
    padded = resize_frame(np.full((2, 5, 3), 200, np.uint8), size=5, mode="pad", pad_value=(1, 2, 3))
    assert (padded[1:3] == 200).all()
    assert (padded[[0, 3, 4]] == (1, 2, 3)).all()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "a frame must be a numpy array of uint8, not an array of float32"),
        ([[[0, 0, 0]]], "a frame must be a numpy array of uint8, not a list"),
        (np.zeros((4, 4), np.uint8), "a frame must have shape (height, width, 3), not (4, 4)"),
        (np.zeros((4, 4, 4), np.uint8), "a frame must have shape (height, width, 3), not (4, 4, 4)"),
        (np.zeros((1, 4, 4, 3), np.uint8), "a frame must have shape (height, width, 3), not (1, 4, 4, 3)"),
        (np.zeros((0, 4, 3), np.uint8), f"a frame of 4 x 0 pixels; each side must be from 1 to {MAX_SIDE}"),
        (
            np.zeros((1, MAX_SIDE + 1, 3), np.uint8),
            f"a frame of {MAX_SIDE + 1} x 1 pixels; each side must be from 1 to {MAX_SIDE}",
        ),
    ],
)
def test_a_bad_frame_is_refused(frame, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        resize_frame(frame, size=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "the image size is 0; it must be a whole number from 1 to 4096"),
        ({"size": 5000}, "the image size is 5000; it must be a whole number from 1 to 4096"),
        ({"size": 8.0}, "the image size is 8.0; it must be a whole number from 1 to 4096"),
        ({"size": 8, "mode": "fit"}, "unknown resize mode 'fit'"),
        (
            {"size": 8, "mode": "pad", "pad_value": (0, 0, 256)},
            "pad_value is (0, 0, 256); it must be three whole numbers from 0 to 255",
        ),
    ],
)
def test_a_bad_option_is_refused(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        resize_frame(noise(4, 5), **options)
