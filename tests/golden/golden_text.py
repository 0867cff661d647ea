"""What Python's codec, str.strip, repr and json.dumps make of bytes, texts and numbers."""

from __future__ import annotations

import codecs
import json
from typing import Any

from aurora_export.sampling import SplitMix64

NUMBERS = [
    *(0.0, -0.0, 1.0, -1.0, 0.1, 0.1 + 0.2, 1e-4, 9.9999e-5, 1e-5, 0.00064, 1e15, 1e16, 123456789.123, 1.5e300),
    *(1e22, 5e-324, 1.7976931348623157e308, 2.0**-1022, 3.141592653589793, 1e100, 9007199254740993.0, 100.0, 255 / 219),
]
TEXTS = [
    *(
        "",
        " ",
        "a",
        " a b ",
        "\t\n x \r\n",
        "\u3000全角\u2003",
        "\x85a\xa0",
        "it's",
        'say "it\'s"',
        "back\\slash",
        "\x00\x1f\x7f",
    ),
    *("é", "😀 ok", "\u2028", "\ud7ff\ue000", "\x1c\x1d\x1e\x1f", "\u200b not a space", "\b\f/"),
]
PIECES = [
    *(
        b"\xff\xe4\xbdab\xf0\x9f",
        b"\xed\xa0\x80a",
        b"\xed\xa0a",
        b"\xed\xa0",
        b"\xe0\x80\x80",
        b"\xf4\x90\x80\x80",
        b"\xc0\xaf",
    ),
    *(
        b"\xf0\x80\x80\x80",
        b"\xf0\x9f\x98",
        b"\xf0\x9f\x98\x80",
        b"\xe4\xbd\xa0",
        b"\xc3",
        b"\xc3\xa9",
        b"\x80\x80",
        b"\xf8\x88",
    ),
    *(
        b"\xed\x9f\xbf",
        b"\xee\x80\x80",
        b"\xef\xbf\xbf",
        b"\xf3\xaf\xbf\xbf",
        b"\xf1\x80\x80a",
        b"\xe1\x80\xe1\x80\x80",
        b"\xed\xbf\xbf",
    ),
]
N_RANDOM = 400
AWKWARD = bytes.fromhex("2080809fa0a9bfbfc0c2c3dfe0e1e4ededeeeff0f0f1f3f4f4f5ff61")


def random_bytes() -> list[bytes]:
    """Short strings of the bytes that UTF-8 has rules about."""
    random = SplitMix64(9)
    return [
        bytes(AWKWARD[random.next_uint64() % len(AWKWARD)] for _ in range(1 + random.next_uint64() % 9))
        for _ in range(N_RANDOM)
    ]


def decoded(data: bytes) -> dict[str, Any]:
    """The pieces of text when bytes come one by one, and the first byte that a strict reader refuses (None: none)."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = [decoder.decode(bytes([byte])) for byte in data]
    pieces.append(decoder.decode(b"", final=True))
    assert "".join(pieces) == data.decode("utf-8", "replace")
    invalid = None
    try:
        data.decode()
    except UnicodeDecodeError as error:
        invalid = error.start
    return {"hex": data.hex(), "pieces": pieces, "invalid": invalid}


def cases() -> dict[str, Any]:
    """Numbers are given by the hexadecimal form of float.hex, so that no reader rounds them."""
    return {
        "numbers": [[number.hex(), repr(number)] for number in NUMBERS],
        "texts": [{"text": t, "strip": t.strip(), "json": json.dumps(t), "repr": repr(t)} for t in TEXTS],
        "bytes": [[data.hex(), repr(data)] for data in (b"", b"a'b", b"\"'", b"\x00\x7f\x80\xff\\\n")],
        "decoded": [decoded(data) for data in (*PIECES, *random_bytes())],
    }
