"""A transformer in llama.cpp as the peer of bench_transformer.py, at any depth; run as peer_llama.py is.

Usage: python peer_transformer.py MODEL.gguf THREADS CONTEXT FLASH     (FLASH: 0 or 1)

Answers on stdout, a line of JSON each, what it is told on stdin:
    clear       forget everything
    read N      read N tokens behind what is there
    deepen N    be N tokens deep, without having read them: keys and values of the first CHUNK tokens are copied, as
                bytes, to every later place, and rotated to it. What they say does not matter for the speed
    step N      decode N tokens behind what is there, one by one, and forget them
Each answer has the seconds (of `deepen`: of the first run, which rotates), the depth, and the peak of memory.
"""

from __future__ import annotations

import ctypes
import json
import resource
import sys
import time

import llama_cpp
from peer_llama import CHUNK, Model

MAIN, COPY = 0, 1
"""Sequences: what is read, and where copies come in."""


class Deep(Model):
    """A model that is somewhere in a long text."""

    def __init__(self, path: str, n_threads: int, n_context: int, *, flash: bool) -> None:
        super().__init__(path, n_threads, n_context=n_context, n_sequences=2, flash=flash)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self.depth = 0

    def clear(self) -> float:
        """Forget everything."""
        self._clear()
        self.depth = 0
        return 0.0

    def read(self, n_tokens: int) -> float:
        """Seconds to read so many, at most CHUNK at once."""
        began = time.perf_counter()
        for start in range(0, n_tokens, CHUNK):
            self._decode(min(CHUNK, n_tokens - start))
        self.depth += n_tokens
        return time.perf_counter() - began

    def step(self, n_tokens: int) -> float:
        """Seconds to decode so many."""
        depth = self.depth
        began = time.perf_counter()
        for _ in range(n_tokens):
            self._decode(1)
        seconds = time.perf_counter() - began
        self._forget_from(depth)
        return seconds

    def deepen(self, depth: int) -> float:
        """Be so deep; depth is a multiple of CHUNK and more than what is there."""
        if depth % CHUNK or depth <= self.depth:
            raise SystemExit(f"{depth} is no multiple of {CHUNK} over {self.depth}")
        if self.depth < CHUNK:
            self.clear()
            self.read(CHUNK)
        self._forget_from(self.depth // CHUNK * CHUNK)
        saved = self._save_first_chunk()
        while self.depth < depth:
            size = llama_cpp.llama_state_seq_set_data(self._context, saved, len(saved), COPY)
            if size == 0:
                raise SystemExit(f"llama.cpp took no copy at a depth of {self.depth}")
            llama_cpp.llama_memory_seq_add(self._memory, COPY, 0, CHUNK, self.depth)
            llama_cpp.llama_memory_seq_cp(self._memory, COPY, MAIN, self.depth, self.depth + CHUNK)
            llama_cpp.llama_memory_seq_rm(self._memory, COPY, -1, -1)
            self.depth += CHUNK
        return self.step(1)

    def _save_first_chunk(self) -> ctypes.Array[ctypes.c_uint8]:
        """Keys and values of the first CHUNK tokens, as llama.cpp writes them."""
        llama_cpp.llama_memory_seq_cp(self._memory, MAIN, COPY, 0, CHUNK)
        size = llama_cpp.llama_state_seq_get_size(self._context, COPY)
        saved = (ctypes.c_uint8 * size)()
        if llama_cpp.llama_state_seq_get_data(self._context, saved, size, COPY) != size:
            raise SystemExit("llama.cpp did not save its state")
        llama_cpp.llama_memory_seq_rm(self._memory, COPY, -1, -1)
        return saved

    def _forget_from(self, depth: int) -> None:
        llama_cpp.llama_memory_seq_rm(self._memory, MAIN, depth, -1)
        self.depth = depth


def main(path: str, n_threads: int, n_context: int, *, flash: bool) -> None:
    """Answer until stdin ends."""
    model = Deep(path, n_threads, n_context, flash=flash)
    print(json.dumps({"version": llama_cpp.__version__}), flush=True)
    for line in sys.stdin:
        name, *numbers = line.split()
        tasks = {"clear": model.clear, "read": model.read, "step": model.step, "deepen": model.deepen}
        seconds = tasks[name](*map(int, numbers))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "depth": model.depth, "peak_rss_mib": round(peak, 1)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), flash=sys.argv[4] == "1")
