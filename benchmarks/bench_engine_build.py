"""What it takes to build engines of TensorRT-RTX: time, memory and size, at the widths of the 2B model, on a CPU.

    python benchmarks/bench_engine_build.py [--bundle FULL.aurora]

Random weights, and a few layers of each graph: a layer is like the next. With --bundle the graphs of a bundle instead,
at their full depth, which takes gigabytes of memory. The engines are built and not run.
Writes benchmarks/results/engine_build.json, or engine_build_full.json.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from environment import ROOT, write_result

sys.path.insert(0, str(ROOT / "tests"))

from aurora_export.contract import GraphSpec
from aurora_export.export.builder_process import run_builder
from aurora_export.export.engine_from_onnx import PROFILES, Profile, shapes_of
from aurora_export.export.engine_graph import write_plain_graph
from aurora_export.export.graphs import build_graphs
from aurora_export.export.onnx_from_torch import export_onnx
from aurora_export.export.rtx_builder import Job
from aurora_export.manifest import read_manifest, resolve
from tiny import tiny_model

SIZES = {
    "vision": {
        "image_size": 384,
        "patch_size": 16,
        "width": 1024,
        "n_layers": 3,
        "layers_used": 3,
        "n_heads": 16,
        "mlp_width": 4096,
    },
    "projector": {"hidden_width": 2048},
    "language": {
        "n_layers": 2,
        "width": 2048,
        "head_size": 64,
        "ffn_width": 7168,
        "vocabulary_size": 65536,
        "low_ranks": {"mix": 32, "decay": 64},
    },
}
PRECISION = "fp16"
CAPABILITIES = ["8.6", "8.9"]


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="Graphs of this bundle, such as one of full size.")
def main(bundle: Path | None) -> None:
    """Build both engines; write one row for each set of profiles."""
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=bundle and bundle.resolve().parent) as name:
        folder = Path(name)
        precision = PRECISION if bundle is None else read_manifest(bundle).precision
        for graph, path, spec, n_layers in _graphs(folder) if bundle is None else _graphs_of(bundle):
            profiles = PROFILES[graph]
            apart = [(profile,) for profile in profiles if len(profiles) > 1 and bundle is None]
            for chosen in (profiles, *apart):
                runs.append({"graph": graph, "n_layers": n_layers, **_build(folder, path, spec, graph, chosen)})
                click.echo(runs[-1], err=True)
    builder = f"tensorrt_rtx {version('tensorrt_rtx')}"
    result = {"builder": builder, "precision": precision, "capabilities": CAPABILITIES, "runs": runs}
    command = "python benchmarks/bench_engine_build.py"
    if bundle is None:
        click.echo(write_result("engine_build", command, result))
    else:
        click.echo(write_result("engine_build_full", f"{command} --bundle {bundle.name}", result))


Graph = tuple[str, Path, GraphSpec, int]
"""Name, file, contract and number of layers."""


def _graphs(folder: Path) -> Iterator[Graph]:
    """Those of SIZES, with random weights."""
    for name, graph in build_graphs(tiny_model(6, **SIZES)).items():
        export_onnx(graph, folder / f"{name}.onnx", precision=PRECISION)
        yield name, folder / f"{name}.onnx", graph.spec, len(graph.layer_outputs)


def _graphs_of(bundle: Path) -> Iterator[Graph]:
    manifest = read_manifest(bundle)
    for name, spec in manifest.contract.items():
        yield name, resolve(bundle, manifest, name), spec, len(manifest.layer_outputs[name])


def _build(folder: Path, path: Path, spec: GraphSpec, graph: str, profiles: Sequence[Profile]) -> dict[str, Any]:
    """Build one engine with these profiles; its figures."""
    with tempfile.TemporaryDirectory(dir=folder) as plain:
        engine = Path(plain) / f"{graph}.engine"
        job = Job(
            onnx=str(write_plain_graph(path, Path(plain))),
            engine=str(engine),
            compute_capabilities=CAPABILITIES,
            profiles=[shapes_of(spec, profile) for profile in profiles],
        )
        answer = run_builder(job, program="aurora_export.export.rtx_builder", library="TensorRT-RTX")
        letter = "F" if graph == "vision" else "T"
        return {
            "profiles": [f"{letter} {'–'.join(map(str, sorted({*p[letter]})))}" for p in profiles],
            "weights_mb": round(path.with_name(f"{path.name}.data").stat().st_size / 1e6, 1),
            "engine_mb": round(engine.stat().st_size / 1e6, 1),
            "parse_s": answer["parse_s"],
            "build_s": answer["build_s"],
            "peak_mb": round(answer["peak_bytes"] / 1e6, 1),
        }


if __name__ == "__main__":
    main()
