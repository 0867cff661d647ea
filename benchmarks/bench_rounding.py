r"""Weight-only integers by error feedback beside each weight by itself: errors of what layers give, on clips unseen.

    aurora-export calibrate build/testbed.aurora --data build/clips/questions.jsonl --out build/scales.json \
        --second-moments '*'
    aurora-export calibrate build/testbed.aurora --data build/other/questions.jsonl --out build/other.json \
        --second-moments '*'
    python benchmarks/record.py rounding -- python benchmarks/bench_rounding.py build/testbed.aurora \
        --moments build/scales.json --held-out build/other.json

The squared error of a layer's outputs is trace(D M D^T): D what rounding does to the weight, M the second moments of
its input. The feedback is by the moments of one calibration, the error is on those of another.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir

from aurora_export.calibration.sites import find_sites
from aurora_export.calibration.variants import kind_of
from aurora_export.errors import UsageError
from aurora_export.export.feedback_rounding import FeedbackRounding, open_feedback_rounding
from aurora_export.export.rounding import round_weight
from aurora_export.export.weight_only import DEFAULT_BLOCK_SIZE
from aurora_export.manifest import read_manifest, resolve


def output_error(codes: np.ndarray, scales: np.ndarray, bits: int, weight: np.ndarray, moments: np.ndarray) -> float:
    """Squared error of a row of outputs. codes, scales: as of `round_weight`. weight: (N, K). moments: (K, K)."""
    blocks = (codes.astype(np.float32) - (1 << (bits - 1))) * scales.reshape(*codes.shape[:2], 1)
    difference = blocks.reshape(len(weight), -1)[:, : weight.shape[1]] - weight
    return float(np.einsum("nk,nk->", difference @ moments, difference, dtype=np.float64))


def ratios(
    model: ir.Model, bits: int, feedback: FeedbackRounding, held_out: FeedbackRounding
) -> dict[str, list[float]]:
    """Kind of a layer -> error by feedback over that without, of each of its weights."""
    found: dict[str, list[float]] = {}
    for name, site in find_sites(model.graph).items():
        if name not in feedback.moments.sites & held_out.moments.sites or site.linears[0].op_type == "Conv":
            continue
        for node in site.linears:
            stored = node.inputs[1].const_value.numpy()
            weight = np.ascontiguousarray(stored.T if node.op_type == "MatMul" else stored)
            n_inputs, block_size = weight.shape[1], DEFAULT_BLOCK_SIZE[bits]
            unseen = held_out.moments.of(name, n_inputs)
            weight_name = node.inputs[1].name.removesuffix(".transposed")
            by_feedback, plain = (
                output_error(*rounding(weight_name, weight, bits, block_size), bits, weight, unseen)
                for rounding in (feedback, round_weight)
            )
            found.setdefault(kind_of(site.group), []).append(by_feedback / plain)
    return found


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--moments", type=click.Path(path_type=Path), required=True, help="Scale file whose moments round.")
@click.option("--held-out", type=click.Path(path_type=Path), required=True, help="Scale file of other clips.")
def main(bundle: Path, moments: Path, held_out: Path) -> None:
    """Print one JSON object."""
    feedback, unseen = open_feedback_rounding(moments), open_feedback_rounding(held_out)
    if feedback.scales.data.digest == unseen.scales.data.digest:
        raise UsageError(f"{moments} and {held_out} are of the same clips")
    manifest = read_manifest(bundle)
    rows: dict[str, dict[str, Any]] = {}
    for graph in manifest.contract:
        model = ir.load(resolve(bundle, manifest, graph))
        feedback.require_graph(model, graph)
        for bits in DEFAULT_BLOCK_SIZE:
            for kind, values in ratios(model, bits, feedback, unseen).items():
                row = rows.setdefault(kind, {"weights": len(values)})
                row[f"int{bits}"] = {"mean": float(np.mean(values)), "worst": float(max(values))}
    result = {
        "what": "squared error of outputs by error feedback, over that of rounding each weight by itself, unseen clips",
        "clips": [side.scales.data.clips for side in (feedback, unseen)],
        "block_size": {f"int{bits}": size for bits, size in DEFAULT_BLOCK_SIZE.items()},
        "rows": rows,
    }
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
