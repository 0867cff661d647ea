"""The places of the graphs that may be quantized, under names that say nothing of the exporter.

A site is one activation that linear layers read, with these layers: `vision.3.qkv` is what the three projections of a
block read. Sites belong to groups, which are kept or quantized as one: `vision.3.mlp` is both layers of an MLP. What
is no site stays as it is, whatever the recipe: merging, norms, softmax, WKV, the path of the decay, the state, and
the low-rank pairs of RWKV, whose weights have other names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

LINEAR_OPERATORS = ("MatMul", "Gemm", "Conv")

_ATTENTION = {"receptance": "r", "key": "k", "value": "v", "gate": "g", "output": "o"}
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"vision\.embeddings\.patch_embedding", "vision.patch"),
        (r"vision\.encoder\.layers\.(\d+)\.self_attn\.[qkv]_proj", "vision.{0}.qkv"),
        (r"vision\.encoder\.layers\.(\d+)\.self_attn\.out_proj", "vision.{0}.out"),
        (r"vision\.encoder\.layers\.(\d+)\.mlp\.(fc[12])", "vision.{0}.mlp.{1}"),
        (r"projector\.model\.0", "projector.fc1"),
        (r"projector\.model\.2", "projector.fc2"),
        *(
            (rf"language\.blocks\.(\d+)\.att\.{long}", f"language.{{0}}.att.{short}")
            for long, short in _ATTENTION.items()
        ),
        *(
            (rf"language\.blocks\.(\d+)\.ffn\.{long}", f"language.{{0}}.ffn.{_ATTENTION[long]}")
            for long in ("key", "receptance", "value")
        ),
        (r"language\.head", "language.head"),
    )
)
"""Name of a layer's parameters -> name of the site."""

_WEIGHT = re.compile(r"(.+)\.weight(\.transposed)?(\.half)?")
_PART = re.compile(r"\.fc\d$")


@dataclass(frozen=True)
class Site:
    """One activation and the linear layers that read it."""

    name: str
    activation: ir.Value
    linears: tuple[ir.Node, ...]

    @property
    def group(self) -> str:
        """What is kept or quantized together: the name without its part."""
        return group_of(self.name)

    @property
    def n_channels(self) -> int:
        """The last axis of the activation; for the patches of a frame, the channels of a picture."""
        weight = self.linears[0].inputs[1]
        assert weight is not None and weight.shape is not None
        sizes = weight.shape.numpy()
        return int(sizes[0] if self.linears[0].op_type == "MatMul" else sizes[1])


def group_of(site: str) -> str:
    """`vision.3.mlp` of `vision.3.mlp.fc1`."""
    return _PART.sub("", site)


def site_of_weight(name: str) -> str | None:
    """The site that a weight belongs to by its name in a graph, None for one that is never quantized."""
    match = _WEIGHT.fullmatch(name)
    if match is None:
        return None
    for pattern, site in _PATTERNS:
        if parts := pattern.fullmatch(match[1]):
            return site.format(*parts.groups())
    return None


def find_sites(graph: ir.Graph) -> dict[str, Site]:
    """The sites of a graph by name, in the order of the graph.

    Raises ValueError if two layers of a site read different activations: then the exporter has changed.
    """
    found: dict[str, list[ir.Node]] = {}
    for node in graph:
        if node.domain == "" and node.op_type in LINEAR_OPERATORS and node.inputs[1] is not None:
            weight = node.inputs[1]
            site = site_of_weight(weight.name or "") if weight.is_initializer() else None
            if site is not None:
                found.setdefault(site, []).append(node)
    sites = {}
    for name, nodes in found.items():
        activations = {node.inputs[0] for node in nodes}
        if len(activations) != 1 or None in activations:
            raise ValueError(f"{name}: its layers read {len(activations)} activations, expected one")
        (activation,) = activations
        assert activation is not None
        sites[name] = Site(name, activation, tuple(nodes))
    return sites


def groups_of(sites: Iterable[str]) -> tuple[str, ...]:
    """The groups of sites, each once, in their order."""
    return tuple(dict.fromkeys(group_of(site) for site in sites))
