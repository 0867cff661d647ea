"""A vocabulary as awkward as World's; ids, pieces and refusals; digests of 100,000 random strings; prompts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from aurora_export.config import PROFILES, PromptConfig
from aurora_export.errors import AuroraError
from aurora_export.prompt import prefix_ids, separator_ids, suffix_ids, turn_ids
from aurora_export.runtime.stop_texts import StopTexts
from aurora_export.sampling import SplitMix64
from aurora_export.tokenizer import StreamDecoder, Tokenizer

ROOT = Path(__file__).resolve().parents[2]
VOCABULARIES = ("tests/golden/vocabulary.txt", "testbed/checkpoint/rwkv_vocab_testbed.txt")
"""The second one has no token for most bytes, so that texts are refused."""

N_BATCHES = 100
TEXTS_PER_BATCH = 1000

PARAGRAPHS = (
    "User: How many objects are there, and which one moves first? Answer with one word.\n\nAssistant: Three.",
    "\n\nUser: Where does the red square go?\r\n\r\nAssistant: Left, then up… it's “gone”.\r\n",
    "    def f(self, x):\n        return {'a': [x[0] ** 2, None]}  # 1234567890\n\n\tif (a != b && c >= 0x1F) {\r\n",
    "视频里有几个物体？红色的方块向左移动，然后消失了。",  # noqa: RUF001
    "Быстрая лиса прыгает; 東京は夜の七時。 안녕하세요 שלום مرحبا ไทย 👩‍👩‍👧‍👦🇩🇪 é e\u0301 ﬁ",
)
SYLLABLES = ("a", "in", "the", "ob", "ject", "s", "er", "qu", "io", "n", "Th", "re", "é", "ß", "и", "про")


def vocabulary_text() -> str:
    """All single bytes, runs, words with and without a space, cut characters: some 2,600 tokens."""
    random = SplitMix64(1)

    def below(n: int) -> int:
        return random.next_uint64() % n

    tokens = {byte * n for byte in (b" ", b"\n", b"=", b"-", b"\r\n", b"'", b'"', b"\\") for n in (2, 3, 4, 8, 16, 64)}
    for paragraph in PARAGRAPHS:
        data = paragraph.encode()
        for _ in range(250):
            start = below(len(data))
            tokens.add(data[start : start + 2 + below(10)])
    for _ in range(1500):
        word = "".join(SYLLABLES[below(len(SYLLABLES))] for _ in range(1 + below(4)))
        tokens.add(("", " ", " ", "\n")[below(4)].encode() + word.encode())
    many = sorted((token for token in tokens if len(token) > 1), key=lambda token: (len(token), token))
    lines = []
    for token_id, token in enumerate((*(bytes([byte]) for byte in range(256)), *many), start=1):
        try:
            literal = repr(token.decode())
        except UnicodeDecodeError:
            literal = repr(token)
        lines.append(f"{token_id + token_id // 100} {literal} {len(token)}\n")  # some ids have no line
    return "".join(lines)


def random_text(random: SplitMix64, tokens: list[bytes]) -> bytes:
    """One string; tests/runtime/cpp/golden.h makes the same one."""

    def below(n: int) -> int:
        return random.next_uint64() % n

    text = b""
    for _ in range(1 + below(5)):
        kind = below(8)
        if kind == 0:
            text += bytes(0x20 + below(95) for _ in range(below(40)))
        elif kind == 1:
            text += bytes(below(256) for _ in range(below(12)))
        elif kind == 2:
            text += tokens[below(len(tokens))]
        elif kind == 3:
            text += tokens[below(len(tokens))][:-1]
        elif kind == 4:
            text += bytes([b" \n\r\t=-"[below(6)]]) * below(80)
        elif kind == 5:
            point = below(0x110000)
            text += b"" if 0xD800 <= point < 0xE000 else chr(point).encode()
        elif kind == 6:
            text += chr(0x4E00 + below(0x5200)).encode()
        else:
            text += (tokens[below(len(tokens))] + bytes([below(256)])) * (1 + below(4))
    return text


def batch_digest(tokenizer: Tokenizer, tokens: list[bytes], seed: int) -> str:
    """SHA-256 over, for each text, its ids as int32 and the text decoded from them; or the refusal."""
    digest, random = hashlib.sha256(), SplitMix64(seed)
    for _ in range(TEXTS_PER_BATCH):
        text = random_text(random, tokens)
        try:
            ids = tokenizer.encode(text)
            digest.update(np.array(ids, "<i4").tobytes() + tokenizer.decode(ids).encode())
        except AuroraError as error:
            digest.update(error.message.partition(",")[0].encode())  # what stands near it is for people
    return digest.hexdigest()


def token_list(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of ids 1, 2 and so on; U+FFFD for those without a line."""
    return [tokenizer.decode_bytes([token_id]) for token_id in range(1, tokenizer.vocabulary_size)]


