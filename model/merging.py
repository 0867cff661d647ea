"""Sorted token merging (S-ToMe; paper section 3.2.2, Algorithm 1): match, weighted average, sort by size.

Written in operations of static shape that every graph runtime has (TopK, Gather, MatMul, comparisons), because
the exported graph is traced from this very code. Ties are settled here, once, for all runtimes:
- of equal similarities the lower index wins, in the choice of the partner and in the top r;
- merging leaves the unmerged tokens of set A in index order, then all of set B in index order;
- sorting by size is stable on that order.
TopK promises nothing about equal keys, so every key below is a distinct integer, exact in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from aurora_export.config import MergeConfig

TINY_NORM = 1e-30
"""Keeps an all-zero metric from becoming NaN; far below any real norm, so nothing else changes."""


class Tokens(NamedTuple):
    """The tokens of F frames on their way through the tower."""

    x: Tensor
    """residual stream, shape (F, T, D)"""
    sizes: Tensor
    """patches merged into each token, float32 integers, shape (F, T)"""
    owner: Tensor
    """index of the token that holds each patch, int64, shape (F, P)"""


class Match(NamedTuple):
    """Which tokens of set A (even positions) merge into which of set B (odd positions)."""

    unmerged: Tensor
    """positions in A that stay, ascending, shape (F, nA - r)"""
    source: Tensor
    """positions in A that merge, most similar first, shape (F, r)"""
    target: Tensor
    """position in B that each source merges into, shape (F, r)"""
    new_index: Tensor
    """where each old token stands after merging, shape (F, T)"""


def merge_and_sort(tokens: Tokens, metric: Tensor, r: int, config: MergeConfig) -> Tokens:
    """Merge the r most similar pairs and, if the profile says so, sort what is left by size.

    metric: what similarity is measured on, the keys averaged over the heads, shape (F, T, M).
    r: how many tokens disappear; 0 leaves the tokens as they are, at most half of those that may move.
    """
    if config.split == "patches_only":
        first, rest = _set_first_apart(tokens)
        rest = merge(rest, metric[:, 1:], r, protect_first=False)
        tokens = _put_first_back(first, rest)
    else:
        tokens = merge(tokens, metric, r, protect_first=config.protect_first)
    return sort_by_size(tokens, config) if config.sort == "per_layer" else tokens


def merge(tokens: Tokens, metric: Tensor, r: int, *, protect_first: bool) -> Tokens:
    """Merge r tokens of set A into their most similar partners, as averages weighted by size (ToMe, arXiv 2210.09461).

    metric: shape (F, T, M).  Returns T - r tokens: the unmerged of A, then all of B.
    """
    if r == 0:
        return tokens
    match = match_tokens(metric, r, protect_first=protect_first)
    x_a, x_b = tokens.x[:, 0::2], tokens.x[:, 1::2]
    size_a, size_b = tokens.sizes[:, 0::2], tokens.sizes[:, 1::2]
    # A one-hot product in place of a reducing scatter: exact, deterministic, and native everywhere.
    n_b = x_b.shape[1]
    one_hot = (match.target[:, None, :] == torch.arange(n_b, device=x_b.device)[None, :, None]).to(torch.float32)
    source_size = _take(size_a[..., None], match.source)
    merged_size = size_b + (one_hot @ source_size)[..., 0]
    merged = x_b * size_b[..., None] + one_hot @ (_take(x_a, match.source) * source_size)
    return Tokens(
        x=torch.cat([_take(x_a, match.unmerged), merged / merged_size[..., None]], dim=1),
        sizes=torch.cat([_take(size_a[..., None], match.unmerged)[..., 0], merged_size], dim=1),
        owner=torch.gather(match.new_index, 1, tokens.owner),
    )


def match_tokens(metric: Tensor, r: int, *, protect_first: bool) -> Match:
    """Choose the r tokens of set A with the most similar partner in set B (bipartite soft matching, arXiv 2210.09461).

    metric: shape (F, T, M), compared by cosine in float32.  r: from 1 to (T - protect_first) // 2.
    """
    metric = metric.to(torch.float32)
    metric = metric / metric.norm(dim=-1, keepdim=True).clamp(min=TINY_NORM)
    scores = metric[:, 0::2] @ metric[:, 1::2].mT
    best, partner = scores.amax(dim=-1), scores.argmax(dim=-1)
    if protect_first:
        best = torch.cat([torch.full_like(best[:, :1], -torch.inf), best[:, 1:]], dim=1)
    n_a, n_b = scores.shape[1:]
    index = torch.arange(n_a, device=metric.device)
    rank = _rank(best, index)
    # Unmerged tokens first, in index order; then the sources, best first.
    key = torch.where(rank < r, n_a + rank, index)
    order = _argsort_distinct(key)
    unmerged, source = order[:, : n_a - r], order[:, n_a - r :]
    new_a = torch.where(rank < r, n_a - r + partner, _rank_ascending(key))
    new_b = (n_a - r + torch.arange(n_a, device=metric.device)).expand_as(new_a)  # its last may be one too many
    new_index = torch.stack([new_a, new_b], dim=2).flatten(1)[:, : n_a + n_b]
    return Match(unmerged, source, torch.gather(partner, 1, source), new_index)


def sort_by_size(tokens: Tokens, config: MergeConfig) -> Tokens:
    """Sort by size, stably; token 0 stays first where the profile protects it (Algorithm 1, last step)."""
    if config.protect_first:
        first, rest = _set_first_apart(tokens)
        return _put_first_back(first, _sort_all(rest, config))
    return _sort_all(tokens, config)


def _sort_all(tokens: Tokens, config: MergeConfig) -> Tokens:
    n_tokens = tokens.x.shape[1]
    size = tokens.sizes if config.order == "ascending" else -tokens.sizes
    # |size * T + index| < P * P + P < 2^24: exact in float32, and distinct.
    key = (size * n_tokens).to(torch.int64) + torch.arange(n_tokens, device=tokens.x.device)
    order = _argsort_distinct(key)
    return Tokens(
        x=_take(tokens.x, order),
        sizes=_take(tokens.sizes[..., None], order)[..., 0],
        owner=torch.gather(_rank_ascending(key), 1, tokens.owner),
    )


class _First(NamedTuple):
    x: Tensor
    sizes: Tensor
    is_owner: Tensor


def _set_first_apart(tokens: Tokens) -> tuple[_First, Tokens]:
    """Split off token 0. In the rest its patches are given to index 0 for the time being."""
    first = _First(tokens.x[:, :1], tokens.sizes[:, :1], tokens.owner == 0)
    return first, Tokens(tokens.x[:, 1:], tokens.sizes[:, 1:], (tokens.owner - 1).clamp(min=0))


def _put_first_back(first: _First, rest: Tokens) -> Tokens:
    return Tokens(
        x=torch.cat([first.x, rest.x], dim=1),
        sizes=torch.cat([first.sizes, rest.sizes], dim=1),
        owner=torch.where(first.is_owner, torch.zeros_like(rest.owner), rest.owner + 1),
    )


def _rank(values: Tensor, index: Tensor) -> Tensor:
    """0 for the largest value, 1 for the next ...; of equal values the lower index comes first. Shape (F, n), int64."""
    theirs, mine = values[:, None, :], values[:, :, None]
    ahead = (theirs > mine) | ((theirs == mine) & (index[None, None, :] < index[None, :, None]))
    return ahead.to(torch.int64).sum(dim=-1)


def _rank_ascending(key: Tensor) -> Tensor:
    """Where each entry of distinct integer keys stands when sorted: the inverse of `_argsort_distinct`."""
    return (key[:, None, :] < key[:, :, None]).to(torch.int64).sum(dim=-1)


def _argsort_distinct(key: Tensor) -> Tensor:
    """Indices that sort distinct integer keys ascending, by TopK: torch.sort and argsort have no TensorRT layer."""
    return torch.topk(-key.to(torch.float32), key.shape[1], dim=1).indices


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of x (F, T, D) at index (F, n): shape (F, n, D)."""
    return torch.gather(x, 1, index[..., None].expand(-1, -1, x.shape[2]))
