"""S-ToMe against a reading of the paper in plain Python lists, which shares no line with the product."""

from __future__ import annotations

import math
from itertools import chain, product

import pytest
import torch

from aurora_export.config import PROFILES, MergeConfig
from aurora_export.model.merging import Tokens, merge_and_sort, sort_by_size


def merge_config(**changes):
    return MergeConfig.model_validate({**PROFILES["released"]["merge"], **changes})


def random_tokens(n_tokens, seed, *, n_frames=2, n_values=None, width=6):
    """Tokens that were merged before (sizes 1 to 4), each owning its own patches; few values make many ties."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n_frames, n_tokens, 5)
    if n_values is None:
        metric = torch.randn(shape, generator=generator)
    else:
        metric = torch.randint(1, 1 + n_values, shape, generator=generator).float()
    sizes = torch.randint(1, 5, (n_frames, 1), generator=generator).expand(-1, n_tokens).clone()
    sizes[:, ::3] = 1
    owner = [[token for token in range(n_tokens) for _ in range(int(row[token]))] for row in sizes]
    n_patches = max(map(len, owner))
    owner = torch.tensor([row + [n_tokens - 1] * (n_patches - len(row)) for row in owner])
    return Tokens(torch.randn(n_frames, n_tokens, width, generator=generator), sizes.float(), owner), metric


def plain_merge(vectors, metric, r, config):
    """One frame: a list of (vector, size, members) and its metric. Members tell which tokens went in."""
    first = []
    if config.split == "patches_only":
        first, vectors, metric = vectors[:1], vectors[1:], metric[1:]
    protect = config.protect_first and not first
    set_a, set_b = list(range(0, len(vectors), 2)), list(range(1, len(vectors), 2))

    def similarity(a, b):
        return float(torch.dot(metric[a] / metric[a].norm(), metric[b] / metric[b].norm()))

    best = {}
    for a in set_a:
        scores = [similarity(a, b) for b in set_b]
        best[a] = (-math.inf if protect and a == 0 else max(scores), set_b[scores.index(max(scores))])
    sources = sorted(set_a, key=lambda a: (-best[a][0], a))[:r]
    merged = {b: [vectors[b]] for b in set_b}
    for a in sources:
        merged[best[a][1]].append(vectors[a])
    out = [vectors[a] for a in set_a if a not in sources]
    for group in merged.values():
        size = sum(s for _, s, _ in group)
        out.append((sum(v * s for v, s, _ in group) / size, size, sorted(chain(*(m for _, _, m in group)))))
    return first + out


def plain_sort(vectors, config):
    n_fixed = int(config.protect_first)
    sign = 1 if config.order == "ascending" else -1
    return vectors[:n_fixed] + sorted(vectors[n_fixed:], key=lambda token: sign * token[1])  # Python's sort is stable


def check_frame(result, frame, expected, owner_before):
    sizes = [size for _, size, _ in expected]
    assert result.sizes[frame].tolist() == sizes
    torch.testing.assert_close(result.x[frame], torch.stack([vector for vector, _, _ in expected]))
    new_of_old = {old: new for new, (_, _, members) in enumerate(expected) for old in members}
    assert result.owner[frame].tolist() == [new_of_old[old] for old in owner_before[frame].tolist()]


@pytest.mark.parametrize(
    ("n_tokens", "r", "n_values"),
    [(2, 0, None), (5, 2, None), (16, 1, None), (17, 8, None), (64, 9, None), (64, 31, 2), (33, 16, 1), (90, 20, 3)],
)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"order": "descending"},
        {"sort": "none", "order": "none"},
        {"protect_first": False, "drop_first": False},
        {"split": "patches_only"},
    ],
    ids=["released", "descending", "unsorted", "unprotected", "patches_only"],
)
def test_equals_the_plain_reading_of_the_paper(n_tokens, r, n_values, changes):
    config = merge_config(**changes)
    r = min(r, (n_tokens - int(config.protect_first)) // 2)
    tokens, metric = random_tokens(n_tokens, seed=n_tokens, n_values=n_values)
    if n_values:  # few directions: exact ties, which products over vectors of different length would blur
        metric = torch.nn.functional.one_hot(metric[..., 0].long(), 8).float()
    result = merge_and_sort(tokens, metric, r, config)
    assert result.x.shape[1] == n_tokens - r
    for frame in range(2):
        vectors = [(tokens.x[frame, i], float(tokens.sizes[frame, i]), [i]) for i in range(n_tokens)]
        expected = plain_merge(vectors, metric[frame], r, config) if r else vectors
        if config.sort == "per_layer":
            expected = plain_sort(expected, config)
        check_frame(result, frame, expected, tokens.owner)


def test_patches_are_conserved_and_sorted():
    config = merge_config()
    x = torch.randn(3, 64, 8)
    tokens = Tokens(x, torch.ones(3, 64), torch.arange(64).expand(3, -1))
    for r in (9, 9, 9, 9, 9, 9):
        tokens = merge_and_sort(tokens, tokens.x, r, config)
    assert tokens.x.shape == (3, 10, 8)
    assert (tokens.sizes.sum(dim=1) == 64).all()
    assert (tokens.sizes[:, 1:].diff(dim=1) >= 0).all()
    assert (tokens.sizes[:, 0] == 1).all(), "token 0 neither merges nor moves"
    assert (tokens.owner[:, 0] == 0).all()
    for frame in range(3):
        assert torch.bincount(tokens.owner[frame], minlength=10).tolist() == tokens.sizes[frame].tolist()


def test_a_size_weighted_mean_of_the_merged_patches_is_what_stands_in_a_token():
    config = merge_config()
    x = torch.randn(1, 64, 8)
    tokens = Tokens(x, torch.ones(1, 64), torch.arange(64).expand(1, -1))
    for r in (20, 15, 10):
        tokens = merge_and_sort(tokens, tokens.x, r, config)
    for index in range(tokens.x.shape[1]):
        torch.testing.assert_close(tokens.x[0, index], x[0][tokens.owner[0] == index].mean(dim=0))


@pytest.mark.parametrize(("order", "protect"), [*product(["ascending", "descending"], [True, False])])
def test_sort_is_stable(order, protect):
    config = merge_config(order=order, protect_first=protect, drop_first=False, sort="final")
    sizes = torch.tensor([[4.0, 2.0, 1.0, 2.0, 1.0, 9.0, 1.0]])
    tokens = Tokens(torch.arange(7.0)[None, :, None], sizes, torch.arange(7)[None])
    result = sort_by_size(tokens, config).x[0, :, 0].tolist()
    start = [0] if protect else []
    expected = {
        "ascending": [*start, 2, 4, 6, 1, 3, *([] if protect else [0]), 5],
        "descending": [*start, 5, *([] if protect else [0]), 1, 3, 2, 4, 6],
    }
    assert result == expected[order]


def test_largest_sort_key_is_exact_in_float32():
    """The keys of TopK are integers in float32: one patch too many in one token must still sort right."""
    n_tokens = 576
    sizes = torch.full((1, n_tokens), 575.0)
    sizes[0, 0] = 576.0
    tokens = Tokens(torch.arange(float(n_tokens))[None, :, None], sizes, torch.arange(n_tokens)[None])
    config = merge_config(protect_first=False, drop_first=False)
    assert sort_by_size(tokens, config).x[0, :, 0].tolist() == [*range(1, n_tokens), 0]


def test_an_all_zero_metric_stays_finite():
    tokens, metric = random_tokens(16, seed=0)
    assert merge_and_sort(tokens, metric * 0, 4, merge_config()).x.isfinite().all()
