"""The World vocabulary: golden vectors, and equality with what is published, on random and adversarial bytes.

The reference is the `rwkv` package where it is installed. Where it is not, a plain trie stands for it, over a
vocabulary made here that has all that is awkward in World.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aurora_export import token_trie
from aurora_export.tokenizer import Tokenizer

# Golden ids of the World vocabulary.
GOLDEN = {
    "User:": [24281, 59],
    "Assistant:": [5585, 41693, 59],
    "\n\nAssistant:": [261, 5585, 41693, 59],
    "Describe the video in detail.": [23563, 8605, 102, 22590, 40115, 4596, 45724, 47],
    "User: Describe the video in detail.\n": [24281, 59, 28759, 8605, 102, 22590, 40115, 4596, 45724, 47, 11],
    "<image>": [61, 34733, 63],
    "你好，世界": [10464, 11685, 19137, 10267, 14610],  # noqa: RUF001
    "é😀": [2503, 3319, 153, 129],
    "123 4567": [632, 52, 3518, 687],
    "Best option: (": [23432, 46713, 59, 275],
    "\x00": [1],
    "\n": [11],
    " ": [33],
    ":": [59],
    "\n\n": [261],
    "": [],
}


PARAGRAPHS = (
    "User: How many objects are there, and which one moves first? Answer with one word.\n\nAssistant: Three.",
    "\n\nUser: Where does the red square go?\r\n\r\nAssistant: Left, then up… it's “gone”.\r\n",
    "    def f(self, x):\n        return {'a': [x[0] ** 2, None]}  # 1234567890\n\n\tif (a != b && c >= 0x1F) {\r\n",
    "视频里有几个物体？红色的方块向左移动，然后消失了。",  # noqa: RUF001
    "Быстрая лиса — прыгает; 東京は夜の七時、これはテストです。 안녕하세요 שלום مرحبا ไทย 👩‍👩‍👧‍👦🇩🇪 é e\u0301 ﬁ",
)


class PlainTrie:
    """Greedy longest match as one writes it down: a dictionary in a dictionary for each byte."""

    def __init__(self, token_bytes: dict[int, bytes]) -> None:
        self.token_bytes = token_bytes
        self.root: dict[Any, Any] = {}
        for token_id, token in token_bytes.items():
            node = self.root
            for byte in token:
                node = node.setdefault(byte, {})
            node["id"] = token_id

    def encode_bytes(self, data: bytes) -> list[int]:
        ids = []
        position = 0
        while position < len(data):
            node, depth, token_id, length = self.root, 0, None, 0
            while position + depth < len(data) and data[position + depth] in node:
                node = node[data[position + depth]]
                depth += 1
                if "id" in node:
                    token_id, length = node["id"], depth
            ids.append(token_id)
            position += length
        return ids


def world_like_tokens() -> dict[int, bytes]:
    """Some 9,000 tokens made as World's are: all bytes, words with and without a space, parts of characters, runs."""
    rng = random.Random(0)
    longer = {byte * n for byte in (b" ", b"\n", b"\t", b"=", b"-", b"\r\n") for n in (*range(2, 17), 24, 32, 64, 128)}
    for paragraph in PARAGRAPHS:
        data = paragraph.encode()
        for _ in range(600):
            start = rng.randrange(len(data))
            longer.add(data[start : start + rng.randrange(2, 12)])
    syllables = ("a", "in", "the", "ob", "ject", "s", "er", "qu", "io", "n", "Th", "re", "é", "ß", "и", "про")
    for _ in range(6000):
        word = "".join(rng.choices(syllables, k=rng.randrange(1, 5)))
        longer.add(rng.choice(("", " ", " ", "\n", ".")).encode() + word.encode())
    for low, high, n in ((0x4E00, 0x9FFF, 1500), (0x1F300, 0x1F700, 300), (0xAC00, 0xD7A0, 300)):
        longer |= {chr(rng.randrange(low, high)).encode()[: rng.choice((2, 3, 4))] for _ in range(n)}
    many = sorted((token for token in longer if len(token) > 1), key=lambda token: (len(token), token))
    return dict(enumerate([*(bytes([byte]) for byte in range(256)), *many], start=1))


