"""A bundle's ONNX graph as engine builders take it: our operators in standard ones, or WKV left to a plugin."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import onnx.inliner
from onnx import ModelProto
from onnx.external_data_helper import ExternalDataInfo

from aurora_export.errors import IncompatibleError, IntegrityError
from aurora_export.export.dequantized_weights import dequantize_in_graph
from aurora_export.plugins import DOMAIN, WKV_OPS
from aurora_export.plugins.wkv.onnx_chunked import chunked_wkv6_function
from aurora_export.plugins.wkv.onnx_function import wkv7_function_without_matmul

STANDARD_DOMAINS = ("", "ai.onnx")


def write_plain_graph(source: Path, folder: Path) -> Path:
    """Write `folder`/NAME.onnx: no function, no operator of ours, weights where they are.

    Weights of 8 bits are written anew, as DequantizeLinear takes them: opset 21 then.
    `Wkv6` becomes its chunked form, which has no loop; `Wkv7`, which has no such form, a Scan.
    Other weights are not copied: links in `folder` lead to them, so `source` has to stay while the file is in use.
    Raises IncompatibleError if an operator is left that is not of the ONNX standard, IntegrityError if weights are
    not beside the graph.
    """
    return _write_graph(source, folder, plugins=())


def write_plugin_graph(source: Path, folder: Path) -> Path:
    """As `write_plain_graph`, but WKV stays a node, without its function.

    TensorRT before 10.7 prefers a function to a plugin of the same name.
    """
    return _write_graph(source, folder, plugins=tuple(WKV_OPS.values()))


def _write_graph(source: Path, folder: Path, *, plugins: tuple[str, ...]) -> Path:
    """plugins: operators of ours that stay as they are."""
    model = onnx.load(source, load_external_data=False)
    opset = next(entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS)
    bodies = {"Wkv6": chunked_wkv6_function, "Wkv7": wkv7_function_without_matmul}
    functions = [function for function in model.functions if (function.domain, function.name) not in _ours(plugins)]
    del model.functions[:]
    model.functions.extend(functions)
    for function in model.functions:
        if function.domain == DOMAIN and function.name in bodies:
            function.CopyFrom(bodies[function.name](opset=opset))
    # Bodies are written out here, with a name for each node: the parser gives all calls of a function the same names.
    model = onnx.inliner.inline_local_functions(model)
    weight_files = _weight_files(model, source)
    dequantize_in_graph(model, source, folder / f"{source.name}.int8")
    left = {(node.domain, node.op_type) for node in model.graph.node if node.domain not in STANDARD_DOMAINS}
    foreign = sorted(f"{domain}::{name}" for domain, name in left - _ours(plugins))
    if foreign:
        raise IncompatibleError(
            f"{source.name}: {', '.join(foreign)}: not an operator of the ONNX standard",
            hint="build the bundle again with this version of aurora-export",
        )
    path = folder / source.name
    onnx.save(model, path)
    for name in weight_files:
        os.symlink((source.parent / name).resolve(), folder / name)
    return path


def _ours(names: tuple[str, ...]) -> set[tuple[str, str]]:
    return {(DOMAIN, name) for name in names}


def _weight_files(model: ModelProto, source: Path) -> set[str]:
    """Files beside the graph that hold weights, by name. Raises IntegrityError for one that is elsewhere."""
    external = [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    names = {ExternalDataInfo(tensor).location for tensor in external}
    for name in names:
        if Path(name).name != name or (source.parent / name).is_symlink():
            raise IntegrityError(
                f"{source}: weights in {name!r}, not in a file beside it", hint="do not use this bundle"
            )
    return names
