"""llama.cpp as a peer of bench_peers.py: answers `prefill N` and `step N` on stdin with the seconds, on stdout.

Runs in an environment of its own, because nothing else here needs it:
    python -m venv build/venv-llama
    build/venv-llama/bin/pip install llama-cpp-python==0.3.36 gguf==0.19.0

Usage: python peer_llama.py MODEL.gguf THREADS.  The state starts from nothing for each prefill; the logits of the last
token only are computed, as in our prefill.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import llama_cpp
import numpy as np

CONTEXT = 2048
CHUNK = 512


class Model:
    """One model and its context, through the library's C functions."""

    def __init__(
        self, path: str, n_threads: int, *, n_context: int = CONTEXT, n_sequences: int = 1, flash: bool | None = None
    ) -> None:
        """Raise SystemExit if llama.cpp cannot open the file, or has no room for so many tokens.

        n_sequences: over one memory. flash: whether attention is computed without its matrix; None leaves it to it.
        """
        llama_cpp.llama_backend_init()
        model_options = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), model_options)
        if not self._model:
            raise SystemExit(f"{path}: llama.cpp cannot open it")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = n_context, CHUNK, CHUNK
        options.n_threads = options.n_threads_batch = n_threads
        if flash is not None:
            kinds = (llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED, llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED)
            options.flash_attn_type = kinds[flash]
        options.n_seq_max, options.kv_unified = n_sequences, n_sequences > 1
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        if not self._context:
            raise SystemExit(f"{path}: llama.cpp cannot hold {n_context} tokens")
        self._n_vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._rng = np.random.default_rng(0)

    def _clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def _decode(self, n_tokens: int) -> None:
        """Run one batch; its last token's logits are there when this returns."""
        tokens = (llama_cpp.llama_token * n_tokens)(*self._rng.integers(0, self._n_vocabulary, n_tokens).tolist())
        if llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(tokens, n_tokens)):
            raise SystemExit("llama.cpp could not run a batch")
        llama_cpp.llama_synchronize(self._context)

    def prefill(self, n_tokens: int) -> float:
        """Seconds to read `n_tokens`, at most CHUNK a batch."""
        self._clear()
        began = time.perf_counter()
        for start in range(0, n_tokens, CHUNK):
            self._decode(min(CHUNK, n_tokens - start))
        return time.perf_counter() - began

    def step(self, n_tokens: int) -> float:
        """Seconds to decode `n_tokens`, one by one."""
        self._clear()
        began = time.perf_counter()
        for _ in range(n_tokens):
            self._decode(1)
        return time.perf_counter() - began


def main(path: str, n_threads: int) -> None:
    """Answer until stdin ends."""
    model = Model(path, n_threads)
    print(json.dumps({"version": llama_cpp.__version__}), flush=True)
    for line in sys.stdin:
        name, n_tokens = line.split()
        seconds = {"prefill": model.prefill, "step": model.step}[name](int(n_tokens))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_rss_mib": round(peak, 1)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
