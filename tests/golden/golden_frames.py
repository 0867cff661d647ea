"""Digests of resized frames, and of NV12 in RGB, over pixels that integer arithmetic makes."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from typing import Any

import numpy as np

from aurora_export.frames import resize_frame
from made_inputs import FRAME_SIZES, integer_pixels

MODES = ("crop", "squash", "pad")
PAD_VALUE = (127, 3, 250)

NV12_SIZES = [(2, 2), (1, 1), (5, 3), (36, 64), (90, 160)]
MATRICES = {"bt601": (Fraction(299, 1000), Fraction(114, 1000)), "bt709": (Fraction(2126, 10000), Fraction(722, 10000))}
"""kr, kb of ITU-R BT.601 and BT.709"""
RANGES = ("limited", "full")


def nv12_planes(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Luma uint8 (height, width), and chroma uint8 (⌈height / 2⌉, ⌈width / 2⌉, 2)."""
    luma = integer_pixels(height, width)[:, :, 0]
    return luma, integer_pixels((height + 1) // 2, (width + 1) // 2)[:, :, 1:]


def rgb_from_nv12(luma: np.ndarray, chroma: np.ndarray, matrix: str, value_range: str) -> np.ndarray:
    """uint8 (height, width, 3), as runtime/cpp/src/nv12.h describes; coefficients from exact fractions."""
    kr, kb = MATRICES[matrix]
    kg = 1 - kr - kb
    limited = value_range == "limited"
    luma_scale, chroma_scale = (Fraction(255, 219), Fraction(255, 224)) if limited else (Fraction(1), Fraction(1))

    def fixed(c: Fraction) -> int:
        return int(c * 65536 + Fraction(1, 2))

    height, width = luma.shape
    u, v = (np.kron(chroma[:, :, i].astype(int) - 128, np.ones((2, 2), int))[:height, :width] for i in (0, 1))
    y = fixed(luma_scale) * (luma.astype(int) - (16 if limited else 0))
    sums = (
        y + fixed(2 * (1 - kr) * chroma_scale) * v,
        y - fixed(2 * (1 - kb) * kb / kg * chroma_scale) * u - fixed(2 * (1 - kr) * kr / kg * chroma_scale) * v,
        y + fixed(2 * (1 - kb) * chroma_scale) * u,
    )
    return np.stack([((total + (1 << 15)) >> 16).clip(0, 255) for total in sums], axis=2).astype(np.uint8)


def digest(image: np.ndarray) -> str:
    """SHA-256 of the bytes."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def cases() -> dict[str, Any]:
    """Resized frames by size and mode, and converted ones by matrix and range."""
    resized = [
        {
            "height": height,
            "width": width,
            "size": size,
            "mode": mode,
            "sha256": digest(resize_frame(integer_pixels(height, width), size=size, mode=mode, pad_value=PAD_VALUE)),
        }
        for height, width, size in FRAME_SIZES
        for mode in MODES
    ]
    converted = []
    for height, width in NV12_SIZES:
        for matrix in MATRICES:
            for value_range in RANGES:
                rgb = rgb_from_nv12(*nv12_planes(height, width), matrix, value_range)
                small = resize_frame(rgb, size=24, mode="pad", pad_value=PAD_VALUE)
                names = {"height": height, "width": width, "matrix": matrix, "range": value_range}
                converted.append({**names, "sha256": digest(rgb), "resized": digest(small)})
    return {"pad_value": PAD_VALUE, "resized": resized, "nv12": converted}
