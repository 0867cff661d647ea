from __future__ import annotations

import zlib

import numpy as np
import pytest

from aurora_export.runtime.packing import pack, unpack


@pytest.mark.parametrize("shape", [(3, 1, 8), (2, 1, 2, 4, 4), (1,)])
def test_bit_for_bit(shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    array.reshape(-1)[0] = -0.0
    restored = unpack(pack(array), shape)
    assert restored.tobytes() == array.tobytes()
    assert restored.dtype == np.float32
    assert restored.flags.writeable


def test_what_repeats_takes_less():
    assert len(pack(np.ones((24, 1, 2048), np.float32))) < 1000


def test_it_never_expands_beyond_the_shape():
    """A bomb: 100 MB of zeros in 100 kB are not unpacked to see that they are too many."""
    bomb = np.frombuffer(zlib.compress(bytes(100 << 20)), np.uint8)
    with pytest.raises(ValueError, match="its content is not the 64 bytes of the shape"):
        unpack(bomb, (4, 4))


@pytest.mark.parametrize("cut", [0, 1, 10, -1])
def test_damaged(cut):
    data = pack(np.ones((4, 4), np.float32))
    with pytest.raises(ValueError, match=r"its content is not|incorrect|invalid|incomplete"):
        unpack(data[:cut], (4, 4))
    with pytest.raises(ValueError, match="its content is not"):
        unpack(np.append(data, np.uint8(0)), (4, 4))
    with pytest.raises(ValueError, match="its content is not"):
        unpack(data, (4, 5))