def hostile_texts(seed: int, count: int, tokens: list[bytes]) -> Iterator[bytes]:
    """Texts from all planes, broken UTF-8, runs, line ends, code, cut and joined tokens, and mixtures of these."""
    rng = random.Random(seed)
    paragraphs = [paragraph.encode() for paragraph in PARAGRAPHS]

    def characters(low: int, high: int) -> bytes:
        points = (rng.randrange(low, high) for _ in range(rng.randrange(1, 12)))
        return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000).encode()

    def cut(data: bytes) -> bytes:
        start = rng.randrange(len(data))
        return data[start : start + rng.randrange(1, 60)]

    parts: list[Callable[[], bytes]] = [
        lambda: characters(0, 0x80),
        lambda: characters(0x80, 0x3000),
        lambda: characters(0x4E00, 0x9FFF),
        lambda: characters(0, 0x110000),
        lambda: chr((rng.randrange(17) << 16) + rng.randrange(0xD800)).encode() * rng.randrange(1, 9),
        lambda: rng.randbytes(rng.randrange(1, 30)),
        lambda: characters(0x80, 0x110000)[1:-1],
        lambda: b"\xed\xa0\x80\xc0\xaf\xf8\xff"[rng.randrange(7) :],
        lambda: b" " * rng.randrange(1, 300),
        lambda: rng.choice((b"\n", b"\r\n", b"\r", b"\t", b"=", b"-", b"/", b"\x00")) * rng.randrange(1, 80),
        lambda: cut(rng.choice(paragraphs)),
        lambda: cut(rng.choice(paragraphs)).replace(b" ", b" " * rng.randrange(1, 9)).replace(b"\n", b"\r\n"),
        lambda: b"".join(rng.choices(tokens, k=rng.randrange(1, 9))),
        lambda: b"".join(token[:-1] for token in rng.choices(tokens, k=rng.randrange(1, 9))),
        lambda: rng.choice(tokens)[: rng.randrange(1, 9)] * rng.randrange(1, 9),
        lambda: (rng.choice(tokens) + rng.randbytes(1)) * rng.randrange(1, 6),
    ]
    for _ in range(count):
        yield b"".join(rng.choice(parts)() for _ in range(rng.randrange(1, 5)))


def assert_equal_on(n_texts: int, tokenizer: Tokenizer, reference: Callable[[bytes], list[int]]) -> None:
    """Compare on n_texts, one by one, and joined to texts of several blocks."""
    tokens = [tokenizer.decode_bytes([token_id]) for token_id in range(1, tokenizer.vocabulary_size)]
    batch = []
    for number, data in enumerate(hostile_texts(0, n_texts, tokens), start=1):
        ids = tokenizer.encode(data)
        assert ids == reference(data), data
        assert tokenizer.decode_bytes(ids) == data
        batch.append(data)
        if number % 2000 == 0:
            joined = b"".join(batch)
            assert tokenizer.encode(joined) == reference(joined)
            batch.clear()


@pytest.fixture(scope="session")
def world_file() -> Path:
    package = pytest.importorskip("rwkv", reason="the rwkv package, which ships the World vocabulary, is not installed")
    return Path(package.__file__).parent / "rwkv_vocab_v20230424.txt"


@pytest.fixture(scope="session")
def world(world_file: Path) -> Tokenizer:
    return Tokenizer.from_file(world_file)


@pytest.fixture(scope="session")
def oracle(world_file: Path):
    return pytest.importorskip("rwkv.rwkv_tokenizer").TRIE_TOKENIZER(str(world_file))


@pytest.fixture(scope="session")
def world_like() -> tuple[Tokenizer, PlainTrie]:
    tokens = world_like_tokens()
    lines = []
    for token_id, token in tokens.items():
        try:
            literal = repr(token.decode())
        except UnicodeDecodeError:
            literal = repr(token)
        lines.append(f"{token_id} {literal} {len(token)}\r\n")
    return Tokenizer.from_bytes("".join(lines).encode()), PlainTrie(tokens)


