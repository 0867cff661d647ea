"""The tokenizer: greedy longest match, hostile vocabulary files, ids without a line, streaming."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aurora_export.errors import EXIT_INTEGRITY, IntegrityError, UsageError
from aurora_export.tokenizer import MAX_FILE_BYTES, StreamDecoder, Tokenizer

# A full set of bytes, so that everything has a tokenisation, and tokens that overlap in awkward ways.
OVERLAPPING = [b"ab", b"abcd", b"bcdefg", b"cd", b"  ", b"    ", b"\n\n", "é".encode(), "😀".encode()[:3], b"aaaa"]
SMALL = Tokenizer(dict(enumerate([*(bytes([byte]) for byte in range(256)), *OVERLAPPING], start=1)))


def greedy_by_definition(tokens: dict[bytes, int], data: bytes) -> list[int]:
    ids = []
    while data:
        longest = max((token for token in tokens if data.startswith(token)), key=len)
        ids.append(tokens[longest])
        data = data[len(longest) :]
    return ids


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([*OVERLAPPING, b"a", b"b", b"c", b"d", b" ", b"\n", b"\xc3", b"x"]), max_size=40))
def test_encode_is_greedy_longest_match(parts: list[bytes]) -> None:
    data = b"".join(parts)
    tokens = {SMALL.decode_bytes([token_id]): token_id for token_id in range(1, SMALL.vocabulary_size)}
    assert SMALL.encode(data) == greedy_by_definition(tokens, data)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=200))
def test_decode_undoes_encode(text: str) -> None:
    assert SMALL.decode(SMALL.encode(text)) == text


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("final", [True, False])
def test_vocabulary_file_line_ends(tmp_path: Path, end: str, final: bool) -> None:
    lines = ["1 'a' 1", "3 b'\\xc3' 1", '7 "it\'s" 4', "8 'é\\n\\u2028' 6", "9 ' ' 1", "10 'a b' 3"]
    path = tmp_path / "vocabulary.txt"
    path.write_bytes((end.join(lines) + end * final).encode())
    tokenizer = Tokenizer.from_file(path)
    assert tokenizer.decode_bytes([1, 3, 7, 8, 9, 10, 0]) == b"a\xc3it's\xc3\xa9\n\xe2\x80\xa8 a b"
    assert tokenizer.encode("a ba it's") == [10, 1, 9, 7]
    assert tokenizer.vocabulary_size == 11
    assert tokenizer.file_bytes == path.read_bytes()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "it needs three fields: id, literal, byte length"),
        ("2 'b'", "it needs three fields: id, literal, byte length"),
        ("2 'b' 2", "the literal has 1 bytes, the line says 2"),
        ("2 'é' 1", "the literal has 2 bytes, the line says 1"),
        ("2 '' 0", "a token has 1 to 1024 bytes, not 0"),
        (f"2 '{'b' * 1025}' 1025", "a token has 1 to 1024 bytes, not 1025"),
        (f"2 '{'b' * 9000}' 9000", "9009 bytes, over the limit of 8192"),
        ("0 'b' 1", "id '0' is no number from 1 to 2147483647"),
        ("-2 'b' 1", "id '-2' is no number from 1 to 2147483647"),
        ("2147483648 'b' 1", "id '2147483648' is no number from 1 to 2147483647"),
        ("1_0 'b' 1", "id '1_0' is no number from 1 to 2147483647"),
        ("٣ 'b' 1", "id '٣' is no number from 1 to 2147483647"),
        ("2 'b' x", "byte length 'x' is no number"),
        ("1 'b' 1", "id 1 already stands in line 1"),
        ("2 'a' 1", "token b'a' already stands in line 1"),
        ("2 b'a' 1", "token b'a' already stands in line 1"),
        ("2 '\\ud800' 3", "\"'\\\\ud800'\" is no valid text"),
        ("2 '\\U00110000' 4", "\"'\\\\U00110000'\" is no valid text"),
        ("2 __import__('os') 1", "\"__import__('os')\" is no str or bytes literal as Python's repr writes it"),
        ("2 'b' 'c' 2", "\"'b' 'c'\" is no str or bytes literal as Python's repr writes it"),
        ("2 f'b' 1", "\"f'b'\" is no str or bytes literal as Python's repr writes it"),
        ("2 '\\q' 2", "\"'\\\\q'\" is no str or bytes literal as Python's repr writes it"),
        ("2 b'é' 2", "\"b'é'\" is no str or bytes literal as Python's repr writes it"),
        ("2 b'\\u0041' 6", "\"b'\\\\u0041'\" is no str or bytes literal as Python's repr writes it"),
        ("2 'b\" 1", "'\\'b\"' is no str or bytes literal as Python's repr writes it"),
        ("2 98 1", "'98' is no str or bytes literal as Python's repr writes it"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "vocabulary.txt"
    path.write_text(f"1 'a' 1\n{line}\n9 'z' 1\n", encoding="utf-8")
    with pytest.raises(IntegrityError) as caught:
        Tokenizer.from_file(path)
    assert caught.value.message == f"{path}, line 2: {problem}"
    assert (
        caught.value.hint
        == "a line is `<id> <literal> <byte length>`; copy the vocabulary file from the checkpoint again"
    )
    assert caught.value.exit_code == EXIT_INTEGRITY


def test_a_line_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(IntegrityError, match=r"^vocabulary, line 2: byte 3 is not UTF-8$"):
        Tokenizer.from_bytes(b"1 'a' 1\n2 '\xff' 1\n")


def test_an_empty_a_missing_and_a_huge_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.txt"
    with pytest.raises(IntegrityError, match=r"cannot read the vocabulary file .*: No such file or directory"):
        Tokenizer.from_file(path)
    path.touch()
    with pytest.raises(IntegrityError, match="is empty"):
        Tokenizer.from_file(path)
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(IntegrityError, match="is over 16 MiB, the limit of a vocabulary file"):
        Tokenizer.from_file(path)


def test_text_that_the_vocabulary_does_not_cover_is_refused() -> None:
    tokenizer = Tokenizer({1: b"ab", 2: b"a"})
    assert tokenizer.encode("aba") == [1, 2]
    with pytest.raises(UsageError) as caught:
        tokenizer.encode("abbé")
    assert caught.value.message == "the vocabulary has no token for byte 0x62, near 'abbé'"
    with pytest.raises(UsageError, match=r"lone surrogate U\+D800 at character 1"):
        tokenizer.encode("a\ud800")


def test_ids_without_a_line() -> None:
    assert SMALL.decode([0]) == ""
    assert SMALL.decode([98, 65535, 99]) == "a\ufffdb"
    assert SMALL.decode(iter([98, 65535])) == "a\ufffd"
    with pytest.raises(UsageError, match="token id -1 is negative"):
        SMALL.decode([-1])


def pieces(tokenizer: Tokenizer, data: bytes) -> list[str]:
    decoder = StreamDecoder(tokenizer)
    return [*(decoder.push(byte + 1) for byte in data), decoder.flush()]


def test_stream_never_emits_half_a_character() -> None:
    assert pieces(SMALL, "a😀é".encode()) == ["a", "", "", "", "😀", "", "é", ""]
    # What can no longer become a character is said at once; what still can is held back, and only that.
    assert pieces(SMALL, b"\xff\xe4\xbdab\xf0\x9f") == ["\ufffd", "", "", "\ufffda", "b", "", "", "\ufffd"]
    assert pieces(SMALL, b"\xed\xa0\x80a") == ["", "", "\ufffd\ufffd\ufffd", "a", ""]
    decoder = StreamDecoder(SMALL)
    assert [decoder.push(0xE4 + 1), decoder.flush(), decoder.push(98), decoder.flush()] == ["", "\ufffd", "a", ""]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.binary(max_size=4), st.text(max_size=2).map(str.encode)), max_size=20))
def test_stream_joined_equals_decode(parts: list[bytes]) -> None:
    ids = SMALL.encode(b"".join(parts))
    decoder = StreamDecoder(SMALL)
    streamed = [decoder.push(token_id) for token_id in ids]
    assert "".join(streamed) + decoder.flush() == SMALL.decode(ids)
    # At most one character is held back, or the two bytes that start a surrogate, which CPython says late.
    emitted = 0
    for n_ids, piece in enumerate(streamed, start=1):
        emitted += len(piece)
        assert SMALL.decode(ids[:n_ids]).startswith("".join(streamed)[:emitted])
        held_back = SMALL.decode(ids[:n_ids])[emitted:]
        assert set(held_back) <= {"\ufffd"}
        assert len(held_back) <= 2
