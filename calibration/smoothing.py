"""Channels with outliers made smaller, and what reads them larger, without a node and without changing a result.

A site is smoothed by a factor for each channel (SmoothQuant, arXiv 2211.10438, equation 4): its activation is divided,
the rows of the weights that read it are multiplied. The division is put into what computes the activation, which it
can pass through exactly:

| site | divided |
|---|---|
| vision.N.qkv, vision.N.mlp.fc1 | weight and bias of the LayerNorm |
| vision.N.out | output of the values: attention is a sum of them |
| language.N.att.o | weight and bias of ln_x of RWKV-6; the gate multiplies each channel |
| language.N.ffn.v | output of the key by the square root: relu(k)^2 |
| language.head | weight and bias of ln_out |

What the other layers of RWKV read is also the state, which has to stay what it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

import numpy as np
import onnx_ir as ir

from aurora_export.calibration.sites import Site, find_sites

MAX_FACTOR = 2.0**10

_LAYER, _BLOCK = "vision.encoder.layers.{0}.", "language.blocks.{0}."
_DIVIDED: tuple[tuple[re.Pattern[str], tuple[str, ...], float], ...] = tuple(
    (re.compile(site), parameters, power)
    for site, parameters, power in (
        (r"vision\.(\d+)\.qkv", (f"{_LAYER}layer_norm1.weight", f"{_LAYER}layer_norm1.bias"), 1.0),
        (r"vision\.(\d+)\.mlp\.fc1", (f"{_LAYER}layer_norm2.weight", f"{_LAYER}layer_norm2.bias"), 1.0),
        (
            r"vision\.(\d+)\.out",
            (f"{_LAYER}self_attn.v_proj.weight.transposed", f"{_LAYER}self_attn.v_proj.bias"),
            1.0,
        ),
        (r"language\.(\d+)\.att\.o", (f"{_BLOCK}att.ln_x.weight", f"{_BLOCK}att.ln_x.bias"), 1.0),
        (r"language\.(\d+)\.ffn\.v", (f"{_BLOCK}ffn.key.weight.transposed",), 0.5),
        (r"language\.head", ("language.ln_out.weight", "language.ln_out.bias"), 1.0),
    )
)
"""Site -> parameters whose last axis is divided, by the factors to a power."""

_ONLY_WITH = {"att.o": "language.blocks.0.att.time_faaaa"}
"""End of a site's name -> a parameter that the model must have: the output of RWKV-7 is summed before its gate."""


def divided_parameters(site: str, graph: ir.Graph) -> tuple[tuple[str, ...], float] | None:
    """What is divided for a site, and by which power of its factors; None for a site that cannot be smoothed."""
    if any(site.endswith(end) and needed not in graph.initializers for end, needed in _ONLY_WITH.items()):
        return None
    for pattern, templates, power in _DIVIDED:
        if match := pattern.fullmatch(site):
            names = tuple(template.format(*match.groups()) for template in templates)
            return (names, power) if all(name in graph.initializers for name in names) else None
    return None


def smoothing_factors(channel_maxima: np.ndarray, weight_maxima: np.ndarray, alpha: float) -> np.ndarray:
    """The factors of a site, float64, shape (K); 1 for a channel that is dead, on either side.

    channel_maxima: of the activation, shape (K).  weight_maxima: of the weights that read each channel, shape (K).
    alpha: how much of the difference between channels goes to the weights, 0 to 1.
    """
    is_dead = (channel_maxima == 0) | (weight_maxima == 0)
    safe = [np.where(is_dead, 1, maxima).astype(np.float64) for maxima in (channel_maxima, weight_maxima)]
    factors = safe[0] ** alpha / safe[1] ** (1 - alpha)
    # Only the differences between channels matter: the scales of both sides follow the rest.
    factors /= np.exp(np.log(factors).mean())
    return np.where(is_dead, 1, np.clip(factors, 1 / MAX_FACTOR, MAX_FACTOR))


def weight_maxima(site: Site) -> np.ndarray:
    """Of each input channel, over all layers of the site; float32, shape (K). Reads the weights."""
    maxima = []
    for node in site.linears:
        weight = node.inputs[1]
        assert weight is not None and weight.const_value is not None
        array, axis = weight.const_value.numpy(), 1 if node.op_type == "MatMul" else 0
        maxima.append(np.maximum(array.max(axis=axis), -array.min(axis=axis)))  # no copy of the whole weight
        del array
        if isinstance(weight.const_value, ir.ExternalTensor):
            weight.const_value.release()
    return np.max(maxima, axis=0)


def fold_smoothing(model: ir.Model, factors: Mapping[str, np.ndarray]) -> None:
    """Smooth sites of a float32 graph, in place; weights are read when they are written.

    factors: site -> its factors, shape (K); of sites of other graphs too.
    Raises ValueError for a site of this graph that cannot be smoothed.
    """
    sites = find_sites(model.graph)
    for name in factors.keys() & sites.keys():
        found = divided_parameters(name, model.graph)
        if found is None:
            raise ValueError(f"{name}: nothing that computes it can be divided")
        parameters, power = found
        values = np.asarray(factors[name], np.float64)
        for parameter in parameters:
            _scale(model.graph.initializers[parameter], (values**-power).astype(np.float32))
        for node in sites[name].linears:
            weight = node.inputs[1]
            assert weight is not None
            by_input = values.astype(np.float32)
            _scale(weight, by_input[:, None] if node.op_type == "MatMul" else by_input[None])


def _scale(value: ir.Value, factors: np.ndarray) -> None:
    """Let an initializer be its product with the factors, which are broadcast to its shape."""
    tensor, name = value.const_value, value.name
    assert tensor is not None and name is not None
    value.const_value = ir.LazyTensor(
        partial(_scaled, tensor, factors, name), dtype=tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
    )


def _scaled(tensor: ir.TensorProtocol, factors: np.ndarray, name: str) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy() * factors, name=name)
