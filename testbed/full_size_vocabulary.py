"""A made-up vocabulary of the World vocabulary's size and kind: bytes, spaces, numbers, letters, words.

Like World's: ids in the order of byte length, byte b is id b + 1, two newlines are 261 in the full size, 486 tokens
are no whole characters, the longest is 128 spaces. Its words are syllables, the same in every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

FILE_NAME = "rwkv_vocab_v20230424.txt"
N_WORLD_TOKENS = 65_529
_FIRST_PAIRS = ("\t\t", "\t\n", "\n\t", "\n ", "\n\n")
"""tokens 257 to 261"""
_PROMPT_WORDS = (
    "User", "Assistant", "Describe", "Watch", "video", "question", "answer", "What", "How", "Which", " the", " video",
    " in", " detail", " is", " of", " a", " and", " there", " many", " objects", " to", " question", " answer", " then",
)  # fmt: skip
_LONGEST_RUN = 128
_LETTERS = ((0xC0, 0x180), (0x410, 0x450), (0x4E00, 0x7000))
"""code points: Latin with accents, Cyrillic, Han"""
_SYLLABLES = tuple(consonant + vowel for consonant in "bcdfghjklmnprstvz" for vowel in "aeiou")


def _longer_tokens() -> Iterator[bytes]:
    """Yield tokens of two bytes or more, the most useful first; more than World has."""
    yield from (text.encode() for text in (*_FIRST_PAIRS, *_PROMPT_WORDS))
    yield from (f"{number:02}".encode() for number in range(100))
    yield from (b" " * length for length in range(2, _LONGEST_RUN + 1))
    # Starts of characters: the first bytes of Han and emoji.
    starts = [bytes(pair) for pair in product(range(0xE3, 0xEA), range(0x80, 0xC0))]
    yield from starts[:294]
    yield from (bytes([0xF0, 0x9F, third]) for third in range(0x80, 0xC0))
    for first, last in _LETTERS:
        yield from (chr(code).encode() for code in range(first, last))
    for places in ([_SYLLABLES], [_SYLLABLES] * 2, [_SYLLABLES[:5], _SYLLABLES, _SYLLABLES]):
        for syllables in product(*places):
            word = "".join(syllables)
            yield from (form.encode() for form in (word, f" {word}", word.capitalize(), f" {word.capitalize()}"))


def made_tokens(n_tokens: int = N_WORLD_TOKENS) -> list[bytes]:
    """Tokens in the order of their ids, from id 1. n_tokens: 256 at least."""
    longer: dict[bytes, None] = {}
    for token in _longer_tokens():
        if len(longer) == n_tokens - 256:
            break
        longer[token] = None
    pairs = [text.encode() for text in _FIRST_PAIRS]
    rest = sorted((token for token in longer if token not in pairs), key=lambda token: (len(token), token))
    tokens = [bytes([value]) for value in range(256)] + [pair for pair in pairs if pair in longer] + rest
    if len(tokens) != n_tokens:
        raise ValueError(f"a vocabulary of {n_tokens} tokens cannot be made; 256 to {len(tokens)} can")
    return tokens


def write_vocabulary(path: Path, n_tokens: int = N_WORLD_TOKENS) -> None:
    """Write `<id> <Python literal> <byte length>` lines; a token that is not UTF-8 is written as a bytes literal."""
    lines = []
    for number, token in enumerate(made_tokens(n_tokens), start=1):
        try:
            literal = repr(token.decode("utf-8"))
        except UnicodeDecodeError:
            literal = repr(token)
        lines.append(f"{number} {literal} {len(token)}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
