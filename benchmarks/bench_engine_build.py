"""What it takes to build engines of TensorRT-RTX: time, memory and size, at the widths of the 2B model, on a CPU.

    python benchmarks/bench_engine_build.py

Random weights, and a few layers of each graph: a layer is like the next. The engines are built and not run.
Writes benchmarks/results/engine_build.json.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click
from environment import ROOT, write_result

sys.path.insert(0, str(ROOT / "tests"))

from aurora_export.export.builder_process import run_builder
from aurora_export.export.engine_from_onnx import PROFILES, shapes_of
from aurora_export.export.engine_graph import write_plain_graph
from aurora_export.export.graphs import build_graphs
from aurora_export.export.onnx_from_torch import export_onnx
from aurora_export.export.rtx_builder import Job
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
def main() -> None:
    """Build both engines; write one row for each set of profiles."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for name, graph in build_graphs(tiny_model(6, **SIZES)).items():
            path = Path(folder) / f"{name}.onnx"
            export_onnx(graph, path, precision=PRECISION)
            plain = Path(folder) / name
            plain.mkdir()
            plain_path, engine = write_plain_graph(path, plain), Path(folder) / f"{name}.engine"
            profiles = PROFILES[name]
            for chosen in (profiles, *((profile,) for profile in profiles if len(profiles) > 1)):
                shapes = [shapes_of(graph.spec, profile) for profile in chosen]
                job = Job(onnx=str(plain_path), engine=str(engine), compute_capabilities=CAPABILITIES, profiles=shapes)
                answer = run_builder(job, program="aurora_export.export.rtx_builder", library="TensorRT-RTX")
                letter = "F" if name == "vision" else "T"
                runs.append(
                    {
                        "graph": name,
                        "n_layers": len(graph.layer_outputs),
                        "profiles": [f"{letter} {'–'.join(map(str, sorted({*p[letter]})))}" for p in chosen],
                        "weights_mb": round(path.with_name(f"{path.name}.data").stat().st_size / 1e6, 1),
                        "engine_mb": round(engine.stat().st_size / 1e6, 1),
                        "parse_s": answer["parse_s"],
                        "build_s": answer["build_s"],
                        "peak_mb": round(answer["peak_bytes"] / 1e6, 1),
                    }
                )
                click.echo(runs[-1], err=True)
    result = {"builder": f"tensorrt_rtx {answer['version']}", "precision": PRECISION, "capabilities": CAPABILITIES}
    click.echo(write_result("engine_build", "python benchmarks/bench_engine_build.py", {**result, "runs": runs}))


if __name__ == "__main__":
    main()
