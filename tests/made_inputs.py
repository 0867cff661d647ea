"""What tests and golden files are both made of: small configs, a bundle's files, and pixels by integer arithmetic.

Needs numpy alone: the golden files are made by a script that runs without the tests.
"""

from __future__ import annotations

from typing import Any

import numpy as np

VOCABULARY_SIZE = 260

SIZES_6: dict[str, dict[str, Any]] = {
    "vision": {"image_size": 16, "patch_size": 4, "width": 8, "n_layers": 4, "n_heads": 2, "mlp_width": 16},
    "merge": {"kept_ratio": 0.5},
    "projector": {"hidden_width": 8},
    "language": {
        "version": 6,
        "n_layers": 2,
        "width": 8,
        "head_size": 4,
        "ffn_width": 16,
        "vocabulary_size": VOCABULARY_SIZE,
        "low_ranks": {"mix": 2, "decay": 2},
    },
}
"""RWKV-6: 16 patches of a frame of 16 pixels, of which 10 tokens stay."""

SIZES_7: dict[str, dict[str, Any]] = {
    "vision": {"image_size": 64, "patch_size": 8, "width": 32, "n_layers": 5, "n_heads": 2, "mlp_width": 64},
    "projector": {"hidden_width": 48},
    "language": {
        "version": 7,
        "n_layers": 3,
        "width": 128,
        "head_size": 64,
        "ffn_width": 512,
        "vocabulary_size": 100,
        "low_ranks": {"decay": 8, "rate": 8, "value": 8, "gate": 8},
    },
}
"""RWKV-7, 64 patches a frame."""

FILES = {
    "vision": "onnx/vision.onnx",
    "language": "onnx/language.onnx",
    "embeddings": "embeddings/embeddings.npy",
    "vocabulary": "tokenizer/vocabulary.txt",
    "selfcheck": "selfcheck/selfcheck.safetensors",
}
"""Role -> path in a bundle."""

FRAME_SIZES = [
    (1, 1, 5),
    (1, 1, 1),
    (3, 1000, 16),
    (1000, 3, 16),
    (1, 300, 7),
    (2, 2, 64),
    (64, 64, 64),
    (64, 64, 1),
    (64, 64, 63),
    (63, 64, 64),
    (64, 65, 64),
    (65, 64, 64),
    (17, 23, 96),
    (241, 319, 64),
    (319, 241, 64),
    (240, 320, 384),
    (384, 500, 384),
    (500, 384, 384),
    (1081, 1917, 383),
    (1080, 1920, 384),
    (1920, 1080, 384),
]
"""height, width, S of frames that are resized"""


def integer_pixels(height: int, width: int) -> np.ndarray:
    """uint8 (height, width, 3), which the C++ tests make too."""
    row, column, channel = np.ogrid[:height, :width, :3]
    return ((row * 7919 + column * 104729 + channel * 1299709) % 65521 % 256).astype(np.uint8)
