"""The RWKV World tokenizer: greedy longest match over bytes, with the vocabulary that comes with the checkpoint.

A vocabulary file has one line per token, `<id> <literal> <byte length>`, where the literal is what Python's
`repr` writes for a str (its UTF-8 bytes are meant) or a bytes object. Id 0 has no line: it is the end of
text and stands for no bytes. There is no normalisation, no prefix space and no special token.
"""

from __future__ import annotations

import ast
import codecs
import re
from collections.abc import Iterable
from pathlib import Path

from aurora_export.errors import IntegrityError, UsageError
from aurora_export.token_trie import TokenTrie, UncoveredByteError

END_OF_TEXT = 0

MAX_FILE_BYTES = 16 << 20
MAX_TOKEN_BYTES = 1024
MAX_LINE_BYTES = 8 * MAX_TOKEN_BYTES
MAX_ID = 2**31 - 1  # ids travel as int32

_REPLACEMENT = "\ufffd".encode()

# Only what `repr` emits, so that a reader in another language needs no Python parser. \u and \U name characters,
# so bytes literals, which are ASCII, have none.
_BYTE_ESCAPE = r"""\\[\\'"nrt]|\\x[0-9a-fA-F]{2}"""
_ESCAPE = rf"{_BYTE_ESCAPE}|\\u[0-9a-fA-F]{{4}}|\\U[0-9a-fA-F]{{8}}"
_STR_LITERAL = re.compile(rf"""'(?:[^'\\\x00-\x1f]|{_ESCAPE})*'|"(?:[^"\\\x00-\x1f]|{_ESCAPE})*\"""")
_BYTES_LITERAL = re.compile(rf"""b'(?:[ -&(-\[\]-~]|{_BYTE_ESCAPE})*'|b"(?:[ !#-\[\]-~]|{_BYTE_ESCAPE})*\"""")
_NUMBER = re.compile(r"[0-9]{1,10}")


class Tokenizer:
    """Text to ids and back. Immutable; safe to share between threads."""

    def __init__(self, token_bytes: dict[int, bytes], *, file_bytes: bytes = b"") -> None:
        """Index a vocabulary: ids >= 1 to byte strings, both unique (`from_bytes` checks this, by line).

        `file_bytes` is the vocabulary file as read, which a bundle copies.
        """
        self.file_bytes = file_bytes
        self._bytes_of_id = _BytesOfId({END_OF_TEXT: b"", **token_bytes})
        self._trie = TokenTrie(token_bytes)

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read a World vocabulary file. Raises IntegrityError, with the line number, for anything unexpected."""
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise IntegrityError(
                f"cannot read the vocabulary file {path}: {error.strerror or error}",
                hint="the checkpoint folder or bundle must hold it, as rwkv_vocab_v20230424.txt for World models",
            ) from error
        return cls.from_bytes(data, name=str(path))

    @classmethod
    def from_bytes(cls, data: bytes, *, name: str = "vocabulary") -> Tokenizer:
        """Parse the content of a World vocabulary file; `name` stands in error messages.

        Raises IntegrityError, with the line number, for anything unexpected.
        """
        return cls(_token_bytes_from_file_bytes(data, name), file_bytes=data)

    @property
    def vocabulary_size(self) -> int:
        """The largest id + 1: the fewest rows that the embedding table must have (it may have more)."""
        return max(self._bytes_of_id) + 1

    def encode(self, text: str | bytes) -> list[int]:
        """Ids of text (its UTF-8 bytes) or of raw bytes: the longest token that matches, again and again.

        Raises UsageError at a byte where no token matches (a full World vocabulary has all 256), and for
        lone surrogates, which have no UTF-8.

        The time is linear in the text, whatever it holds (`token_trie`).
        """
        try:
            data = text.encode() if isinstance(text, str) else bytes(text)
        except UnicodeEncodeError as error:
            raise UsageError(
                f"the text holds the lone surrogate U+{ord(error.object[error.start]):04X} at character {error.start}",
                hint="pass valid Unicode text, or the raw bytes",
            ) from error
        try:
            return self._trie.encode(data)
        except UncoveredByteError as error:
            around = data[max(0, error.position - 12) : error.position + 12].decode("utf-8", "replace")
            raise UsageError(
                f"the vocabulary has no token for byte 0x{data[error.position]:02x}, near {around!r}",
                hint="this vocabulary does not cover all bytes: rephrase the text without that character",
            ) from error

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids, joined. They need not be whole UTF-8.

        An id that the vocabulary has no line for yields U+FFFD: heads have more rows than vocabularies have lines
        (65536 and 65530 for World), so a model can produce one. Raises UsageError for a negative id.
        """
        return b"".join(map(self._bytes_of_id.__getitem__, ids))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")


