"""A small config for the tests of core/, which need no weights."""

from __future__ import annotations

import pytest

from aurora_export.config import config_from_parts
from made_inputs import SIZES_7


@pytest.fixture(scope="session")
def config():
    """RWKV-7, 64 patches a frame."""
    return config_from_parts(SIZES_7)
