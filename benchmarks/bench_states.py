"""How small does a checkpoint get, without loss? Ways to pack the state of the testbed, by size and time.

    python benchmarks/bench_states.py build/testbed.aurora     (zstd too, after pip install zstandard)

Watched are held-out scenes; each checkpoint is packed alone, or as a difference to the one PERIOD frames earlier (xor
of the bits, or subtraction of the integers that the bits are). `shuffled`: all first bytes, then all second bytes, ...
Writes benchmarks/results/state_packing.json. Times are ratios to `packed`, which is what `packing.pack` does.
"""

from __future__ import annotations

import bz2
import lzma
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
from environment import ROOT, write_result

sys.path.insert(0, str(ROOT / "testbed"))

PERIODS = (1, 8, 64)
N_CHECKPOINTS = 12
PACKED = "alone, shuffled, zlib"

Packer = Callable[[bytes], bytes]


def packers() -> dict[str, Packer]:
    """Name -> compressor of bytes."""
    found: dict[str, Packer] = {
        "zlib": lambda data: zlib.compress(data, 6),
        "lzma": lambda data: lzma.compress(data, preset=6),
        "bz2": bz2.compress,
    }
    try:
        import zstandard
    except ImportError:
        click.echo("zstandard is not installed: left out", err=True)
    else:
        found |= {f"zstd {level}": zstandard.ZstdCompressor(level=level).compress for level in (3, 19)}
    return found


def states(bundle: Path, period: int) -> Iterator[np.ndarray]:
    """The bits of all arrays of a state, uint32 (n,), every `period` frames."""
    from aurora_export.runtime.session import Aurora
    from render import draw_frames
    from scenes import sample_scene

    with Aurora.open(bundle, threads=1) as aurora:
        for seed in range(N_CHECKPOINTS * period // 64 + 1):
            scene = sample_scene(seed, duration_s=64)
            for frame in draw_frames(scene, scene.times_s):
                aurora.watch([frame])
                if aurora.header.frames_seen % period == 0:
                    yield np.concatenate([array.ravel() for array in aurora.state.arrays.values()]).view(np.uint32)


def shuffled(bits: np.ndarray) -> bytes:
    """The bytes of uint32 (n,) by significance."""
    return bits.view(np.uint8).reshape(-1, 4).T.tobytes()


FORMS: dict[str, Callable[[np.ndarray, np.ndarray], bytes]] = {
    "alone": lambda bits, _: bits.tobytes(),
    "alone, shuffled": lambda bits, _: shuffled(bits),
    "xor, shuffled": lambda bits, before: shuffled(bits ^ before),
    "difference, shuffled": lambda bits, before: shuffled(bits - before),
}


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(bundle: Path) -> None:
    """Measure every way of packing on the states of BUNDLE."""
    rows = []
    for period in PERIODS:
        found = list(states(bundle, period))[:N_CHECKPOINTS]
        seconds: dict[str, float] = {}
        shares: dict[str, float] = {}
        for form, make in FORMS.items():
            for name, compress in packers().items():
                sizes, took = [], []
                for before, bits in pairwise(found):
                    started = time.perf_counter()
                    sizes.append(len(compress(make(bits, before))) / bits.nbytes)
                    took.append(time.perf_counter() - started)
                shares[f"{form}, {name}"], seconds[f"{form}, {name}"] = statistics.mean(sizes), statistics.median(took)
        rows += [
            {
                "frames_between": period,
                "packing": name,
                "share_of_raw": round(share, 4),
                "time_ratio": round(seconds[name] / seconds[PACKED], 2),
            }
            for name, share in shares.items()
        ]
    path = write_result(
        "state_packing",
        "python benchmarks/bench_states.py BUNDLE",
        {"state_bytes": int(found[0].nbytes), "checkpoints": N_CHECKPOINTS - 1, "rows": rows},
    )
    click.echo(f"{path.relative_to(ROOT)}: {len(rows)} rows")


if __name__ == "__main__":
    main()