class StreamDecoder:
    """Text from ids that come one by one: never half a character, nothing held back but one that is incomplete.

    The pieces joined, `flush` included, equal `Tokenizer.decode` of all ids. Bytes that cannot become a character
    are U+FFFD, at the latest with the next byte. At most 3 bytes are held back.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that this id completes; empty while a character is incomplete."""
        return self._decoder.decode(self._tokenizer.decode_bytes([token_id]))

    def flush(self) -> str:
        """The end of the text: U+FFFD if a character stayed incomplete, else empty. The decoder can be used again."""
        return self._decoder.decode(b"", final=True)


class _BytesOfId(dict[int, bytes]):
    """Ids to bytes; answers for ids that have none, without keeping them."""

    def __missing__(self, token_id: int) -> bytes:
        if token_id < 0:
            raise UsageError(f"token id {token_id} is negative")
        return _REPLACEMENT


def _token_bytes_from_file_bytes(data: bytes, name: str) -> dict[int, bytes]:
    if len(data) > MAX_FILE_BYTES:
        raise IntegrityError(
            f"{name} is over {MAX_FILE_BYTES >> 20} MiB, the limit of a vocabulary file",
            hint="the World vocabulary has 1.1 MB; is this another file?",
        )
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise IntegrityError(f"{name} is empty", hint="copy the vocabulary file from the checkpoint again")

    token_bytes: dict[int, bytes] = {}
    line_of_id: dict[int, int] = {}
    line_of_token: dict[bytes, int] = {}
    for number, line in enumerate(lines, start=1):
        try:
            token_id, token = _token_from_line(line)
            if token_id in line_of_id:
                raise ValueError(f"id {token_id} already stands in line {line_of_id[token_id]}")
            if token in line_of_token:
                raise ValueError(f"token {token!r} already stands in line {line_of_token[token]}")
        except ValueError as error:
            raise IntegrityError(
                f"{name}, line {number}: {error}",
                hint="a line is `<id> <literal> <byte length>`; copy the vocabulary file from the checkpoint again",
            ) from error
        token_bytes[token_id] = token
        line_of_id[token_id] = line_of_token[token] = number
    return token_bytes


def _token_from_line(line: bytes) -> tuple[int, bytes]:
    """Id and bytes of one line. Raises ValueError with what is wrong with it."""
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"{len(line)} bytes, over the limit of {MAX_LINE_BYTES}")
    try:
        # The published World vocabulary has CRLF line ends.
        text = line.removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from error
    first, last = text.find(" "), text.rfind(" ")
    if first == last:
        raise ValueError("it needs three fields: id, literal, byte length")
    id_text, literal, length_text = text[:first], text[first + 1 : last], text[last + 1 :]

    if not _NUMBER.fullmatch(id_text) or not 1 <= int(id_text) <= MAX_ID:
        raise ValueError(f"id {id_text[:20]!r} is no number from 1 to {MAX_ID}")
    if not _NUMBER.fullmatch(length_text):
        raise ValueError(f"byte length {length_text[:20]!r} is no number")
    token = _token_from_literal(literal)
    if len(token) != int(length_text):
        raise ValueError(f"the literal has {len(token)} bytes, the line says {int(length_text)}")
    if not 1 <= len(token) <= MAX_TOKEN_BYTES:
        raise ValueError(f"a token has 1 to {MAX_TOKEN_BYTES} bytes, not {len(token)}")
    return int(id_text), token


def _token_from_literal(literal: str) -> bytes:
    pattern = _BYTES_LITERAL if literal.startswith("b") else _STR_LITERAL
    if not pattern.fullmatch(literal):
        raise ValueError(f"{literal[:40]!r} is no str or bytes literal as Python's repr writes it")
    if "\\" not in literal:
        # Nearly every line: what stands between the quotes is the token. Four times as fast as the parser.
        return literal.removeprefix("b")[1:-1].encode()
    try:
        value = ast.literal_eval(literal)
        return value.encode() if isinstance(value, str) else bytes(value)
    except (ValueError, SyntaxError) as error:  # a surrogate, or a code point over U+10FFFF
        raise ValueError(f"{literal[:40]!r} is no valid text") from error
