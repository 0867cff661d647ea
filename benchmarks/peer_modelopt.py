"""Quantize one graph with nvidia-modelopt, in an environment of its own; started by bench_calibration.py.

python peer_modelopt.py JOB.json      keys: graph, out, frames (a .npy file), nodes, mode, method
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np


def main() -> None:
    """Do the job, print the version."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    import modelopt
    from modelopt.onnx.quantization import quantize

    quantize(
        onnx_path=job["graph"],
        quantize_mode=job["mode"],
        calibration_data={"frames": np.load(job["frames"], allow_pickle=False)},
        calibration_method=job["method"],
        calibration_eps=["cpu"],
        nodes_to_quantize=[f"^{name}$" for name in job["nodes"]],
        op_types_to_quantize=["MatMul", "Gemm"],
        high_precision_dtype="fp32",
        output_path=job["out"],
        log_level="ERROR",
    )
    print(json.dumps({"version": modelopt.__version__}))


if __name__ == "__main__":
    main()
