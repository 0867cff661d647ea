"""Greedy longest match over bytes: a vocabulary as a double-array trie, walked from many positions at once.

A trie node is a slot, a number. The child of `slot` by `byte` is `base[slot] + byte`, if `parent` of that slot is
`slot`; otherwise there is none. The root is slot 0. `longest[slot]` is the number of the longest token that the path
to the slot begins with, 0 for none: a walk that ends anywhere knows its match without looking back.

    base     int32 (S,)   where a node's children begin, less the byte that leads to the first
    parent   int32 (S,)   -1 for a slot in no use
    longest  int32 (S,)   token number, from 1

The children of each node stand in a row from its smallest to its largest byte, rows one after the other, so the arrays
are made without a search: World's 65,529 tokens take 311,020 slots (3.6 MiB). A port to C++ needs these three arrays
and the loop of `_walk`. In Python that loop would be slow, so `_encode_block` makes it for all positions of a
block at once, one byte deeper each turn, and follows the matches from the block's start afterwards. The number of turns
is bounded; what is not known by then is walked one by one, if the text gets there at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from aurora_export.errors import IntegrityError

MAX_SLOTS = 1 << 22  # 13 times what World takes; 48 MiB

# Walking everywhere pays if most walks end early, as in all text but long runs. World needs 0.7 to 3 slots a byte.
_SLOTS_PER_BYTE = 4
# A turn over fewer walks than this share of the block costs more than walking the few that matter one by one.
_FEW_WALKS = 1 / 1024
_BLOCK_BYTES = 1 << 16
_SHORT_TEXT_BYTES = 1 << 10
_BEFORE_FIRST_ROW = 256  # base is not negative, and a leaf's, 0, leads to slots in no use


class UncoveredByteError(LookupError):
    """No token matches at `position`."""

    def __init__(self, position: int) -> None:
        super().__init__(f"no token matches at byte {position}")
        self.position = position


class TokenTrie:
    """Bytes to ids. Immutable, so threads may share it; nothing is kept from one text to the next."""

    def __init__(self, tokens: Mapping[int, bytes]) -> None:
        """Index a vocabulary, ids to byte strings; the byte strings are unique and none is empty.

        Takes time and memory in proportion to the bytes of all tokens.

        Raises IntegrityError if the trie needs more than MAX_SLOTS slots, as only a made-up vocabulary does.
        """
        self._id_of_number = np.array([0, *tokens], np.int64)
        self._length_of_number = np.array([0, *map(len, tokens.values())], np.intp)
        self._n_longest = int(self._length_of_number.max())

        levels = list(_levels(list(tokens.values())))
        n_slots = (levels[-1].end if levels else _BEFORE_FIRST_ROW) + 256  # base + 255 stays inside
        self._base = np.zeros(n_slots, np.int32)
        self._parent = np.full(n_slots, -1, np.int32)
        self._longest = np.zeros(n_slots, np.int32)
        for level in levels:
            self._base[level.parents] = level.bases
            self._parent[level.slots] = level.parent_of_slot
            self._longest[level.slots] = level.longest_of_slot
        self._slot_of_pair, self._pair_goes_on = self._walk_pairs()

    def _walk_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """First two turns of every walk, by first * 256 + second byte: slot intp [65536], may it go on bool [65536]."""
        first, second = np.divmod(np.arange(1 << 16), 256)
        slot = self._base[0] + first
        slot = np.where(self._parent[slot] == 0, slot, 0)
        below = self._base[slot] + second
        exists = (self._parent[below] == slot) & (slot > 0)
        return np.where(exists, below, slot), exists & (self._base[below] > 0)

    def encode(self, data: bytes) -> list[int]:
        """Ids of the longest token that matches, again and again.

        Linear in the text, whatever it holds: a byte costs at most one walk, and a walk at most as many steps as the
        longest token has bytes. Working memory is that of one block.

        Raises UncoveredByteError where no token matches.
        """
        ids: list[int] = []
        numbers: list[int] | np.ndarray
        position = 0
        while position < len(data):
            if len(data) - position <= _SHORT_TEXT_BYTES:
                numbers, position = self._encode_one_by_one(data, position)
            else:
                numbers, position = self._encode_block(data, position)
            ids.extend(self._id_of_number[numbers].tolist())
        return ids

    def _encode_one_by_one(self, data: bytes, position: int) -> tuple[list[int], int]:
        """Token numbers of all the rest, and where it ends. Raises as `encode`."""
        numbers = []
        known: dict[bytes, int] = {}
        while position < len(data):
            numbers.append(self._longest_at(data, position, known))
            position += self._length_of_number.item(numbers[-1])
        return numbers, position

    def _longest_at(self, data: bytes, position: int, known: dict[bytes, int]) -> int:
        """Number of the longest token that matches at position; `known` remembers. Raises as `encode`.

        What is walked one by one in a long text is mostly runs of one character, and each window of a run is the same.
        """
        window = data[position : position + self._n_longest]
        number = known.get(window)
        if number is None:
            number = known[window] = self._walk(window)
            if not number:
                raise UncoveredByteError(position)
        return number

    def _walk(self, data: bytes) -> int:
        """Number of the longest token that data begins with; 0 if none does."""
        # Python reads single numbers from a memoryview twice as fast as from an array.
        base, parent = self._base.data, self._parent.data
        slot = 0
        for byte in data:
            below = base[slot] + byte
            if parent[below] != slot:
                break
            slot = below
        return self._longest.item(slot)

    def _encode_block(self, data: bytes, start: int) -> tuple[np.ndarray, int]:
        """Token numbers of about _BLOCK_BYTES from start, and where the last of them ends. Raises as `encode`."""
        n_block = min(_BLOCK_BYTES, len(data) - start)
        # The last walks look beyond the block.
        codes = np.frombuffer(data, np.uint8, min(n_block + self._n_longest, len(data) - start), start)
        number = self._longest[self._deepest_slots(codes, n_block)]

        # Where the next token begins, counted from the block's start. What is unknown, and what lies behind the block,
        # leads to itself, so that jumps over several tokens stop there.
        next_start = np.arange(n_block + self._n_longest)
        next_start[:n_block] += self._length_of_number[number]
        after_2 = next_start[next_start]
        after_4 = after_2[after_2]
        after_8 = after_4[after_4].data

        # Only this is sequential: eight tokens a turn.
        stops = []
        known: dict[bytes, int] = {}
        position = 0
        while position < n_block:
            stops.append(position)
            further = after_8[position]
            if further == position:
                number[position] = self._longest_at(data, start + position, known)
                further += self._length_of_number.item(number[position])
            position = further

        is_start = np.zeros(len(next_start), bool)
        reached = np.array(stops)
        for jump in (after_4, after_2, next_start):
            reached = np.concatenate([reached, jump[reached]])
        is_start[reached] = True
        return number[is_start[:n_block]], start + position

    def _deepest_slots(self, codes: np.ndarray, n_block: int) -> np.ndarray:
        """Where the walk from each of the block's positions ends: slots, intp [n_block]; 0 if that was not followed.

        `codes` is uint8, the block and what the last walks may see behind it.
        """
        # The last byte of a text has no pair, and stays unknown.
        n_pairs = min(n_block, len(codes) - 1)
        pairs = codes[:n_pairs].astype(np.uint16) << 8
        pairs |= codes[1 : n_pairs + 1]
        deepest = np.zeros(n_block, np.intp)
        deepest[:n_pairs] = self._slot_of_pair[pairs]

        positions = np.flatnonzero(self._pair_goes_on[pairs])
        slots = deepest[positions]
        depth = 2
        slots_left = _SLOTS_PER_BYTE * n_block
        while len(positions) > n_block * _FEW_WALKS and slots_left > 0:
            slots_left -= len(positions)
            # At the end of the text, walks end where they are.
            n_inside = np.searchsorted(positions, len(codes) - depth)
            positions, slots = positions[:n_inside], slots[:n_inside]
            below = self._base[slots] + codes[depth:][positions]
            exists = self._parent[below] == slots
            positions, slots = positions[exists], below[exists]
            deepest[positions] = slots
            depth += 1
        deepest[positions] = 0
        return deepest


class _Level(NamedTuple):
    """The slots at one depth of the trie; numpy arrays of int64."""

    parents: np.ndarray  # the nodes above that have children
    bases: np.ndarray  # of these nodes
    slots: np.ndarray  # the children
    parent_of_slot: np.ndarray
    longest_of_slot: np.ndarray
    end: int
    """The first slot that no level has taken yet."""


def _levels(tokens: list[bytes]) -> Iterator[_Level]:
    """Yield the levels of the trie, from depth 1. In sorted order the tokens of a node stand side by side."""
    order = sorted(range(len(tokens)), key=tokens.__getitem__)
    lengths = np.array([len(tokens[index]) for index in order], np.int64)
    starts = np.cumsum(lengths) - lengths
    joined = np.frombuffer(b"".join([tokens[index] for index in order]), np.uint8)
    # Of the tokens that reach the depth: the number, the node so far, the longest token on the way there.
    number = np.array(order, np.int64) + 1
    slot = np.zeros(len(order), np.int64)
    longest = np.zeros(len(order), np.int64)
    end = _BEFORE_FIRST_ROW
    depth = 0
    while True:
        reaches = lengths > depth
        lengths, starts, number, slot, longest = (array[reaches] for array in (lengths, starts, number, slot, longest))
        if not len(lengths):
            return
        byte = joined[starts + depth].astype(np.int64)
        depth += 1
        starts_row = np.diff(slot, prepend=-1) != 0
        starts_slot = starts_row | (np.diff(byte, prepend=-1) != 0)

        first_of_row = np.flatnonzero(starts_row)
        last_of_row = np.append(first_of_row[1:], len(byte)) - 1
        widths = byte[last_of_row] - byte[first_of_row] + 1
        bases = end + np.cumsum(widths) - widths - byte[first_of_row]
        end += int(widths.sum())
        if end > MAX_SLOTS:
            raise IntegrityError(
                f"the vocabulary's index needs over {MAX_SLOTS} places, the limit",
                hint="the World vocabulary takes 0.3 million; copy the vocabulary file from the checkpoint again",
            )

        # The shortest token of a slot comes first: if any ends here, it does.
        first_of_slot = np.flatnonzero(starts_slot)
        ends_here = lengths[first_of_slot] == depth
        longest_of_slot = np.where(ends_here, number[first_of_slot], longest[first_of_slot])
        parent_of_slot = slot[first_of_slot]
        slot = bases[np.cumsum(starts_row) - 1] + byte
        longest = longest_of_slot[np.cumsum(starts_slot) - 1]
        yield _Level(
            parent_of_slot[starts_row[first_of_slot]], bases, slot[first_of_slot], parent_of_slot, longest_of_slot, end
        )
