r"""How close the loop of 8-bit products comes to the machine's peak: the floor under the time of a prefill.

    python benchmarks/record.py products -- python benchmarks/bench_products.py

A linear layer of many tokens is rounding, products, and putting results in order; weights come from memory meanwhile.
This is the products alone, on numbers that stay in the cache, for the shapes of layers, tokens and sizes of block that
are asked for. The peak is of products in registers, as `aurora-export bench` measures it, before and after each time.
Threads work side by side and share nothing. Prints one JSON object, in a line.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

from aurora_export.plugins.cpu import chosen_level, library_path

BLOCK_SIZES = (16, 32, 64, 128, 256)
LAYERS = ("2048x2048", "2048x7168", "7168x2048")
"""Inputs and outputs of the layers of RWKV-6 1.6B."""

SECONDS = 0.05
"""Length of one measurement."""

N_CALIBRATION = 100_000

Work = Callable[[int], float]
"""So many rounds on one thread; gives the operations that were done."""


def works(library: ctypes.CDLL) -> tuple[Work, Callable[[int, int, int, int], Work]]:
    """Products in registers; and, from rows, inputs, outputs and the size of a block, those of a layer."""
    peak, layer = library.aurora_cpu_int8_products, library.aurora_cpu_layer_products
    peak.restype, peak.argtypes = ctypes.c_double, (ctypes.c_int64,)
    layer.restype, layer.argtypes = ctypes.c_double, (ctypes.c_int64, *[ctypes.c_size_t] * 4)
    return peak, lambda *sizes: lambda n_rounds: layer(n_rounds, *sizes)


def rate(work: Work, n_rounds: int, pool: ThreadPoolExecutor, n_threads: int) -> float:
    """Operations per second of all threads together."""
    began = time.perf_counter()
    operations = sum(pool.map(work, [n_rounds] * n_threads))
    return operations / (time.perf_counter() - began)


def rounds_of(work: Work, n_rounds: int) -> int:
    """How many rounds take SECONDS, by the time of `n_rounds`. UsageError if nothing is done in them."""
    began = time.perf_counter()
    if not work(n_rounds):
        raise click.UsageError("the library has no 8-bit products for this machine, or none in blocks of that size")
    return max(1, int(n_rounds * SECONDS / (time.perf_counter() - began)))


def row_of(work: Work, peak: Work, *, rounds: int, pool: ThreadPoolExecutor, threads: int) -> dict[str, float]:
    """Median rate of the work, and of its share of the peak beside it."""
    n, n_peak = rounds_of(work, 1), rounds_of(peak, N_CALIBRATION)
    rates, shares = [], []
    for _ in range(rounds):
        before = rate(peak, n_peak, pool, threads)
        rates.append(rate(work, n, pool, threads))
        shares.append(rates[-1] / max(before, rate(peak, n_peak, pool, threads)))
    return {
        "gop_per_s": round(statistics.median(rates) / 1e9, 1),
        "share_of_int8_peak": round(statistics.median(shares), 3),
        "lowest_share": round(min(shares), 3),
        "highest_share": round(max(shares), 3),
    }


def sizes_of(layer: str) -> tuple[int, int]:
    """Inputs and outputs of "2048x7168". UsageError on anything else."""
    parts = layer.split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise click.UsageError(f"{layer!r} is no layer: give inputs and outputs as in {LAYERS[0]}")
    return int(parts[0]), int(parts[1])


@click.command()
@click.option("--layers", default=",".join(LAYERS), show_default=True, help="inputs x outputs of each")
@click.option("--tokens", default="92,512", show_default=True)
@click.option("--block-sizes", default=",".join(map(str, BLOCK_SIZES)), show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=len(os.sched_getaffinity(0)), show_default=True)
def main(layers: str, tokens: str, block_sizes: str, rounds: int, threads: int) -> None:
    """Measure the loop of products."""
    path = library_path()
    if path is None:
        raise click.UsageError("the native library is needed: install the package where there is a C++ compiler")
    peak, layer_work = works(ctypes.CDLL(str(path)))
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(threads) as pool:
        for n_tokens, block_size, layer in itertools.product(
            map(int, tokens.split(",")), map(int, block_sizes.split(",")), layers.split(",")
        ):
            work = layer_work(n_tokens, *sizes_of(layer), block_size)
            found = row_of(work, peak, rounds=rounds, pool=pool, threads=threads)
            rows.append({"n_tokens": n_tokens, "block_size": block_size, "layer": layer} | found)
    print(json.dumps({"threads": threads, "level": chosen_level(path), "rows": rows}))


if __name__ == "__main__":
    main()
