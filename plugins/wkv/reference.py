"""The WKV recurrences of RWKV-6 and RWKV-7 in plain torch: the truth that every other implementation is tested against.

Layout, both versions: per-token tensors (B, T, H, N); state (B, H, N, N), float32, indexed [key, value].
Each function is pure: the state goes in as an argument and the next one comes out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

MIN_LOG_DECAY = -20.0
"""Chunked forms clamp the log-decay here: exp(-20) = 2e-9 is lossless beside 1 in float32."""

CHUNK_SIZE_WKV6 = 8
"""Exponents are relative to the middle of a chunk: they stay within 8 / 2 * 20 = 80 < 88 = log(float32 max)."""

CHUNK_SIZE_WKV7 = 16
"""RWKV-7's log-decay is never below -0.61: over 16 tokens the exponents stay within 10."""


def wkv6_recurrent(
    receptance: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, bonus: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the RWKV-6 recurrence token by token (Finch, arXiv 2404.05892, section 4).

    receptance, key, value: shape (B, T, H, N).  log_decay: log of the decay, <= 0, shape (B, T, H, N).
    bonus: weight of the current token ("u", time_faaaa), shape (H, N).
    state: shape (B, H, N, N), float32, indexed [key, value].
    Returns y, shape (B, T, H, N), and the state after token T.  y reads the state *before* the token's update.
    """
    outputs = []
    for t in range(receptance.shape[1]):
        outer = key[:, t, :, :, None] * value[:, t, :, None, :]
        outputs.append(torch.einsum("bhk,bhkv->bhv", receptance[:, t], bonus[..., None] * outer + state))
        state = outer + torch.exp(log_decay[:, t])[..., None] * state
    return torch.stack(outputs, dim=1), state


def wkv6_chunked(
    receptance: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    bonus: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """The same as `wkv6_recurrent`, by matrix products over chunks of `CHUNK_SIZE_WKV6` tokens; differentiable.

    Inside a chunk the output is a masked product of decayed receptances and keys; only the state is carried
    from chunk to chunk. Arguments and results as in `wkv6_recurrent`.
    """
    n_tokens = receptance.shape[1]
    receptance, key, value, log_decay = (
        _split_chunks(x, CHUNK_SIZE_WKV6) for x in (receptance, key, value, log_decay.clamp(min=MIN_LOG_DECAY))
    )
    after = log_decay.cumsum(dim=3)  # decay from the chunk's start to after token t
    before = after - log_decay
    total = after[..., -1:, :]
    middle = after[..., CHUNK_SIZE_WKV6 // 2 - 1 : CHUNK_SIZE_WKV6 // 2, :]
    # Entries of the future may be inf: tril copies zeros over them, multiplying by a mask would give NaN.
    scores = ((receptance * torch.exp(before - middle)) @ (key * torch.exp(middle - after)).mT).tril(-1)
    own = (receptance * bonus[:, None, None, :] * key).sum(-1, keepdim=True)
    within = scores @ value + own * value
    states, state = _carry_state(torch.exp(total).mT, (key * torch.exp(total - after)).mT @ value, state)
    across = (receptance * torch.exp(before)) @ states
    return _join_chunks(within + across, n_tokens), state


def wkv7_recurrent(
    receptance: Tensor,
    log_decay: Tensor,
    key: Tensor,
    value: Tensor,
    removal: Tensor,
    replacement: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run the RWKV-7 recurrence token by token (Goose, arXiv 2503.14456, section 4: generalised delta rule).

    receptance, key, value: shape (B, T, H, N).  log_decay: log of the decay, in (-0.607, 0), shape (B, T, H, N).
    removal: minus the normalised removal key (-kappa), shape (B, T, H, N).
    replacement: kappa times the in-context learning rate (kappa * a), shape (B, T, H, N).
    state: shape (B, H, N, N), float32, indexed [key, value] (the transpose of the papers' and kernels' matrix).
    Returns y, shape (B, T, H, N), and the state after token T.  y reads the state *after* the token's update.
    """
    outputs = []
    for t in range(receptance.shape[1]):
        removed = torch.einsum("bhk,bhkv->bhv", removal[:, t], state)
        state = (
            torch.exp(log_decay[:, t])[..., None] * state
            + replacement[:, t, :, :, None] * removed[..., None, :]
            + key[:, t, :, :, None] * value[:, t, :, None, :]
        )
        outputs.append(torch.einsum("bhk,bhkv->bhv", receptance[:, t], state))
    return torch.stack(outputs, dim=1), state


def wkv7_chunked(
    receptance: Tensor,
    log_decay: Tensor,
    key: Tensor,
    value: Tensor,
    removal: Tensor,
    replacement: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """The same as `wkv7_recurrent`, by matrix products over chunks of `CHUNK_SIZE_WKV7` tokens.

    With u_t the removed value of token t, u solves a unit lower triangular system per chunk
    ((I - A_ab) U = (alpha * exp(before)) M0 + A_ak V, strictly lower A). Arguments and results as in `wkv7_recurrent`.
    """
    n_tokens = receptance.shape[1]
    receptance, log_decay, key, value, removal, replacement = (
        _split_chunks(x, CHUNK_SIZE_WKV7) for x in (receptance, log_decay, key, value, removal, replacement)
    )
    after = log_decay.cumsum(dim=3)
    before = after - log_decay
    total = after[..., -1:, :]
    key_in, replacement_in = key * torch.exp(-after), replacement * torch.exp(-after)
    removal_out, receptance_out = removal * torch.exp(before), receptance * torch.exp(after)
    between = (removal_out @ replacement_in.mT).tril(-1)
    removed_value = (removal_out @ key_in.mT).tril(-1) @ value
    from_removed = (receptance_out @ replacement_in.mT).tril()
    from_value = (receptance_out @ key_in.mT).tril() @ value
    key_end, replacement_end = key * torch.exp(total - after), replacement * torch.exp(total - after)
    identity = torch.eye(CHUNK_SIZE_WKV7, dtype=between.dtype, device=between.device)
    outputs = []
    for c in range(receptance.shape[2]):
        removed = torch.linalg.solve_triangular(
            identity - between[:, :, c], removal_out[:, :, c] @ state + removed_value[:, :, c], upper=False
        )
        outputs.append(receptance_out[:, :, c] @ state + from_removed[:, :, c] @ removed + from_value[:, :, c])
        state = (
            torch.exp(total[:, :, c]).mT * state
            + replacement_end[:, :, c].mT @ removed
            + key_end[:, :, c].mT @ value[:, :, c]
        )
    return _join_chunks(torch.stack(outputs, dim=2), n_tokens), state


def _split_chunks(x: Tensor, chunk_size: int) -> Tensor:
    """(B, T, H, N) -> (B, H, chunks, chunk_size, N); the tail is zeros, which leave state and outputs alone."""
    x = pad(x, (0, 0, 0, 0, 0, -x.shape[1] % chunk_size))
    return x.unflatten(1, (-1, chunk_size)).permute(0, 3, 1, 2, 4)


def _join_chunks(x: Tensor, n_tokens: int) -> Tensor:
    """(B, H, chunks, chunk_size, N) -> (B, T, H, N), without the tail."""
    return x.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :n_tokens]


def _carry_state(decay: Tensor, update: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """S <- decay * S + update, chunk by chunk.

    decay: shape (B, H, chunks, N, 1).  update: shape (B, H, chunks, N, N).  state: shape (B, H, N, N).
    Returns the states before each chunk, shape (B, H, chunks, N, N), and the last state.
    """
    states = []
    # unbind, not update[:, :, c]: the gradient of an index is a whole zero tensor per chunk.
    for chunk_decay, chunk_update in zip(decay.unbind(2), update.unbind(2), strict=True):
        states.append(state)
        state = torch.addcmul(chunk_update, chunk_decay, state)
    return torch.stack(states, dim=2), state
