"""The testbed's own small vocabulary, in the World file format, so that the real tokenizer code is exercised.

The 256 single bytes come first, as in World, so any text can be written; then the pieces of the questions and answers.
Pieces are chosen so that the text of a prompt is a dozen tokens long and each answer word is one.
"""

from __future__ import annotations

from pathlib import Path

from scenes import COLOURS, DIRECTIONS, NUMBERS, SHAPES

FILE_NAME = "rwkv_vocab_testbed.txt"

_WORDS_AFTER_A_SPACE = (
    *COLOURS, *SHAPES, *DIRECTIONS, *NUMBERS,
    "A", "a", "an", "the", "The", "What", "Which", "How", "In", "colour", "color", "shape", "object", "objects",
    "is", "are", "of", "many", "there", "appear", "appeared", "came", "first", "last", "way", "direction", "which",
    "does", "do", "move", "moves", "happens", "happened", "in", "video", "Describe", "Watch", "then", "answer",
    "question", "and", "it", "before", "after",
)  # fmt: skip
_FIRST_WORDS = ("What", "Which", "How", "In", "Describe", "Watch", "The", "A")
_MARKS = ("\n\n", ".\n", "?\n", "?\n\n", ".\n\n", "User:", "Assistant:", "?\n\nAssistant:", ".\n\nAssistant:")


def pieces() -> list[bytes]:
    """All pieces in the order of their ids, from id 1: the bytes 0..255, then by byte length, then by value."""
    longer = {f" {word}" for word in _WORDS_AFTER_A_SPACE} | set(_FIRST_WORDS) | set(_MARKS)
    encoded = {piece.encode() for piece in longer}
    many = sorted((piece for piece in encoded if len(piece) > 1), key=lambda piece: (len(piece), piece))
    return [bytes([value]) for value in range(256)] + many


def vocabulary_size() -> int:
    """Rows of the embedding table: id 0 (end of text), all pieces, padded to a multiple of 32."""
    return -(-(len(pieces()) + 1) // 32) * 32


def write_vocabulary(path: Path) -> None:
    """Write `<id> <Python literal> <byte length>` lines; a piece that is not UTF-8 is written as a bytes literal."""
    lines = []
    for number, piece in enumerate(pieces(), start=1):
        try:
            literal = repr(piece.decode("utf-8"))
        except UnicodeDecodeError:
            literal = repr(piece)
        lines.append(f"{number} {literal} {len(piece)}\n")
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    target = Path(__file__).parent / "checkpoint" / FILE_NAME
    target.parent.mkdir(exist_ok=True)
    write_vocabulary(target)
    print(f"{target}: {len(pieces())} pieces, {vocabulary_size()} rows")
