"""A graph of random_tower.py in plain ONNX Runtime, as a peer of bench_transformer.py.

Usage: python peer_tower.py FILE THREADS.  Answers each line `see N` on stdin with the seconds that N frames took, one
after the other, the tokens of a frame, and the peak of memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import numpy as np
import onnxruntime


def main(path: str, n_threads: int) -> None:
    """Answer until stdin ends."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).normal(size=session.get_inputs()[0].shape).astype(np.float32)
    print(json.dumps({"version": onnxruntime.__version__}), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line.split()[1])):
            tokens = session.run(None, {"pixels": pixels})[0]
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        answer = {"seconds": seconds, "n_tokens": tokens.shape[1], "peak_rss_mib": round(peak, 1)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
