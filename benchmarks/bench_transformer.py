r"""Our 2B model beside a transformer of its size, by the number of frames: time until an answer begins, and memory.

    python testbed/full_size.py build/released --layout released --language rwkv6-1b6 --dtype fp16
    aurora-export build build/released --out build/full_size/int8.aurora --precision int8
    python -m venv build/venv-llama && build/venv-llama/bin/pip install llama-cpp-python==0.3.36 gguf==0.19.0
    build/venv-llama/bin/python benchmarks/random_transformer.py build/gguf
    python benchmarks/bench_transformer.py build/full_size/int8.aurora \
        --llama-python build/venv-llama/bin/python --gguf build/gguf

The transformer is Mini-InternVL-1.5 2B: InternLM2-1.8B's shape in llama.cpp (Q8_0), and a tower in plain ONNX Runtime
(int8) that leaves 256 tokens of a frame. Two more towers before the same transformer show what each part gives: ours
without merging (576 tokens), and ours as it is (92 tokens, so that only the recurrence differs). Ours decodes a video,
too; theirs is not charged for that. Ours is measured before and after them. About 10 minutes on two cores; for the
deepest text 96 KiB of memory a token (128 without flash attention) and 2 GB. Writes results/transformer.json.

The transformer really reads --read tokens, chunk by chunk. At the --depths beyond, it reads a chunk behind keys and
values that were copied there. Each figure says what it is: measured, integrated from measured rates, or extrapolated
along the line through the deepest two.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import bench_watching
import click
from environment import ROOT, write_result
from peer_process import PeerProcess
from reading_curve import ReadingCurve, on_line

from aurora_export.runtime.cores import n_usable_cores

HERE = Path(__file__).resolve().parent
MODEL = "transformer_q8_0.gguf"
CHUNK = 512
N_QUESTION = 16
"""Tokens of a question, about as many as ours has."""

CACHE_BYTES_PER_TOKEN = 24 * 2 * 8 * 128 * 2
"""Layers, keys and values, heads of them, their size, float16."""

ROOM = 2 * CHUNK
"""Tokens of a context beyond the depth that is measured."""

N_SEEN = 8
FLASH_DEPTH = 4096
MODEL_BYTES = 2 * 2**30
MATRIX_BYTES_PER_TOKEN = CHUNK * 16 * 4
"""Of attention without flash: a row for each token of a chunk and head, float32."""

TOWERS = {
    "Mini-InternVL, 256 tokens a frame": ("internvit-300m", 256),
    "our tower without merging, 576 tokens": ("siglip-l-384", 576),
    "our tower, 92 tokens": (None, 92),
}
"""What the transformer sees by: a shape of random_tower.py, None for ours; and the tokens it has of a frame."""


class Transformer:
    """Processes of peer_transformer.py, one after the other: each has a context of its own."""

    def __init__(self, python: Path, gguf: Path, threads: int) -> None:
        self._command = [str(python), str(HERE / "peer_transformer.py"), str(gguf / MODEL), str(threads)]
        self._log = gguf / f"{MODEL}.log"
        self.flash = False
        self.version = ""

    def open(self, depth: int, *, flash: bool | None = None) -> PeerProcess:
        """A process with room for a text of such a depth, and a question. Raises ValueError if it cannot be."""
        flash = self.flash if flash is None else flash
        peer = PeerProcess([*self._command, str(depth + ROOM), str(int(flash))], self._log)
        self.version = peer.version
        return peer

    def choose_attention(self) -> dict[str, float]:
        """Take the faster of its two; seconds of a chunk at FLASH_DEPTH."""
        seconds = {}
        for name, flash in (("matrix", False), ("flash", True)):
            with self.open(FLASH_DEPTH, flash=flash) as peer:
                peer.run("deepen", FLASH_DEPTH)  # reads a chunk, so it is warm
                seconds[name] = round(peer.run("read", CHUNK), 3)
        self.flash = seconds["flash"] < seconds["matrix"]
        say(f"attention: {seconds}")
        return seconds

    def read(self, n_tokens: int) -> dict[str, Any]:
        """Read a text from its begin to its end, chunk by chunk."""
        with self.open(n_tokens) as peer:
            peer.run("read", CHUNK)  # warm up
            peer.ask("clear")
            first_tokens = [(0, first_token_s(peer))]
            peer.ask("clear")
            chunks = []
            for depth in range(0, n_tokens, CHUNK):
                n = min(CHUNK, n_tokens - depth)
                chunks.append((n, round(peer.run("read", n), 4)))
                say(f"{depth + n} tokens read, {n / chunks[-1][1]:.1f} tokens/s")
            first_tokens.append((n_tokens, first_token_s(peer)))
            return {"chunks": chunks, "first_tokens": first_tokens, "memory": (n_tokens, peer.peak_rss_mib)}

    def rate_at(self, depth: int) -> dict[str, Any]:
        """Of a chunk behind copied keys and values."""
        with self.open(depth) as peer:
            peer.run("deepen", depth)
            first_token = first_token_s(peer)
            per_token = peer.run("read", CHUNK) / CHUNK
            say(f"{1 / per_token:.1f} tokens/s at a depth of {depth}")
            middle = depth + N_QUESTION + CHUNK // 2
            memory = (depth, peer.peak_rss_mib)  # with what attention needs for a chunk there
            return {"rate": (middle, round(per_token, 5)), "first_token": (depth, first_token), "memory": memory}


def first_token_s(peer: PeerProcess) -> float:
    """Seconds of a question behind what was read, and of the first token of its answer. They stay there."""
    return round(peer.run("read", N_QUESTION) + peer.run("step", 1), 4)


def tower(shape: str, threads: int, folder: Path) -> dict[str, float]:
    """Median seconds of a frame, and the peak of memory."""
    path = folder / f"{shape}.onnx"
    subprocess.run([sys.executable, str(HERE / "random_tower.py"), shape, str(path)], check=True)
    with PeerProcess([sys.executable, str(HERE / "peer_tower.py"), str(path), str(threads)], folder / "log") as peer:
        peer.run("see", 1)
        frame_s = statistics.median(peer.run("see", 1) for _ in range(N_SEEN))
        say(f"{shape}: {frame_s:.3f} s a frame, {peer.peak_rss_mib} MiB")
        return {"frame_s": round(frame_s, 4), "peak_rss_mib": peer.peak_rss_mib}


def available_bytes() -> int:
    """Memory that a new process can have."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def say(text: str) -> None:
    """On stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def measure_transformer(transformer: Transformer, n_read: int, depths: list[int]) -> dict[str, Any]:
    """All that is measured of it; a depth that there is no memory for is left out, and said."""
    attention = transformer.choose_attention()
    found = transformer.read(n_read)
    result: dict[str, Any] = {
        "attention_s": attention,
        "chunks": found["chunks"],
        "rates": [],
        "first_tokens": found["first_tokens"],
        "memory": [],
        "left_out": {},
    }
    with transformer.open(0) as peer:
        peer.run("read", CHUNK)
        result["memory"] = [(0, peer.peak_rss_mib), found["memory"]]
    for depth in depths:
        per_token = CACHE_BYTES_PER_TOKEN + (0 if transformer.flash else MATRIX_BYTES_PER_TOKEN)
        needed = depth * per_token + MODEL_BYTES
        if needed > (there := available_bytes()):
            result["left_out"][str(depth)] = f"it takes {needed / 1e9:.1f} GB, of which {there / 1e9:.1f} are there"
            continue
        found = transformer.rate_at(depth)
        for name, value in (("rates", "rate"), ("first_tokens", "first_token"), ("memory", "memory")):
            result[name].append(found[value])
    return result


def frame_rows(
    measured: dict[str, Any], points: list[int], *, tokens_per_frame: int, frame_s: float, tower_mib: float
) -> list[dict[str, Any]]:
    """Latency and memory by the number of frames, and what kind of figure each is."""
    curve = ReadingCurve(tuple(measured["chunks"]), tuple(measured["rates"]))
    n_measured = max(n for n, _ in measured["memory"])
    rows = []
    for n_frames in points:
        n_tokens = n_frames * tokens_per_frame
        read_s = curve.seconds(n_tokens)
        answer_s = on_line(measured["first_tokens"], n_tokens)
        memory_mib = on_line(measured["memory"], n_tokens)
        rows.append(
            {
                "n_frames": n_frames,
                "n_tokens": n_tokens,
                "vision_s": round(n_frames * frame_s, 2),
                "read_s": round(read_s, 2),
                "first_token_s": round(answer_s, 3),
                "latency_s": round(n_frames * frame_s + read_s + answer_s, 2),
                "kind": curve.kind(n_tokens),
                "cache_mib": round(n_tokens * CACHE_BYTES_PER_TOKEN / 2**20, 1),
                "memory_mib": round(memory_mib + tower_mib, 1),
                "memory_kind": "measured" if n_tokens <= n_measured else "extrapolated",
                "fits": (memory_mib + tower_mib) * 2**20 < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            }
        )
    return rows


def ours_at(runs: list[dict[str, Any]], n_frames: int) -> float:
    """Median seconds of watching so many frames, and of the first token after them."""
    rows = [row for run in runs for row in run["runs"] if row["n_frames"] == n_frames]
    return statistics.median(row["watch_s"] + row["first_token_ms"] / 1000 for row in rows)


def vision_s(runs: list[dict[str, Any]]) -> float:
    """Seconds of a frame in our tower, resizing included."""
    return statistics.median(
        (run["seconds"]["resize"] + run["seconds"]["vision"]) / run["runs"][-1]["n_frames"] for run in runs
    )


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--llama-python", type=click.Path(exists=True, path_type=Path), required=True, help="its interpreter")
@click.option("--gguf", type=click.Path(exists=True, path_type=Path), required=True, help="folder of the model")
@click.option("--frames", default="1,8,60", show_default=True, help="that ours watches; the last one is compared")
@click.option("--points", default="1,8,10,30,60,100,300,1000", show_default=True, help="frames of its curves")
@click.option("--read", "n_read", default=15360, show_default=True, help="tokens that it really reads")
@click.option("--depths", default="32768,65536,94208", show_default=True, help="of further rates; none: a dash")
@click.option("--threads", default=n_usable_cores(), show_default=True)
@click.option("--name", default="transformer", show_default=True, help="of the result file")
def main(
    bundle: Path,
    llama_python: Path,
    gguf: Path,
    frames: str,
    points: str,
    n_read: int,
    depths: str,
    threads: int,
    name: str,
) -> None:
    """Measure BUNDLE and the transformer."""
    watched, asked = (sorted(map(int, text.split(","))) for text in (frames, points))
    further = [] if depths == "-" else sorted(map(int, depths.split(",")))
    transformer = Transformer(llama_python, gguf, threads)
    ours, seen = [bench_watching.measure(bundle, watched, threads)], {}
    with tempfile.TemporaryDirectory() as folder:
        for shape in filter(None, (shape for shape, _ in TOWERS.values())):
            seen[shape] = tower(shape, threads, Path(folder))
    measured = measure_transformer(transformer, n_read, further)
    ours.append(bench_watching.measure(bundle, watched, threads))
    curves = {}
    for title, (shape, n_tokens) in TOWERS.items():
        frame_s = seen[shape]["frame_s"] if shape else vision_s(ours)
        curves[title] = frame_rows(
            measured,
            sorted({*asked, *watched}),
            tokens_per_frame=n_tokens,
            frame_s=frame_s,
            tower_mib=seen[shape or "siglip-l-384"]["peak_rss_mib"],
        )
    mine = ours_at(ours, watched[-1])
    compared = {
        title: round(next(row["latency_s"] for row in rows if row["n_frames"] == watched[-1]) / mine, 2)
        for title, rows in curves.items()
    }
    result = {
        "llama_cpp": f"llama-cpp-python {transformer.version}",
        "threads": threads,
        "ours": ours,
        "towers": seen,
        "measured": measured,
        "curves": curves,
        "compared_at_frames": watched[-1],
        "time_over_ours": compared,
    }
    say(f"time over ours at {watched[-1]} frames: {compared}")
    command = "python benchmarks/bench_transformer.py BUNDLE --llama-python PYTHON --gguf DIR"
    options = f"--frames {frames} --points {points} --read {n_read} --depths {depths}"
    click.echo(write_result(name, f"{command} {options}", result).relative_to(ROOT))


if __name__ == "__main__":
    main()
