"""A small config for the tests of core/, which need no weights."""

from __future__ import annotations

import pytest

from aurora_export.config import config_from_parts


@pytest.fixture(scope="session")
def config():
    """RWKV-7, 64 patches a frame."""
    return config_from_parts(
        {
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
    )
