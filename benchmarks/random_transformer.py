"""A random InternLM2-1.8B for llama.cpp, the language model of Mini-InternVL-1.5 2B: real shapes, random numbers.

Run by the interpreter that has llama-cpp-python and gguf (see peer_llama.py):
    python benchmarks/random_transformer.py build/gguf

Writes DIR/transformer_q8_0.gguf, by way of a float16 file of 3.8 GB that is removed. llama.cpp runs InternLM2 as its
`llama` architecture: the published checkpoints only store q, k and v as one matrix.
Shape: config.json of internlm/internlm2-1_8b (24 layers of 2048, 16 heads, 8 of them for keys and values, 8192 wide
inside, 92544 tokens, rotation base 1e6).
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import llama_cpp
from random_gguf import Weights, quantise

LAYERS, WIDTH, HEADS, KV_HEADS, FFN, VOCABULARY = 24, 2048, 16, 8, 8192, 92544
HEAD = WIDTH // HEADS
FILE = "transformer_q8_0.gguf"


def write_float16(path: Path) -> None:
    """Write all of the model."""
    writer = gguf.GGUFWriter(str(path), "llama", use_temp_file=True)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(VOCABULARY)
    writer.add_context_length(2**20)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(1e6)
    weights = Weights(writer)
    weights.matrix("token_embd", VOCABULARY, WIDTH, scale=0.02)
    weights.vector("output_norm.weight", 1, WIDTH)
    weights.matrix("output", VOCABULARY, WIDTH)
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        weights.vector(f"{at}attn_norm.weight", 1, WIDTH)
        weights.matrix(f"{at}attn_q", WIDTH, WIDTH)
        weights.matrix(f"{at}attn_k", KV_HEADS * HEAD, WIDTH)
        weights.matrix(f"{at}attn_v", KV_HEADS * HEAD, WIDTH)
        weights.matrix(f"{at}attn_output", WIDTH, WIDTH)
        weights.vector(f"{at}ffn_norm.weight", 1, WIDTH)
        weights.matrix(f"{at}ffn_gate", FFN, WIDTH)
        weights.matrix(f"{at}ffn_up", FFN, WIDTH)
        weights.matrix(f"{at}ffn_down", WIDTH, FFN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(folder: Path) -> None:
    """Write the file."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "transformer_float16.gguf"
    write_float16(whole)
    quantise(whole, folder / FILE, llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0)
    whole.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
