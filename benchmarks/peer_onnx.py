"""The language graph of a bundle in ONNX Runtime, as a side of bench_peers.py: as a session runs it, and plainly.

Usage: python peer_onnx.py BUNDLE WAY THREADS.  WAY is one of:
  ours        with the native operators
  functions   the functions of the graph: MatMulNBits and small operators. For steps: WKV is a Scan, slow over many
  dynamic     DynamicQuantizeMatMul, see bench_language.py; the native WKV. For prefill; int8 bundles only
Answers as peer_llama.py does.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import onnxruntime

from aurora_export.contract import MAX_CHUNK_TOKENS, graphs
from aurora_export.manifest import Manifest, read_manifest
from aurora_export.runtime.engine import Loop
from aurora_export.runtime.engine_onnx import OnnxEngine

WRITE = """
import sys
from pathlib import Path
from bench_language import write_dynamic_graph
write_dynamic_graph(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@contextmanager
def opened(bundle: Path, manifest: Manifest, way: str, n_threads: int) -> Iterator[Loop]:
    """The graph, run in that way."""
    path, spec = bundle.resolve() / manifest.files["language"], graphs(manifest.config)["language"]
    if way == "ours":
        yield OnnxEngine(path, spec, threads=n_threads).open_loop()
        return
    from bench_language import DYNAMIC_GRAPH, without_library  # needs onnx

    with tempfile.TemporaryDirectory() as folder:
        if way == "dynamic":
            # By another process: what writing takes is no part of this one's memory.
            subprocess.run([sys.executable, "-c", WRITE, str(path), folder], check=True, cwd=Path(__file__).parent)
            path = Path(folder, DYNAMIC_GRAPH)
        with without_library() if way == "functions" else nullcontext():
            yield OnnxEngine(path, spec, threads=n_threads).open_loop()


def main(bundle: Path, way: str, n_threads: int) -> None:
    """Answer until stdin ends."""
    manifest = read_manifest(bundle)
    table = np.load(bundle / manifest.files["embeddings"], mmap_mode="r")
    rng = np.random.default_rng(0)
    with opened(bundle, manifest, way, n_threads) as loop:
        print(json.dumps({"version": onnxruntime.__version__}), flush=True)
        for line in sys.stdin:
            test, n_tokens = line.split()
            chunk = MAX_CHUNK_TOKENS if test == "prefill" else 1
            embeddings = np.asarray(table[rng.integers(0, len(table), int(n_tokens))], np.float32)
            began = time.perf_counter()
            for start in range(0, len(embeddings), chunk):
                loop.advance(embeddings[start : start + chunk])
            seconds = time.perf_counter() - began
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(json.dumps({"seconds": seconds, "peak_rss_mib": round(peak, 1)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
