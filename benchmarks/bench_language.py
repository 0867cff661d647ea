r"""Speed of the language graph of an int8 or int4 bundle, beside what the machine can do and plain ONNX Runtime.

    python testbed/full_size.py build/released --layout released --language rwkv6-1b6 --dtype fp16
    aurora-export build build/released --out build/full_size/int8.aurora --precision int8
    python benchmarks/record.py language_speed -- python benchmarks/bench_language.py build/full_size/int8.aurora
    aurora-export build build/released --out build/full_size/int4.aurora --precision int4
    python benchmarks/record.py language_speed_int4 -- python benchmarks/bench_language.py build/full_size/int4.aurora \
        --no-dynamic

Three ways to run the same weights take turns, so that they meet the same minutes of a machine:
  native   the operators of aurora_cpu.so
  plain    the functions of the graph: MatMulNBits, small operators, a Scan for WKV (runs of up to --plain-tokens only)
  dynamic  DynamicQuantizeMatMul of ONNX Runtime, 8 bits per output, small operators, and the native WKV
Limits of the machine are measured in the same run, between the rows. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnx.inliner
from onnx import helper, numpy_helper

from aurora_export.contract import STATE_NAMES, GraphSpec, graphs
from aurora_export.export.rounding import unpack_codes
from aurora_export.manifest import read_manifest
from aurora_export.plugins import DOMAIN
from aurora_export.plugins.cpu import SWITCH, chosen_level, library_path
from aurora_export.plugins.linear import OP_TYPE as LINEAR_OP
from aurora_export.plugins.linear import OP_TYPES as LINEAR_OPS
from aurora_export.plugins.mix import PIECES
from aurora_export.runtime.engine_onnx import OnnxEngine
from aurora_export.runtime.limits import LimitsMeter
from aurora_export.runtime.workload import language_operations, language_weight_bytes

DYNAMIC_GRAPH = "dynamic.onnx"

STEPS = 16
"""tokens that are decoded in one round"""


@contextmanager
def without_library() -> Iterator[None]:
    """Sessions opened in here run the functions of their graphs."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "off"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


def write_dynamic_graph(source: Path, folder: Path) -> None:
    """Write the graph of `source` with DynamicQuantizeMatMul for BlockLinear, and its pieces as small operators."""
    model = onnx.load(source)
    fused = {*PIECES, *LINEAR_OPS} - {LINEAR_OP}
    model = onnx.inliner.inline_selected_functions(model, [(DOMAIN, name) for name in fused])
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == LINEAR_OP:
            size = {attribute.name: attribute.i for attribute in node.attribute}
            n_inputs, bits = size["K"], size["bits"]
            names = list(node.input[1:3])
            stored, scales = (numpy_helper.to_array(tensors[name]) for name in names)
            codes = unpack_codes(stored, bits)
            weight = (codes - np.float32(2 ** (bits - 1))) * scales.reshape(*codes.shape[:2], 1)
            weight = weight.reshape(len(codes), -1)[:, :n_inputs]
            column = np.abs(weight).max(1) / 127
            rounded = np.rint(weight / column[:, None]).astype(np.int8)
            tensors[names[0]].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(rounded.T), names[0]))
            tensors[names[1]].CopyFrom(numpy_helper.from_array(column, names[1]))
            node.CopyFrom(
                helper.make_node(
                    "DynamicQuantizeMatMul",
                    [node.input[0], *names],
                    list(node.output),
                    name=node.name,
                    domain="com.microsoft",
                )
            )
    onnx.save(model, folder / DYNAMIC_GRAPH, save_as_external_data=True, location="dynamic.data", size_threshold=1024)


def runner(engine: OnnxEngine, spec: GraphSpec, n_tokens: int) -> Callable[[], float]:
    """A function that runs `n_tokens` and gives the seconds; one token is decoded STEPS times in the loop's buffers."""
    width = spec["embeddings"].resolve(B=1, T=1)[-1]
    embeddings = np.random.default_rng(n_tokens).normal(size=(n_tokens, width)).astype(np.float32)
    loop = engine.open_loop()
    inputs = {
        "embeddings": embeddings[None],
        **{name: np.zeros(spec[name].resolve(B=1), np.float32) for name in STATE_NAMES},
    }

    def step() -> float:
        began = time.perf_counter()
        for _ in range(STEPS):
            loop.advance(embeddings)
        return (time.perf_counter() - began) / STEPS

    def prefill() -> float:
        began = time.perf_counter()
        engine.run(inputs)
        return time.perf_counter() - began

    return step if n_tokens == 1 else prefill


