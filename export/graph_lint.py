"""What an exported graph must not have: shapes, operators and names that some runtime of ours cannot take.

The rules are those of TensorRT 10.3 and newer (specification of the parser's operators), of the contract, and of a
file that strangers read: no path of the machine that made it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from aurora_export.config import MAX_PATCHES
from aurora_export.contract import TensorSpec
from aurora_export.errors import IncompatibleError
from aurora_export.export.graphs import Graph
from aurora_export.plugins import DOMAIN, NODE_ATTRIBUTES, OP_VERSION
from aurora_export.plugins.attention import OP_TYPE as ATTENTION_OP
from aurora_export.plugins.linear import OP_TYPE as LINEAR_OP
from aurora_export.plugins.linear.onnx_function import BODY_DOMAIN as LINEAR_BODY_DOMAIN
from aurora_export.plugins.merge import OP_TYPE as MERGE_OP
from aurora_export.plugins.mix import PIECES

MAX_OPSET = 20
"""Of the standard operators: the newest that TensorRT 10.3 reads."""

MAX_IR_VERSION = 10

REFUSED_OPERATORS = {
    **dict.fromkeys(
        ("NonZero", "Unique", "Compress", "NonMaxSuppression", "StringSplit"),
        "the shape of its result depends on the data",
    ),
    **dict.fromkeys(("Loop", "If"), "control flow is not allowed outside of our own functions"),
    "Scan": "control flow is not allowed outside of our own functions",
    **dict.fromkeys(("Sort", "ArgSort", "Argsort"), "TensorRT has no sort; TopK on distinct keys does the same"),
    **dict.fromkeys(
        ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"),
        "its result is not reproducible",
    ),
    **dict.fromkeys(("SequenceConstruct", "SequenceEmpty", "SplitToSequence", "Optional"), "it is not a tensor"),
}
"""Operator -> why it is refused."""

CPU_OPERATORS = (LINEAR_OP, ATTENTION_OP, MERGE_OP, *PIECES)
"""Of our domain, and no plugins of TensorRT: engines are built of their functions."""

SCATTERS = ("ScatterElements", "ScatterND", "Scatter")

REFUSED_TYPES = {
    TensorProto.DOUBLE: "float64",
    TensorProto.COMPLEX64: "complex64",
    TensorProto.COMPLEX128: "complex128",
    TensorProto.STRING: "string",
}

EXPRESSION = re.compile(r"[A-Za-z_]\w*")
"""The symbols in a symbolic size such as `B*T` or `T - 1`."""


class GraphError(IncompatibleError):
    """An exported graph breaks a rule that every runtime relies on."""


def lint(path: Path, graph: Graph, *, max_opset: int = MAX_OPSET) -> None:
    """Check an exported file against every rule; `graph` says what it should be.

    max_opset: more than MAX_OPSET for what the older runtimes cannot have: weights of 4 bits.
    Weights are not read. Raises GraphError that names the file and the node or value for the first rule broken.
    """
    model = onnx.load(path, load_external_data=False)
    for problem in problems(model, graph, data_folder=path.parent, max_opset=max_opset):
        raise GraphError(
            f"{path.name}: {problem}",
            hint="this is a fault of the export, or of a torch version it was not tested with: "
            "install the versions in constraints.txt",
        )


def problems(model: ModelProto, graph: Graph, *, data_folder: Path, max_opset: int = MAX_OPSET) -> Iterator[str]:
    """Every rule that a model breaks, in words that name the place."""
    yield from _versions(model, max_opset)
    yield from _contract(model, graph)
    yield from _traces_of_the_machine(model)
    yield from _nodes(model)
    yield from _wkv_nodes(model, graph)
    yield from _external_data(model, f"{graph.name}.onnx.data", data_folder)
    yield from _types_and_shapes(model, graph)


def _versions(model: ModelProto, max_opset: int) -> Iterator[str]:
    if model.ir_version > MAX_IR_VERSION:
        yield f"IR version {model.ir_version} is newer than {MAX_IR_VERSION}"
    for holder, imports in [("model", model.opset_import), *((f.name, f.opset_import) for f in model.functions)]:
        for opset in imports:
            newest = {"": max_opset, DOMAIN: OP_VERSION, LINEAR_BODY_DOMAIN: 1}.get(opset.domain)
            if newest is None:
                yield f"{holder}: operators of domain {opset.domain!r} are not standard"
            elif opset.version > newest:
                yield f"{holder}: opset {opset.version} of domain {opset.domain!r} is newer than {newest}"


def _contract(model: ModelProto, graph: Graph) -> Iterator[str]:
    for kind, found, expected in (
        ("inputs", model.graph.input, graph.spec.inputs),
        ("outputs", model.graph.output, graph.spec.outputs),
    ):
        found_text, expected_text = [_describe(value) for value in found], [_describe_spec(spec) for spec in expected]
        if found_text != expected_text:
            yield f"{kind} are {', '.join(found_text)}; the contract says {', '.join(expected_text)}"
    produced = {output for node in model.graph.node for output in node.output}
    for name in graph.layer_outputs:
        if name not in produced:
            yield f"no value is called {name}"


def _describe(value: ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type) if tensor.elem_type else "untyped"
    return f"{value.name} {dtype} [{', '.join(str(size) for size in _sizes(value))}]"


def _describe_spec(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} [{', '.join(str(size) for size in spec.shape)}]"


def _sizes(value: ValueInfoProto) -> list[int | str]:
    """Sizes and symbols; "?" for one that nothing is known of."""
    return [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim
    ]


def _traces_of_the_machine(model: ModelProto) -> Iterator[str]:
    """Metadata and comments: the exporter puts source lines and stack traces there."""
    yield from (f"model: has metadata {entry.key!r}" for entry in model.metadata_props)
    if model.doc_string:
        yield "model: has a doc_string"
    graphs = [model.graph, *model.functions]
    for container in graphs:
        values: list[ValueInfoProto | TensorProto] = list(container.value_info)
        if isinstance(container, GraphProto):
            values += [*container.input, *container.output, *container.initializer]
        for entry in (container, *_all_nodes(container), *values):
            if entry.doc_string or entry.metadata_props:
                yield f"{entry.name or type(entry).__name__}: has metadata or a doc_string"


def _all_nodes(container: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    for node in container.node:
        yield node
        for attribute in node.attribute:
            for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _all_nodes(body)


def _nodes(model: ModelProto) -> Iterator[str]:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    constants |= {
        node.output[0]: attribute.t
        for node in model.graph.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.name == "value"
    }
    for node in _all_nodes(model.graph):
        where = f"node {node.name} ({node.op_type})"
        if node.domain == "" and node.op_type in REFUSED_OPERATORS:
            yield f"{where}: {REFUSED_OPERATORS[node.op_type]}"
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type in SCATTERS and attributes.get("reduction", b"none") != b"none":
            yield f"{where}: reduction {attributes['reduction'].decode()!r} is a plugin with atomics in TensorRT"
        if node.op_type == "TopK":
            yield from (f"{where}: {problem}" for problem in _topk(constants.get(node.input[1]), attributes))


def _topk(k: TensorProto | None, attributes: dict[str, object]) -> Iterator[str]:
    if attributes.get("sorted", 1) != 1:
        yield "sorted is 0; TensorRT takes only 1"
    if k is None:
        yield "k is not a constant"
    elif not 1 <= (value := int(numpy_helper.to_array(k).item())) < MAX_PATCHES:
        yield f"k is {value}; TensorRT takes 1 to {MAX_PATCHES - 1}"


def _wkv_nodes(model: ModelProto, graph: Graph) -> Iterator[str]:
    in_domain = [node for node in model.graph.node if node.domain == DOMAIN]
    # The others have what TensorRT needs to find a plugin; these are for CPUs, and come with 8-bit weights only.
    ours = [node for node in in_domain if node.op_type not in CPU_OPERATORS]
    counts: dict[str, int] = {}
    for node in ours:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
        attributes = {attribute.name: attribute.s.decode() for attribute in node.attribute}
        if attributes != NODE_ATTRIBUTES:
            yield f"node {node.name} ({node.op_type}): attributes are {attributes}, expected {NODE_ATTRIBUTES}"
    if counts != graph.wkv_nodes:
        yield f"nodes of domain {DOMAIN!r} are {counts}, expected {graph.wkv_nodes}"
    functions = {(function.domain, function.name) for function in model.functions}
    expected = {(DOMAIN, op_type) for op_type in graph.wkv_nodes}
    expected |= {(DOMAIN, node.op_type) for node in in_domain if node.op_type in CPU_OPERATORS}
    if functions != expected:
        yield f"functions are {sorted(functions)}, expected {sorted(expected)}"


def _external_data(model: ModelProto, expected: str, folder: Path) -> Iterator[str]:
    nodes = [node for container in (model.graph, *model.functions) for node in _all_nodes(container)]
    in_nodes = [attribute.t for node in nodes for attribute in node.attribute if attribute.HasField("t")]
    tensors = [*model.graph.initializer, *in_nodes]
    external = [tensor for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL]
    size = (folder / expected).stat().st_size if external and (folder / expected).is_file() else 0
    for tensor in external:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries.get("location") != expected:
            yield f"tensor {tensor.name}: its data is in {entries.get('location')!r}, expected {expected!r}"
        elif int(entries.get("offset", 0)) + int(entries.get("length", 0)) > size:
            yield f"tensor {tensor.name}: its data ends beyond the {size} bytes of {expected}"


def _types_and_shapes(model: ModelProto, graph: Graph) -> Iterator[str]:
    """Each value has an allowed type and a shape that depends on nothing but the free sizes of the contract."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        yield f"types and shapes contradict each other: {str(error).splitlines()[0]}"
        return
    letters = {entry for spec in graph.spec.inputs for entry in spec.shape if isinstance(entry, str)}
    known = {value.name: value for value in (*inferred.graph.value_info, *inferred.graph.output)}
    for tensor in model.graph.initializer:
        if tensor.data_type in REFUSED_TYPES:
            yield f"tensor {tensor.name}: is {REFUSED_TYPES[tensor.data_type]}"
    for node in inferred.graph.node:
        for name in filter(None, node.output):
            where = f"node {node.name} ({node.op_type}), value {name}"
            value = known.get(name)
            if value is None or not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
                yield f"{where}: nothing is known of its shape"
            elif value.type.tensor_type.elem_type in REFUSED_TYPES:
                yield f"{where}: is {REFUSED_TYPES[value.type.tensor_type.elem_type]}"
            elif unknown := list(_unknown_sizes(_sizes(value), letters)):
                yield f"{where}: size {unknown[0]} depends on more than {', '.join(sorted(letters))}"


def _unknown_sizes(sizes: Iterable[int | str], letters: set[str]) -> Iterator[str]:
    for size in sizes:
        if isinstance(size, str) and (size == "?" or not set(EXPRESSION.findall(size)) <= letters):
            yield size
