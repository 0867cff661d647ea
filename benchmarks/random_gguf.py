"""A random RWKV-6 1.6B for llama.cpp: real shapes and metadata, so that its speed is real and its answers are not.

Run by the interpreter that has llama-cpp-python and gguf (see peer_llama.py):
    python benchmarks/random_gguf.py build/gguf

Writes DIR/q8_0.gguf and DIR/q4_0.gguf, by way of a float16 file of 3.2 GB that is removed.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

LAYERS, WIDTH, HEAD, FFN, VOCABULARY = 24, 2048, 64, 7168, 65536
MIX_RANK, DECAY_RANK = 32, 64
POOL = 2**24
"""Random numbers that all matrices are cut from: speed does not depend on them."""


class Weights:
    """Tensors into a writer."""

    def __init__(self, writer: gguf.GGUFWriter) -> None:
        self._writer, self._rng = writer, np.random.default_rng(0)
        self._pool = self._rng.standard_normal(POOL, dtype=np.float32)

    def matrix(self, name: str, *shape: int, scale: float | None = None, dtype: type = np.float16) -> None:
        """Normal numbers; without a scale, of the inverse root of the last size."""
        pool = self._scaled(scale or shape[-1] ** -0.5, dtype)
        values, start, done = np.empty(int(np.prod(shape)), dtype), int(self._rng.integers(0, POOL)), 0
        while done < len(values):
            part = pool[start : start + len(values) - done]
            values[done : done + len(part)] = part
            start, done = 0, done + len(part)
        self._writer.add_tensor(f"{name}.weight", values.reshape(shape))

    @cache  # noqa: B019 (one object, which lives as long as the program)
    def _scaled(self, scale: float, dtype: type) -> np.ndarray:
        """All numbers of the pool."""
        return (self._pool * np.float32(scale)).astype(dtype)

    def vector(self, name: str, values: np.ndarray | float, *shape: int) -> None:
        """float32 of a shape."""
        self._writer.add_tensor(name, np.broadcast_to(np.float32(values), shape).copy())

    def uniform(self, name: str, *shape: int, low: float = 0, high: float = 1) -> None:
        """float32, spread evenly."""
        self.vector(f"{name}.weight", self._rng.uniform(low, high, shape).astype(np.float32), *shape)

    def norm(self, name: str) -> None:
        """The identity."""
        self.vector(f"{name}.weight", 1, WIDTH)
        self.vector(f"{name}.bias", 0, WIDTH)


def write_float16(path: Path) -> None:
    """Write all of the model."""
    writer = gguf.GGUFWriter(str(path), "rwkv6", use_temp_file=True)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("no_vocab")
    writer.add_context_length(2**20)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_wkv_head_size(HEAD)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_rescale_every_n_layers(6)
    writer.add_time_mix_extra_dim(MIX_RANK)
    writer.add_time_decay_extra_dim(DECAY_RANK)
    weights = Weights(writer)
    weights.matrix("token_embd", VOCABULARY, WIDTH, scale=0.02)
    weights.norm("token_embd_norm")
    weights.norm("output_norm")
    weights.matrix("output", VOCABULARY, WIDTH)
    for layer in range(LAYERS):
        add_block(weights, f"blk.{layer}.")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_block(weights: Weights, at: str) -> None:
    """Add one block."""
    for name in ("attn_norm", "attn_norm_2", "time_mix_ln"):
        weights.norm(at + name)
    low_rank = {"scale": 0.01, "dtype": np.float32}
    weights.matrix(f"{at}time_mix_w1", 5 * MIX_RANK, WIDTH, **low_rank)
    weights.matrix(f"{at}time_mix_w2", 5, WIDTH, MIX_RANK, **low_rank)
    weights.matrix(f"{at}time_mix_decay_w1", DECAY_RANK, WIDTH, **low_rank)
    weights.matrix(f"{at}time_mix_decay_w2", WIDTH, DECAY_RANK, **low_rank)
    weights.uniform(f"{at}time_mix_lerp_x", 1, 1, WIDTH)
    weights.uniform(f"{at}time_mix_lerp_fused", 5, 1, 1, WIDTH)
    weights.uniform(f"{at}time_mix_first", WIDTH // HEAD, HEAD, low=-0.3, high=0.3)
    weights.uniform(f"{at}time_mix_decay", WIDTH, low=-6, high=-1)
    for name in ("key", "value", "receptance", "gate", "output"):
        weights.matrix(f"{at}time_mix_{name}", WIDTH, WIDTH)
    weights.uniform(f"{at}channel_mix_lerp_k", 1, 1, WIDTH)
    weights.uniform(f"{at}channel_mix_lerp_r", 1, 1, WIDTH)
    weights.matrix(f"{at}channel_mix_receptance", WIDTH, WIDTH)
    weights.matrix(f"{at}channel_mix_key", FFN, WIDTH)
    weights.matrix(f"{at}channel_mix_value", WIDTH, FFN)


def quantise(source: Path, target: Path, kind: int) -> None:
    """As llama.cpp's own program does."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = kind
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), parameters):
        raise SystemExit(f"{target}: llama.cpp could not write it")


def main(folder: Path) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "float16.gguf"
    write_float16(whole)
    quantise(whole, folder / "q8_0.gguf", llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0)
    quantise(whole, folder / "q4_0.gguf", llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0)
    whole.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