BAD_LINES = [
    *("", "2 'b'", "2 'b' 2", "2 'é' 1", "2 '' 0", f"2 '{'b' * 1025}' 1025", f"2 '{'b' * 9000}' 9000", "0 'b' 1"),
    *("-2 'b' 1", "2147483648 'b' 1", "1_0 'b' 1", "٣ 'b' 1", "2 'b' x", "1 'b' 1", "2 'a' 1", "2 b'a' 1"),
    *("2 '\\ud800' 3", "2 '\\U00110000' 4", "2 __import__('os') 1", "2 'b' 'c' 2", "2 f'b' 1", "2 '\\q' 2", "2 b'é' 2"),
    *("2 b'\\u0041' 6", "2 'b\" 1", "2 98 1", "2 ' 1", "2 '\\' 1", "2 '\\x4' 1", "2 b'\\x80 1", "2 '\\u12' 1"),
    *("99999999999 'b' 1", "2 'b' 99999999999", "2 'b' -1", "  ", "2  1", "2 b 1", "2 b' 1", "2 '\tb' 2", "2 'a'b' 3"),
]
GOOD_LINES = [
    "2 'b' 1",
    '2 "it\'s" 4',
    "2 b'\\xc3' 1",
    "2 'é\\n\\u2028' 6",
    "2 ' ' 1",
    "2 'a b' 3",
    "2147483647 '\\U0001F600' 4",
]

QUESTIONS = [
    *(
        "What moves?",
        "  What\r\n\r\nmoves?\n\n\nNow? \u3000",
        "é 😀 ?",
        "\r\n",
        "",
        " \t\u2003",
        "a\r\r\n\nb\rc",
        "\n\nUser: x\n\n",
    ),
    "\x1c x \x85",
]
STOPS: list[tuple[list[str], list[str]]] = [
    (["red", " ball"], []),
    (["red.", " It"], ["."]),
    (["red\n", "\nUser", ": and"], ["\n\nUser:"]),
    (["red\n", "\nUse", "ful"], ["\n\nUser:"]),
    (["aa", "ab"], ["aab"]),
    (["x", "aXbXc"], ["XbXd", "Xc"]),
    (["été é", "té"], ["été é é", "ététéx", "éx"]),
    (["aba", "bab", "a"], ["abababa", "bb"]),
]


def _line_case(line: str) -> dict[str, Any]:
    try:
        tokenizer = Tokenizer.from_bytes(f"1 'a' 1\n{line}\n9 'z' 1\n".encode())
    except AuroraError as error:
        return {"line": line, "message": error.message}
    token_id = int(line.split(" ")[0])
    return {"line": line, "id": token_id, "hex": tokenizer.decode_bytes([token_id]).hex()}


def _prompt_case(config: dict[str, Any], question: str, tokenizer: Tokenizer) -> dict[str, Any]:
    prompt = PromptConfig.model_validate({**PROFILES["released"]["prompt"], **config})
    case: dict[str, Any] = {"config": config, "question": question}
    try:
        case["prefix"] = prefix_ids(prompt, tokenizer, question)
        case["without"] = prefix_ids(prompt, tokenizer)
        case["separator"] = separator_ids(prompt, tokenizer)
        case["suffix"] = suffix_ids(prompt, tokenizer, question)
        case["turn"] = turn_ids(prompt, tokenizer, question)
    except AuroraError as error:
        case["message"] = error.message
    return case


def _stop_case(pieces: list[str], stops: list[str]) -> dict[str, Any]:
    texts = StopTexts(stops)
    shown = []
    for piece in pieces:
        shown.append(texts.push(piece))
        if shown[-1][1]:
            break
    return {"pieces": pieces, "stops": stops, "shown": shown, "flush": texts.flush()}


def _examples(tokenizer: Tokenizer, tokens: list[bytes]) -> list[dict[str, Any]]:
    random, examples = SplitMix64(77), []
    for _ in range(30):
        text = random_text(random, tokens)
        ids = tokenizer.encode(text)
        decoder = StreamDecoder(tokenizer)
        pieces = [*(decoder.push(token_id) for token_id in ids), decoder.flush()]
        examples.append({"hex": text.hex(), "ids": ids, "pieces": pieces})
    return examples


def batches(n_batches: int = N_BATCHES) -> list[dict[str, Any]]:
    """Digests by vocabulary; the first n_batches of them."""
    result = []
    for path in VOCABULARIES:
        tokenizer = Tokenizer.from_file(ROOT / path)
        tokens = token_list(tokenizer)
        digests = [batch_digest(tokenizer, tokens, seed) for seed in range(n_batches)]
        result.append({"vocabulary": path, "sha256": digests})
    return result


def cases(n_batches: int = N_BATCHES) -> dict[str, Any]:
    """All; fewer batches are quicker."""
    tokenizer = Tokenizer.from_bytes(vocabulary_text().encode())
    configs = [
        *({"sandwich": mode} for mode in ("duplicate", "split", "image_first")),
        {"collapse_newlines": False, "frame_separator": "\n", "bos": True},
    ]
    return {
        "lines": [_line_case(line) for line in (*BAD_LINES, *GOOD_LINES)],
        "examples": _examples(tokenizer, token_list(tokenizer)),
        "prompts": [_prompt_case(config, question, tokenizer) for config in configs for question in QUESTIONS],
        "stops": [_stop_case(pieces, stops) for pieces, stops in STOPS],
        "texts_per_batch": TEXTS_PER_BATCH,
        "batches": batches(n_batches),
    }
