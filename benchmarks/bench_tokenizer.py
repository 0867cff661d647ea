"""How fast are texts encoded and ids decoded? MB/s of the tokenizer, and of the published one beside it.

    python benchmarks/bench_tokenizer.py

Each text is 1 MiB of one kind. "first" is a tokenizer that has seen nothing, "again" the same text once more: they are
alike, because nothing is cached. Times are processor times of this one thread, so that other processes count less;
numbers are medians, and each round measures everything once, so that all suffer alike from a busy machine. The
published tokenizer encodes a part of the text only: it is slow, and linear.
Writes benchmarks/results/tokenizer_speed.json.
"""

from __future__ import annotations

import statistics
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import click
import numpy as np
import rwkv
from environment import ROOT, write_result
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

from aurora_export.tokenizer import Tokenizer

N_BYTES = 1 << 20
N_BYTES_PUBLISHED = 1 << 17
WORLD = Path(rwkv.__file__).parent / "rwkv_vocab_v20230424.txt"
TARGET_MB_PER_S = 5.0
REALISTIC = ("prose", "code", "chinese")


def make_texts(tokenizer: Tokenizer) -> dict[str, bytes]:
    """1 MiB of each kind. Prose and code are Python's own; all else is drawn from a seed."""
    rng = np.random.default_rng(0)
    tokens = [tokenizer.decode_bytes([token_id]) for token_id in range(1, tokenizer.vocabulary_size)]
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    texts = {
        "prose": "\n".join(topics.values()).encode(),
        "code": b"\n".join(path.read_bytes() for path in sources),
        "chinese": make_chinese(tokens, rng),
        "random tokens": b"".join(tokens[index] for index in rng.integers(len(tokens), size=N_BYTES // 2)),
        "random letters": rng.integers(ord("a"), ord("z") + 1, N_BYTES, np.uint8).tobytes(),
        "random bytes": rng.bytes(N_BYTES),
        # A cache of pieces never sees a piece twice, and no two adjacent bytes part any two tokens for sure.
        "identifiers that never repeat": b"_".join(b"x%x" % number for number in rng.integers(1 << 40, size=N_BYTES)),
        "spaces": b" " * N_BYTES,
        # Every walk is as long as World allows, and none pays.
        "127 spaces and a zero": (b" " * 127 + b"\x00") * (N_BYTES // 128),
    }
    # Prose is a little shorter than the rest: repeated, which changes nothing without a cache.
    return {kind: (text * -(-N_BYTES // len(text)))[:N_BYTES] for kind, text in texts.items()}


def make_chinese(tokens: list[bytes], rng: np.random.Generator) -> bytes:
    """Characters of the vocabulary, as often as Zipf's law says, with punctuation."""
    ideographs = [token for token in tokens if len(token) == 3 and b"\xe4\xb8\x80" <= token <= b"\xe9\xbf\xbf"]
    frequency = 1 / np.arange(1, len(ideographs) + 1)
    drawn = rng.choice(rng.permutation(len(ideographs)), size=N_BYTES // 3 + 1, p=frequency / frequency.sum())
    words = [ideographs[index] for index in drawn]
    words[9::10] = ["，".encode()] * len(words[9::10])  # noqa: RUF001
    words[29::30] = ["。".encode()] * len(words[29::30])
    return b"".join(words)


def seconds_of(function: Callable[[Any], Any], argument: object) -> float:
    """Processor time of one call."""
    start = time.process_time()
    function(argument)
    return time.process_time() - start


def measure(vocabulary: Path, rounds: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """MB/s and bytes per token of each kind of text, and the seconds that making a tokenizer takes."""
    file_bytes = vocabulary.read_bytes()
    tokenizer = Tokenizer.from_bytes(file_bytes)
    token_bytes = {token_id: tokenizer.decode_bytes([token_id]) for token_id in range(1, tokenizer.vocabulary_size)}
    published = TRIE_TOKENIZER(str(vocabulary))
    texts = make_texts(tokenizer)
    n_tokens = {}
    samples: dict[tuple[str, str], list[float]] = {}
    making: dict[str, list[float]] = {"read and index the vocabulary file": [], "index alone": []}
    for number in range(rounds):
        click.echo(f"round {number + 1} of {rounds}", err=True)
        making["read and index the vocabulary file"].append(seconds_of(Tokenizer.from_bytes, file_bytes))
        making["index alone"].append(seconds_of(Tokenizer, token_bytes))
        for kind, text in texts.items():
            ids = tokenizer.encode(text)
            n_tokens[kind] = len(ids)
            part = text[:N_BYTES_PUBLISHED]
            fresh = Tokenizer(token_bytes)
            for what, function, argument, n_bytes in (
                ("encode_first", fresh.encode, text, N_BYTES),
                ("encode_again", fresh.encode, text, N_BYTES),
                ("decode", fresh.decode_bytes, ids, N_BYTES),
                ("published_encode", published.encodeBytes, part, len(part)),
            ):
                samples.setdefault((kind, what), []).append(n_bytes / 1e6 / seconds_of(function, argument))
    speeds: dict[str, dict[str, float]] = {
        kind: {"bytes_per_token": round(N_BYTES / n_tokens[kind], 2)} for kind in texts
    }
    for (kind, what), values in samples.items():
        speeds[kind][f"{what}_mb_per_s"] = round(statistics.median(values), 2)
    return speeds, {what: round(statistics.median(values), 3) for what, values in making.items()}


@click.command()
@click.option("--vocabulary", default=WORLD, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(min=1))
def main(vocabulary: Path, rounds: int) -> None:
    """Measure encode and decode; a result is kept for the World vocabulary only."""
    speeds, making = measure(vocabulary, rounds)
    for kind, speed in speeds.items():
        click.echo(f"{kind:30} " + "  ".join(f"{what} {value:8.2f}" for what, value in speed.items()), err=True)
    slowest = min(speeds[kind]["encode_first_mb_per_s"] for kind in REALISTIC)
    click.echo(f"slowest of {', '.join(REALISTIC)}: {slowest} MB/s, target {TARGET_MB_PER_S}", err=True)
    if vocabulary != WORLD:
        return
    path = write_result(
        "tokenizer_speed",
        f"python benchmarks/bench_tokenizer.py --rounds {rounds}",
        {
            "vocabulary": WORLD.name,
            "text_bytes": N_BYTES,
            "target_mb_per_s": TARGET_MB_PER_S,
            "slowest_realistic_mb_per_s": slowest,
            "median_of_rounds": rounds,
            "seconds_to": making,
            "texts": speeds,
        },
    )
    click.echo(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
