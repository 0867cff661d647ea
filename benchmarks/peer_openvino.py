"""OpenVINO as a peer of bench_vision.py: answers each line on stdin, a number of frames, with the seconds, on stdout.

Runs in an environment of its own, because nothing else here needs it:
    python -m venv build/venv-openvino
    build/venv-openvino/bin/pip install openvino==2026.4.1

Usage: python peer_openvino.py vision.onnx THREADS.  Precision is what OpenVINO chooses for this machine.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import numpy as np
import openvino


def main(path: str, n_threads: int) -> None:
    """Answer until stdin ends. A model is compiled for each number of frames, when it is first asked for."""
    core = openvino.Core()
    compiled = {}
    print(json.dumps({"version": openvino.__version__.partition("-")[0]}), flush=True)
    for line in sys.stdin:
        n_frames = int(line)
        if n_frames not in compiled:
            model = core.read_model(path)
            _, *size = model.input(0).partial_shape
            shape = [n_frames, *(entry.get_length() for entry in size)]
            model.reshape(shape)
            options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": n_threads}
            compiled[n_frames] = (core.compile_model(model, "CPU", options), shape)
        network, shape = compiled[n_frames]
        frames = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
        began = time.perf_counter()
        network([frames])
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        precision = str(network.get_property("INFERENCE_PRECISION_HINT"))
        print(json.dumps({"seconds": seconds, "peak_rss_mib": round(peak, 1), "precision": precision}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
