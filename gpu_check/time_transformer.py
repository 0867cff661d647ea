"""A transformer of the 2B model's size in plain torch, float16, random weights: what more video costs it.

InternLM2-1.8B's shape, and 256 tokens a frame, as Mini-InternVL-1.5 has it. Attention is torch's own, fused one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu

from devices import Cuda, Emulated


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder with grouped keys and values."""

    n_layers: int = 24
    width: int = 2048
    n_heads: int = 16
    n_key_heads: int = 8
    ffn_width: int = 8192
    vocabulary_size: int = 92544


TINY = Shape(n_layers=2, width=64, n_heads=4, n_key_heads=2, ffn_width=128, vocabulary_size=256)
TOKENS_PER_FRAME = 256
FRAMES = (8, 48, 256)
CHUNK = 1024


class Transformer:
    """Decoder layers and their cache; normalising and rotary positions are left out, which cost next to nothing."""

    def __init__(self, shape: Shape, n_positions: int, device: str, dtype: torch.dtype) -> None:
        self.shape = shape
        head = shape.width // shape.n_heads
        key_width = shape.n_key_heads * head

        def weight(n_in: int, n_out: int) -> Tensor:
            return torch.randn(n_in, n_out, device=device, dtype=dtype) / n_in**0.5

        self.layers = [
            {
                "qkv": weight(shape.width, shape.width + 2 * key_width),
                "out": weight(shape.width, shape.width),
                "up": weight(shape.width, 2 * shape.ffn_width),
                "down": weight(shape.ffn_width, shape.width),
            }
            for _ in range(shape.n_layers)
        ]
        self.head = weight(shape.width, shape.vocabulary_size)
        size = (shape.n_layers, 2, 1, shape.n_key_heads, n_positions, head)
        self.cache = torch.zeros(size, device=device, dtype=dtype)

    def run(self, x: Tensor, n_before: int) -> Tensor:
        """Read T tokens, shape (1, T, E), behind `n_before` in the cache; the logits of the last one, shape (1, V)."""
        shape, n_tokens = self.shape, x.shape[1]
        head = shape.width // shape.n_heads
        end = n_before + n_tokens
        mask = None
        if n_tokens > 1:
            mask = torch.ones(n_tokens, end, dtype=torch.bool, device=x.device).tril(n_before)
        for layer, cache in zip(self.layers, self.cache, strict=True):
            q, k, v = (x @ layer["qkv"]).split([shape.width, *[shape.n_key_heads * head] * 2], -1)
            cache[0, :, :, n_before:end] = k.view(1, n_tokens, -1, head).transpose(1, 2)
            cache[1, :, :, n_before:end] = v.view(1, n_tokens, -1, head).transpose(1, 2)
            keys, values = cache[0, :, :, :end], cache[1, :, :, :end]
            queries = q.view(1, n_tokens, -1, head).transpose(1, 2)
            y = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=True)
            x = x + y.transpose(1, 2).reshape(1, n_tokens, -1) @ layer["out"]
            gate, up = (x @ layer["up"]).chunk(2, -1)
            x = x + (silu(gate) * up) @ layer["down"]
        return x[:, -1] @ self.head


def time_transformer(device: Cuda | Emulated, *, dry_run: bool) -> dict[str, Any]:
    """Read frames, then make a token, for each number of frames: seconds, and bytes of the cache.

    dry_run: a tiny one on the CPU, whose numbers mean nothing.
    """
    shape, frames = (TINY, (1, 2)) if dry_run else (Shape(), FRAMES)
    dtype = torch.float32 if dry_run else torch.float16
    n_positions = max(frames) * TOKENS_PER_FRAME + 1
    with torch.inference_mode():
        model = Transformer(shape, n_positions, device.name, dtype)
        result: dict[str, Any] = {}
        for n in frames:
            n_tokens = n * TOKENS_PER_FRAME

            def read(n_tokens: int = n_tokens) -> None:
                for start in range(0, n_tokens, CHUNK):
                    size = min(CHUNK, n_tokens - start)
                    model.run(torch.zeros(1, size, shape.width, device=device.name, dtype=dtype), start)

            token = torch.zeros(1, 1, shape.width, device=device.name, dtype=dtype)
            step = device.seconds(lambda token=token, n=n_tokens: model.run(token, n), repeats=1)  # type: ignore[misc]
            result[f"{n} frames"] = {
                "tokens": n_tokens,
                "read_ms": round(device.seconds(read, repeats=1) * 1e3, 3),
                "step_ms": round(step * 1e3, 4),
                "cache_mb": round(2 * shape.n_layers * n_tokens * shape.n_key_heads * (shape.width // shape.n_heads)
                                  * model.cache.element_size() / 1e6, 1),
            }  # fmt: skip
    return result
