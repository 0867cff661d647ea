"""A graph of torch modules to an ONNX file: traced by torch.export, written with external data, cleaned.

Opset 20 is the newest that TensorRT 10.3 (JetPack 6) reads, and has everything the graphs use, Gelu included.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import onnx_ir as ir
import torch

from aurora_export import __version__
from aurora_export.export.feedback_rounding import FeedbackRounding
from aurora_export.export.fuse_attention import fuse_attention
from aurora_export.export.fuse_blocks import fuse_blocks
from aurora_export.export.fuse_merging import fuse_merging
from aurora_export.export.gather_rows import gather_rows
from aurora_export.export.graphs import Graph
from aurora_export.export.half_precision import overflow_fold, to_half
from aurora_export.export.low_rank import quantize_low_rank
from aurora_export.export.quantizer import Quantizer
from aurora_export.export.rounding import round_weight
from aurora_export.export.weight_only import quantize_weights
from aurora_export.manifest import Precision
from aurora_export.plugins import DOMAIN
from aurora_export.plugins.wkv.onnx_function import wkv_function
from aurora_export.plugins.wkv.op import translations

OPSET = 20
IR_VERSION = 10

NOT_IN_THE_GRAPH = {"language.emb.weight"}
"""Parameters that the host uses: the embedding table."""

MIN_EXTERNAL_BYTES = 1024
"""Smaller tensors stay in the .onnx file, and so do indices of any size: shape inference reads them."""

DATA_ALIGNMENT_BYTES = 4096
"""Large tensors begin at a page, so that a runtime can map them."""


def export_onnx(
    graph: Graph,
    path: Path,
    progress: Callable[[float], None] | None = None,
    *,
    precision: Precision = "fp32",
    quantizer: Quantizer | None = None,
    feedback: FeedbackRounding | None = None,
) -> None:
    """Trace a graph and write `path` and, beside it, `<path>.data` with the weights.

    quantizer: for a precision that ends in `-qdq`.  feedback: for int8 and int4, in the place of `round_weight`.
    progress: called with the share of the weights that is written.
    The same weights give the same bytes. Raises OSError as the file system does.
    """
    model = trace(graph)
    if quantizer is not None:
        quantizer.apply(model, graph)
    else:
        _convert(model, graph, precision, feedback)
    n_written = 0

    def count(_tensor: ir.TensorProtocol, info: ir.external_data.CallbackInfo) -> None:
        nonlocal n_written
        n_written += 1
        if progress is not None:
            progress(n_written / info.total)

    ir.save(
        model,
        path,
        external_data=f"{path.name}.data",
        size_threshold_bytes=_largest_in_the_graph_file(model),
        alignment=DATA_ALIGNMENT_BYTES,
        callback=count,
    )


def _largest_in_the_graph_file(model: ir.Model) -> int:
    """The size up to which tensors are not external, in bytes: one bound for all is what `ir.save` takes."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    indices = (tensor.nbytes for tensor in tensors if tensor is not None and tensor.dtype == ir.DataType.INT64)
    return max((MIN_EXTERNAL_BYTES, *indices))


def _convert(model: ir.Model, graph: Graph, precision: Precision, feedback: FeedbackRounding | None) -> None:
    """Give a float32 model another precision, in place; the weights are converted when they are written.

    Raises IncompatibleError if what the feedback is by was measured on another model.
    """
    if feedback is not None:
        feedback.require_graph(model, graph.name)
    if precision == "fp16":
        to_half(model, fold=residual_divisor(precision, graph.layer_outputs) if graph.name == "language" else 1)
    elif precision in ("int8", "int4"):
        # The vision tower has 8 bits in both: it is a fifth of the weights, and read once for a frame, not for a token.
        bits = 4 if precision == "int4" and graph.name == "language" else 8
        names = quantize_weights(model, bits=bits, rounding=round_weight if feedback is None else feedback)
        if feedback is not None:
            feedback.note(names)
        if graph.name == "vision":
            fuse_attention(model, len(graph.layer_outputs))
            gather_rows(model)
            fuse_merging(model, graph.config.merges_per_layer, graph.config.merge)
        elif "Wkv6" in graph.wkv_nodes:
            quantize_low_rank(model)
            fuse_blocks(model, len(graph.layer_outputs))


def residual_divisor(precision: Precision, layer_outputs: Sequence[str]) -> int:
    """By how much the residual stream of the language graph, after each block, is smaller than the model's."""
    return overflow_fold(len(layer_outputs)) if precision == "fp16" else 1