@pytest.mark.parametrize(("text", "ids"), GOLDEN.items())
def test_golden_vectors_of_the_world_vocabulary(world: Tokenizer, text: str, ids: list[int]) -> None:
    assert world.encode(text) == ids
    assert world.decode(ids) == text


def test_the_world_vocabulary_has_its_published_size(world: Tokenizer, world_file: Path) -> None:
    assert world.vocabulary_size == 65530
    assert world.decode_bytes([65529]) == b" " * 128
    assert [world.decode_bytes([byte + 1]) for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    assert world.file_bytes == world_file.read_bytes()


def test_every_world_token_encodes_to_itself(world: Tokenizer) -> None:
    ids = list(range(1, world.vocabulary_size))
    assert [world.encode(world.decode_bytes([token_id])) for token_id in ids] == [[token_id] for token_id in ids]


def test_the_plain_reference_is_the_published_one(world: Tokenizer, oracle) -> None:
    tokens = {token_id: world.decode_bytes([token_id]) for token_id in range(1, world.vocabulary_size)}
    reference = PlainTrie(tokens)
    for data in hostile_texts(1, 500, list(tokens.values())):
        assert reference.encode_bytes(data) == oracle.encodeBytes(data)


def test_world_like_equals_a_plain_trie(world_like: tuple[Tokenizer, PlainTrie]) -> None:
    tokenizer, reference = world_like
    assert_equal_on(4000, tokenizer, reference.encode_bytes)


def test_world_equals_the_rwkv_package(world: Tokenizer, oracle) -> None:
    assert_equal_on(4000, world, oracle.encodeBytes)


def test_world_equals_the_rwkv_package_in_tiny_blocks(
    world: Tokenizer, oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only texts of megabytes do often: tokens across the borders of blocks, walks that were given up."""
    monkeypatch.setattr(token_trie, "_SHORT_TEXT_BYTES", 1)
    monkeypatch.setattr(token_trie, "_BLOCK_BYTES", 64)
    assert_equal_on(2000, world, oracle.encodeBytes)


@pytest.mark.slow
def test_world_like_equals_a_plain_trie_on_100_000_texts(world_like: tuple[Tokenizer, PlainTrie]) -> None:
    tokenizer, reference = world_like
    assert_equal_on(100_000, tokenizer, reference.encode_bytes)


@pytest.mark.slow
def test_world_equals_the_rwkv_package_on_100_000_texts(world: Tokenizer, oracle) -> None:
    assert_equal_on(100_000, world, oracle.encodeBytes)


def test_text_and_its_bytes_have_the_same_ids(world_like: tuple[Tokenizer, PlainTrie]) -> None:
    tokenizer, _ = world_like
    for text in ("".join(PARAGRAPHS), "".join(PARAGRAPHS) * 200, "".join(map(chr, range(0xE000, 0x110000, 97)))):
        ids = tokenizer.encode(text)
        assert ids == tokenizer.encode(text.encode())
        assert tokenizer.decode(ids) == text


def test_any_ids_decode_as_in_the_rwkv_package(world: Tokenizer, oracle) -> None:
    """Also ids in an order that no encoder gives."""
    rng = random.Random(2)
    for _ in range(300):
        ids = rng.choices(range(1, world.vocabulary_size), k=rng.randrange(50))
        assert world.decode_bytes(ids) == oracle.decodeBytes(ids)


def test_time_is_linear_in_the_text(world: Tokenizer) -> None:
    """Space runs just short of the longest token are the most misses a byte can cost; quadratic would take minutes."""
    start = time.perf_counter()
    for text in (b" " * 2_000_000, (b" " * 127 + b"\x00") * 4000, b"a" * 500_000, b"\xf0\x9f" * 250_000):
        assert world.decode_bytes(world.encode(text)) == text
    assert time.perf_counter() - start < 30
