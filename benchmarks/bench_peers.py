r"""The language model of a bundle beside its peers, taking turns, on random weights of the same shapes.

    python testbed/full_size.py build/released --layout released --language rwkv6-1b6 --dtype fp16
    aurora-export build build/released --out build/full_size/int8.aurora --precision int8
    python -m venv build/venv-llama && build/venv-llama/bin/pip install llama-cpp-python==0.3.36 gguf==0.19.0
    build/venv-llama/bin/python benchmarks/random_gguf.py build/gguf
    python testbed/full_size.py build/parts --layout parts --language rwkv6-1b6 --dtype bf16
    python benchmarks/record.py peers -- python benchmarks/bench_peers.py build/full_size/int8.aurora \
        --llama-python build/venv-llama/bin/python --gguf build/gguf --rwkv build/parts/rwkv.pth --plain

Each side is a process of its own that waits while the others run, ours too. A ratio is of two times within a round. A
peer that is not there is left out, and the result says why; rwkv.cpp always is: its packages are older than RWKV-6.
Several bundles, int8 and int4, are compared in the same rounds; times are held against the first one's.
Prints one JSON object.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import click
from peer_process import PeerProcess

from aurora_export.manifest import read_manifest
from aurora_export.plugins.cpu import chosen_level, library_path
from aurora_export.runtime.cores import n_usable_cores
from aurora_export.runtime.limits import LimitsMeter

HERE = Path(__file__).resolve().parent
TESTS = ("step", "prefill")
LLAMA_FILES = {"llama.cpp Q8_0": "q8_0.gguf", "llama.cpp Q4_0": "q4_0.gguf"}
PLAIN = (
    ("ONNX Runtime, MatMulNBits", ("step",), "functions"),
    ("ONNX Runtime, DynamicQuantizeMatMul", ("prefill",), "dynamic"),
)
"""Name, tests, way of peer_onnx.py."""

WARM_UP = {"prefill": 64, "step": 4}


class Side(Protocol):
    """One of those that take turns."""

    peak_rss_mib: float

    def run(self, test: str, n_tokens: int) -> float:
        """Seconds of `prefill` or `step`."""
        ...


@dataclass(frozen=True)
class Candidate:
    """A side that may be there."""

    name: str
    command: tuple[str, ...]
    log: Path
    tests: tuple[str, ...] = TESTS
    """that it takes part in"""
    missing: str = ""
    """why it cannot run, where that is known"""


def candidates(
    bundles: tuple[Path, ...],
    *,
    llama_python: Path | None,
    gguf: Path | None,
    rwkv: Path | None,
    rwkv_python: Path,
    plain: bool,
    threads: int,
    logs: Path,
) -> list[Candidate]:
    """All sides, ours first."""

    def script(name: str, *arguments: object, python: Path | str = sys.executable) -> tuple[str, ...]:
        return (str(python), str(HERE / name), *map(str, arguments), str(threads))

    found = []
    for index, bundle in enumerate(bundles):
        name = f"ours, {read_manifest(bundle).precision}"
        found.append(Candidate(name, script("peer_onnx.py", bundle, "ours"), logs / f"ours-{index}.log"))
    for name, tests, way in PLAIN:
        missing = "" if plain else "--plain was not given"
        if way == "dynamic" and not missing and read_manifest(bundles[0]).precision != "int8":
            missing = "the first bundle is not int8"
        found.append(Candidate(name, script("peer_onnx.py", bundles[0], way), logs / f"{way}.log", tests, missing))
    for name, file in LLAMA_FILES.items():
        missing, command = "--llama-python and --gguf were not given", ()
        if llama_python is not None and gguf is not None:
            missing = "" if (gguf / file).is_file() else f"no {file}; see random_gguf.py"
            command = script("peer_llama.py", gguf / file, python=llama_python)
        found.append(Candidate(name, command, logs / f"{file}.log", TESTS, missing))
    missing = "--rwkv was not given" if rwkv is None else "" if rwkv.is_file() else f"no {rwkv}; see peer_rwkv.py"
    command = script("peer_rwkv.py", rwkv, python=rwkv_python)
    found.append(Candidate("rwkv package, bfloat16", command, logs / "rwkv.log", TESTS, missing))
    return [*found, Candidate("rwkv.cpp", (), logs, TESTS, "its packages are of 2023, older than RWKV-6")]


def start(sides: list[Candidate], stack: ExitStack) -> tuple[dict[str, PeerProcess], dict[str, str]]:
    """Those that run here, and the versions of all, or why they do not."""
    running: dict[str, PeerProcess] = {}
    states = {}
    for side in sides:
        if side.missing:
            states[side.name] = f"skipped: {side.missing}"
        else:
            try:
                running[side.name] = stack.enter_context(PeerProcess(list(side.command), side.log))
                states[side.name] = running[side.name].version
            except (OSError, ValueError) as error:
                states[side.name] = f"skipped: {error}"
        print(f"{side.name}: {states[side.name]}", file=sys.stderr, flush=True)
    return running, states


def compare(sides: dict[str, Side], test: str, n_tokens: int, rounds: int) -> dict[str, Any]:
    """Let all take turns; medians of each, and of its times over those of the first in the same round."""
    for side in sides.values():
        side.run(test, WARM_UP[test])
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            times[name].append(side.run(test, n_tokens))
    row: dict[str, Any] = {"test": test, "n_tokens": n_tokens, "sides": {}}
    for name, seconds in times.items():
        ratios = [other / mine for other, mine in zip(seconds, times[next(iter(sides))], strict=True)]
        row["sides"][name] = {
            "tokens_per_s": round(n_tokens / statistics.median(seconds), 2),
            "lowest": round(n_tokens / max(seconds), 2),
            "highest": round(n_tokens / min(seconds), 2),
            "time_over_ours": round(statistics.median(ratios), 3),
            "time_over_ours_by_round": [round(ratio, 3) for ratio in ratios],
        }
    print(row, file=sys.stderr)
    return row


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--llama-python", type=click.Path(path_type=Path), help="interpreter that has llama-cpp-python")
@click.option("--gguf", type=click.Path(path_type=Path), help="folder of random_gguf.py")
@click.option("--rwkv", type=click.Path(path_type=Path), help="model for the `rwkv` package, see peer_rwkv.py")
@click.option("--rwkv-python", type=click.Path(path_type=Path), default=sys.executable, help="interpreter that has it")
@click.option("--plain", is_flag=True, help="ONNX Runtime without our operators, too")
@click.option("--prefill", default=512, show_default=True, help="tokens of a prefill")
@click.option("--steps", default=32, show_default=True, help="tokens decoded in a round")
@click.option("--rounds", default=5, show_default=True, help="in which each takes its turn once")
@click.option("--threads", default=n_usable_cores(), show_default=True)
def main(bundles: tuple[Path, ...], *, prefill: int, steps: int, rounds: int, threads: int, **peers: Any) -> None:
    """Compare the language models of BUNDLES with the peers that are there."""
    manifest, library = read_manifest(bundles[0]), library_path()
    language = manifest.config.language
    with LimitsMeter(threads) as meter:
        limits = [meter.measure()]
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = candidates(bundles, threads=threads, logs=logs, **peers)
        running, states = start(sides, stack)
        if sides[0].name not in running:
            raise click.ClickException(f"{sides[0].name}: {states[sides[0].name]}")
        rows = []
        for test, n_tokens in (("step", steps), ("prefill", prefill)):
            taking_part = {
                side.name: running[side.name] for side in sides if side.name in running and test in side.tests
            }
            rows.append(compare(taking_part, test, n_tokens, rounds))
        peaks = {name: side.peak_rss_mib for name, side in running.items()}
    with LimitsMeter(threads) as meter:
        limits.append(meter.measure())
    result = {
        "model": f"RWKV-{language.version}, {language.n_layers} layers of {language.width}",
        "threads": threads,
        "level": chosen_level(library) if library else "functions",
        "rounds": rounds,
        "sides": states,
        "limits": [vars(found) for found in limits],
        "peak_rss_mib": peaks,
        "runs": rows,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
