"""The `rwkv` package on torch, in bfloat16, as a peer of bench_peers.py: answers as peer_llama.py does.

Usage: python peer_rwkv.py MODEL.pth THREADS.  A model of random weights, and its names, are those of
    python testbed/full_size.py build/parts --layout parts --language rwkv6-1b6 --dtype bf16
The interpreter is one that has `rwkv` and `torch`: `make .venv/installed-dev` has both, at pinned versions.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import time
from importlib.metadata import version

CHUNK = 256
"""Tokens of a forward pass, as in the package's own pipeline."""


class Model:
    """One model; the package's own settings for a CPU: scripted, no kernels to compile."""

    def __init__(self, path: str, n_threads: int) -> None:
        os.environ |= {"RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0", "RWKV_V7_ON": "0"}
        import torch
        from rwkv.model import RWKV

        torch.set_num_threads(n_threads)
        self._model = RWKV(model=path.removesuffix(".pth"), strategy="cpu bf16")
        self._random = random.Random(0)
        self._n_vocabulary = self._model.w["emb.weight"].shape[0]

    def _tokens(self, n_tokens: int) -> list[int]:
        return [self._random.randrange(self._n_vocabulary) for _ in range(n_tokens)]

    def prefill(self, n_tokens: int) -> float:
        """Seconds to read `n_tokens`, CHUNK at once; the logits of the last one only are computed."""
        tokens, state = self._tokens(n_tokens), None
        began = time.perf_counter()
        for start in range(0, n_tokens, CHUNK):
            _, state = self._model.forward(tokens[start : start + CHUNK], state)
        return time.perf_counter() - began

    def step(self, n_tokens: int) -> float:
        """Seconds to decode `n_tokens`, one by one."""
        tokens, state = self._tokens(n_tokens), None
        began = time.perf_counter()
        for token in tokens:
            _, state = self._model.forward([token], state)
        return time.perf_counter() - began


def main(path: str, n_threads: int) -> None:
    """Answer until stdin ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # the package says what it loads on stdout
    model = Model(path, n_threads)
    about = f"{version('rwkv')}, torch {version('torch')}"
    print(json.dumps({"version": about}), file=answers, flush=True)
    for line in sys.stdin:
        name, n_tokens = line.split()
        seconds = {"prefill": model.prefill, "step": model.step}[name](int(n_tokens))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_rss_mib": round(peak, 1)}), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
