"""Token shift: each RWKV mix sees the previous token's activation beside its own."""

from __future__ import annotations

import torch
from torch import Tensor


def shift_tokens(x: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
    """Return x moved on by one token, and what the next call has to be given as `previous`.

    x: shape (B, T, E).  previous: the last token of the call before, zeros at the start, shape (B, E).
    Returns shapes (B, T, E) and (B, E).
    """
    return torch.cat([previous[:, None], x[:, :-1]], dim=1), x[:, -1]