def trace(graph: Graph) -> ir.Model:
    """The graph as an ONNX model in memory, with our functions and names in place; its weights are those of torch."""
    with _quiet_exporter(), translations() as table:
        program = torch.export.export(
            graph.module,
            graph.example_inputs(),
            dynamic_shapes=_dynamic_shapes(graph),
            # Otherwise torch insists on a separate trace for T - 1 = 1, where strides are ambiguous.
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        onnx_program = torch.onnx.export(
            program,
            input_names=[spec.name for spec in graph.spec.inputs],
            output_names=[*(spec.name for spec in graph.spec.outputs), *graph.layer_outputs],
            dynamic_shapes=_dynamic_shapes(graph),
            custom_translation_table=table,
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
        if onnx_program is None:
            raise RuntimeError(f"torch.onnx.export returned no program for {graph.name}")
        _give_weights(onnx_program.model, graph)
        _transpose_weights(onnx_program.model)
        onnx_program.optimize()
    model = onnx_program.model
    hide_layer_outputs(model, graph)
    for op_type in graph.wkv_nodes:
        function = ir.serde.deserialize_function(wkv_function(op_type, opset=OPSET))
        model.functions[function.identifier()] = function
    _clean(model, graph.name)
    return model


def _dynamic_shapes(graph: Graph) -> tuple[dict[int, torch.export.Dim], ...]:
    """The contract's letters, as torch.export wants them: per input, axis -> dimension."""
    letters = {entry for spec in graph.spec.inputs for entry in spec.shape if isinstance(entry, str)}
    dims = {letter: torch.export.Dim(letter, min=1) for letter in sorted(letters)}
    return tuple(
        {axis: dims[entry] for axis, entry in enumerate(spec.shape) if isinstance(entry, str)}
        for spec in graph.spec.inputs
    )


def _give_weights(model: ir.Model, graph: Graph) -> None:
    """Put what reads a weight in the place of each parameter, which was traced without numbers."""
    for name, parameter in graph.module.named_parameters():
        value = model.graph.initializers.get(name)
        if value is not None:
            value.const_value = ir.LazyTensor(
                partial(_read, graph.read_weight, name),
                dtype=ir.DataType.FLOAT,
                shape=ir.Shape(parameter.shape),
                name=name,
            )
        elif name not in NOT_IN_THE_GRAPH:
            raise RuntimeError(f"{graph.name}: the exporter lost the weight {name}")


def _read(read_weight: Callable[[str], torch.Tensor], name: str) -> ir.TensorProtocol:
    return ir.tensor(read_weight(name).numpy(), name=name)


def _transpose_weights(model: ir.Model) -> None:
    """Store the weights of linear layers as MatMul takes them, in place of a Transpose that each runtime does at load.

    Nothing is held in memory twice: a weight is transposed when it is written. The exporter's optimiser would fold
    small ones, under names that say nothing, and leave large ones as they are.
    """
    for node in list(model.graph):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or weight.name not in model.graph.initializers or weight.const_value is None:
            continue
        perm = node.attributes["perm"].as_ints()
        name = f"{weight.name}.transposed"
        if name not in model.graph.initializers:
            tensor = ir.LazyTensor(
                partial(_transposed, weight.const_value, perm, name),
                dtype=weight.const_value.dtype,
                shape=ir.Shape([weight.const_value.shape.numpy()[axis] for axis in perm]),
                name=name,
            )
            model.graph.register_initializer(
                ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
            )
        node.outputs[0].replace_all_uses_with(model.graph.initializers[name])
        model.graph.remove(node, safe=True)


def _transposed(tensor: ir.TensorProtocol, perm: Sequence[int], name: str) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().transpose(perm), name=name)


def hide_layer_outputs(model: ir.Model, graph: Graph) -> None:
    """Make the residual streams, outputs while tracing so that they have a name and survive, inner values again."""
    hidden = set(graph.layer_outputs)
    values = {value.name: value for value in model.graph.outputs if value.name in hidden}
    model.graph.outputs[:] = [value for value in model.graph.outputs if value.name not in hidden]
    for name in graph.layer_outputs:
        if name not in values or not values[name].uses():
            raise RuntimeError(f"{graph.name}: the exporter lost the value {name}")


def _clean(model: ir.Model, name: str) -> None:
    """Remove what the exporter notes about this machine (source lines, stack traces), and name the producer."""
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "aurora-export", __version__
    model.doc_string = None
    model.metadata_props.clear()
    model.graph.name, model.graph.doc_string = name, None
    model.opset_imports.update({"": OPSET, DOMAIN: 1} if model.functions else {"": OPSET})
    containers: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for container in containers:
        container.metadata_props.clear()
        for value in (*container.inputs, *getattr(container, "initializers", {}).values()):
            value.metadata_props.clear()
            value.doc_string = None
        for node in ir.traversal.RecursiveGraphIterator(container):
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
                value.doc_string = None


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what torch says about its own insides, and nothing else."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # "torchvision is not installed"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=r"# The axis name: .* will not be used", category=UserWarning)
        try:
            yield
        finally:
            logger.setLevel(level)
