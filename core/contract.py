"""Name, type and shape of every input and output of the two graphs: the one place where they are written.

Letters: F frames, P patches, K visual tokens of a frame, B sequences, T tokens. F, B and T are free at run time;
everything else is fixed by the config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from aurora_export.config import AuroraConfig, Section

MAX_CHUNK_TOKENS = 256
"""Most tokens of one run of the language graph; prefill is cut into chunks of at most this many."""

STATE_NAMES = ("att_shift", "ffn_shift", "wkv")
"""The recurrent state, in order; each comes out of the language graph as next_<name>."""


class TensorSpec(Section):
    """One graph input or output. A shape entry is a size, or the letter of a free dimension."""

    name: str
    dtype: Literal["uint8", "int32", "float32"]
    shape: tuple[int | str, ...]

    def resolve(self, **sizes: int) -> tuple[int, ...]:
        """The shape with its letters replaced, as in `spec.resolve(B=1, T=7)`. KeyError for a letter not given."""
        return tuple(sizes[entry] if isinstance(entry, str) else entry for entry in self.shape)


class GraphSpec(Section):
    """Inputs and outputs of one graph, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __getitem__(self, name: str) -> TensorSpec:
        for spec in (*self.inputs, *self.outputs):
            if spec.name == name:
                return spec
        raise KeyError(name)


def graphs(config: AuroraConfig) -> Mapping[str, GraphSpec]:
    """The contract of both graphs: {"vision": ..., "language": ...}."""
    return {"vision": vision_graph(config), "language": language_graph(config)}


def vision_graph(config: AuroraConfig) -> GraphSpec:
    """Frames to visual tokens, S-ToMe and projector included."""
    side, n_kept = config.vision.image_size, config.tokens_per_frame
    return GraphSpec(
        inputs=(TensorSpec(name="frames", dtype="uint8", shape=("F", side, side, 3)),),
        outputs=(
            TensorSpec(name="visual_tokens", dtype="float32", shape=("F", n_kept, config.language.width)),
            TensorSpec(name="token_sizes", dtype="int32", shape=("F", n_kept)),
            TensorSpec(name="token_of_patch", dtype="int32", shape=("F", config.vision.n_patches)),
        ),
    )


def state_specs(config: AuroraConfig) -> tuple[TensorSpec, ...]:
    """The recurrent state: shift vectors, and wkv indexed [key, value] for both RWKV versions."""
    language = config.language
    shift = (language.n_layers, "B", language.width)
    wkv = (language.n_layers, "B", language.n_heads, language.head_size, language.head_size)
    shapes: tuple[tuple[int | str, ...], ...] = (shift, shift, wkv)
    return tuple(
        TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in zip(STATE_NAMES, shapes, strict=True)
    )


def language_graph(config: AuroraConfig) -> GraphSpec:
    """T embeddings and a state to the logits of the last position and the next state."""
    state = state_specs(config)
    return GraphSpec(
        inputs=(TensorSpec(name="embeddings", dtype="float32", shape=("B", "T", config.language.width)), *state),
        outputs=(
            TensorSpec(name="logits", dtype="float32", shape=("B", config.language.vocabulary_size)),
            *(spec.model_copy(update={"name": f"next_{spec.name}"}) for spec in state),
        ),
    )
