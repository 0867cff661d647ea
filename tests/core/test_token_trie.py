"""The trie: equality with the definition on small alphabets, every way through its code, hostile vocabularies."""

from __future__ import annotations

import copy
import itertools
import pickle
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aurora_export import token_trie
from aurora_export.errors import IntegrityError
from aurora_export.token_trie import TokenTrie, UncoveredByteError

# Blocks and budgets so small that every text crosses many blocks, and limits at which walks are all, partly or never
# made at once: (_SHORT_TEXT_BYTES, _BLOCK_BYTES, _SLOTS_PER_BYTE, _FEW_WALKS).
WAYS = {
    "as shipped": (1 << 10, 1 << 16, 4, 1 / 1024),
    "one by one": (1 << 30, 1 << 16, 4, 1 / 1024),
    "tiny blocks": (1, 7, 4, 0),
    "tiny blocks, all walks at once": (1, 16, 1 << 30, 0),
    "tiny blocks, hardly any": (1, 16, 1, 0.5),
    "tiny blocks, none": (1, 16, 0, 0),
}


@pytest.fixture(params=WAYS.values(), ids=WAYS.keys())
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(
        ("_SHORT_TEXT_BYTES", "_BLOCK_BYTES", "_SLOTS_PER_BYTE", "_FEW_WALKS"), request.param, strict=True
    ):
        assert hasattr(token_trie, name)
        monkeypatch.setattr(token_trie, name, value)


def greedy_by_definition(tokens: dict[int, bytes], data: bytes) -> tuple[list[int], int]:
    """Ids, and the position where they end: before the end of data if no token matches there."""
    id_of_token = {token: token_id for token_id, token in tokens.items()}
    n_longest = max(map(len, id_of_token))
    ids = []
    position = 0
    while position < len(data):
        starts = (data[position : position + n] for n in range(n_longest, 0, -1))
        longest = next((start for start in starts if start in id_of_token), None)
        if longest is None:
            break
        ids.append(id_of_token[longest])
        position += len(longest)
    return ids, position


def encoded(trie: TokenTrie, data: bytes) -> tuple[list[int], int]:
    """As `greedy_by_definition`."""
    try:
        return trie.encode(data), len(data)
    except UncoveredByteError as error:
        return trie.encode(data[: error.position]), error.position


def vocabulary(longer: list[bytes]) -> dict[int, bytes]:
    """All single bytes and what is longer, with ids that are neither dense nor in any order."""
    tokens = [*(bytes([byte]) for byte in range(256)), *longer]
    return dict(zip(random.Random(0).sample(range(1, 2**31), len(tokens)), tokens, strict=True))


@pytest.mark.usefixtures("way")
def test_equals_the_definition_on_every_short_text_over_three_bytes() -> None:
    """Texts over the smallest, a middle and the largest byte, exhaustively up to length 5."""
    alphabet = (b"\x00", b"a", b"\xff")
    rng = random.Random(1)
    words = [b"".join(word) for n in range(2, 5) for word in itertools.product(alphabet, repeat=n)]
    for n_tokens in (0, 5, 40):
        tokens = vocabulary(rng.sample(words, n_tokens))
        trie = TokenTrie(tokens)
        for n in range(6):
            for text in map(b"".join, itertools.product(alphabet, repeat=n)):
                assert encoded(trie, text) == greedy_by_definition(tokens, text)


@pytest.mark.usefixtures("way")
def test_equals_the_definition_on_long_texts_without_a_split() -> None:
    rng = random.Random(2)
    for alphabet in (b"a", b"ab", b" \n", b"abc\xff"):
        words = {bytes(rng.choices(alphabet, k=rng.randrange(2, 40))) for _ in range(60)}
        tokens = vocabulary(sorted(words))
        trie = TokenTrie(tokens)
        for text in (bytes(rng.choices(alphabet, k=2000)), b"".join(rng.choices(sorted(words), k=80)), alphabet * 700):
            assert encoded(trie, text) == greedy_by_definition(tokens, text)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sets(st.binary(min_size=1, max_size=5), min_size=1), st.lists(st.binary(max_size=5)))
def test_any_vocabulary(tokens: set[bytes], parts: list[bytes]) -> None:
    """Also without all bytes: the position that no token covers is named."""
    by_id = dict(enumerate(sorted(tokens), start=1))
    text = b"".join([*sorted(tokens), *parts])
    assert encoded(TokenTrie(by_id), text) == greedy_by_definition(by_id, text)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("position", [0, 1, 16, 17, 70_000])
def test_the_byte_that_no_token_covers_is_named(position: int) -> None:
    trie = TokenTrie({1: b"a", 2: b"aa"})
    # Even, so that the greedy tokens end before the byte.
    text = b"a" * position + b"b" + b"a" * (70_001 - position)
    with pytest.raises(UncoveredByteError, match=f"no token matches at byte {position}") as caught:
        trie.encode(text)
    assert caught.value.position == position


def test_arrays_are_what_the_module_says() -> None:
    trie = TokenTrie({7: b"b", 9: b"bd", 5: b"bdx", 6: b"z"})
    base, parent, longest = trie._base, trie._parent, trie._longest
    # b..z is one row, d and x are rows of one slot.
    root_row = int(base[0]) + ord("b")
    assert np.flatnonzero(parent >= 0).tolist() == [root_row, root_row + 24, root_row + 25, root_row + 26]
    assert parent[root_row : root_row + 27].tolist() == [0] + [-1] * 23 + [0, root_row, root_row + 25]
    assert longest[root_row : root_row + 27].tolist() == [1] + [0] * 23 + [4, 2, 3]
    assert all(array.dtype == np.int32 for array in (base, parent, longest))
    assert trie.encode(b"zbdxbdbb") == [6, 5, 9, 7, 7]


def test_an_empty_vocabulary_covers_nothing() -> None:
    assert TokenTrie({}).encode(b"") == []
    for text in (b"a", b"a" * 5000):
        with pytest.raises(UncoveredByteError):
            TokenTrie({}).encode(text)


def test_a_copy_encodes_as_the_original() -> None:
    trie = TokenTrie(vocabulary([b"ab", b"abc"]))
    text = b"abcab" * 1000
    for other in (copy.deepcopy(trie), pickle.loads(pickle.dumps(trie))):
        assert other.encode(text) == trie.encode(text)


def test_a_vocabulary_whose_index_would_be_huge_is_refused() -> None:
    """A node with children 0x00 and 0xff takes 256 slots; a few hundred KB of such tokens would take gigabytes."""
    pairs = [bytes(word) for word in itertools.product((0, 255), repeat=15)]
    with pytest.raises(IntegrityError, match=r"^the vocabulary's index needs over 4194304 places, the limit$"):
        TokenTrie(dict(enumerate(pairs, start=1)))


def test_time_and_memory_stay_bounded_for_hostile_vocabularies() -> None:
    """Tokens of every length up to the limit, so that each walk is as long as can be, and thousands of deep ones."""
    rng = random.Random(3)
    runs = [b"a" * n for n in range(2, 1025)]
    deep = sorted({rng.randbytes(1000) for _ in range(3000)})
    start = time.perf_counter()
    trie = TokenTrie(vocabulary([*runs, *deep]))
    for text in (b"a" * 500_000, (b"a" * 1023 + b"b") * 300, b"".join(token[:-1] for token in deep[:300])):
        assert len(trie.encode(text)) <= len(text)
    assert time.perf_counter() - start < 30