def summary(times: dict[str, list[float]], n_tokens: int) -> dict[str, Any]:
    """Medians of each way, and of the ratios to the native one within a round."""
    row: dict[str, Any] = {"n_tokens": n_tokens}
    for name, seconds in times.items():
        ratios = [other / mine for other, mine in zip(seconds, times["native"], strict=True)]
        row[name] = {
            "seconds": round(statistics.median(seconds), 5),
            "tokens_per_s": round(n_tokens / statistics.median(seconds), 1),
            "lowest_s": round(min(seconds), 5),
            "highest_s": round(max(seconds), 5),
        }
        if name != "native":
            row[name]["time_over_native"] = round(statistics.median(ratios), 3)
            row[name]["time_over_native_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
    return row


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--tokens", default="1,64,92,256,512", show_default=True, help="tokens of a run")
@click.option("--rounds", default=5, show_default=True, help="in which each way takes its turn once")
@click.option("--threads", default=len(os.sched_getaffinity(0)), show_default=True)
@click.option("--plain-tokens", default=92, show_default=True, help="longest run of the functions: a Scan is slow")
@click.option("--work", type=click.Path(path_type=Path), help="keep what is compiled and written, for the next run")
@click.option(
    "--dynamic/--no-dynamic", default=True, show_default=True, help="write and run that graph: takes a minute"
)
def main(
    bundle: Path, tokens: str, rounds: int, threads: int, plain_tokens: int, work: Path | None, *, dynamic: bool
) -> None:
    """Measure the language graph of BUNDLE, built with --precision int8 or int4."""
    library = library_path()
    if library is None:
        raise click.ClickException("the native library is not there: `aurora-export doctor` says why")
    manifest = read_manifest(bundle)
    path, spec = bundle / manifest.files["language"], graphs(manifest.config)["language"]
    with ExitStack() as stack:
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory(dir=bundle.parent)))
        folder.mkdir(exist_ok=True)
        engines = {"native": OnnxEngine(path, spec, threads=threads)}
        with without_library():
            engines["plain"] = OnnxEngine(path, spec, threads=threads)
        if dynamic:
            if not (folder / DYNAMIC_GRAPH).exists():
                write_dynamic_graph(path, folder)
            engines["dynamic"] = OnnxEngine(folder / DYNAMIC_GRAPH, spec, threads=threads)
        meter = stack.enter_context(LimitsMeter(threads))
        measured = [meter.measure()]
        rows = []
        for n_tokens in map(int, tokens.split(",")):
            names = [name for name in engines if name != "plain" or n_tokens <= plain_tokens]
            runs = {name: runner(engines[name], spec, n_tokens) for name in names}
            for run in runs.values():
                run()  # warm up
            times: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(rounds):
                for name, run in runs.items():
                    times[name].append(run())
            measured.append(meter.measure())
            rows.append(summary(times, n_tokens))
            print(f"{n_tokens} tokens: {rows[-1]}", file=sys.stderr)
            here = measured[-2].or_better(measured[-1])
            seconds = rows[-1]["native"]["seconds"]
            if n_tokens == 1:
                read = language_weight_bytes(manifest) / seconds / 1e9
                rows[-1]["native"] |= {"read_gb_per_s": round(read, 2)}
                rows[-1]["native"]["share_of_plain_reads"] = round(read / here.read_gb_per_s, 3)
            elif here.int8_gop_per_s:
                done = language_operations(manifest.config, n_tokens) / seconds / 1e9
                rows[-1]["native"]["gop_per_s"] = round(done, 1)
                rows[-1]["native"]["share_of_int8_peak"] = round(done / here.int8_gop_per_s, 3)
    result = {
        "model": f"RWKV-{manifest.config.language.version}, {manifest.config.language.n_layers} layers of "
        f"{manifest.config.language.width}, {manifest.precision}",
        "threads": threads,
        "level": chosen_level(library),
        "bytes_of_a_step": language_weight_bytes(manifest),
        "limits": [vars(found) for found in measured],
        "runs": rows,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
