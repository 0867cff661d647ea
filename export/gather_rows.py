"""Rows of tokens taken as rows: GatherND in the place of an index that is repeated for every number of a row.

`torch.gather` wants an index as large as its result, and so does GatherElements: merging expands one index a token to a
thousand. GatherND copies whole rows.
"""

from __future__ import annotations

import onnx_ir as ir


def gather_rows(model: ir.Model) -> int:
    """Replace each GatherElements of rows (F, T, D) by an expanded index (F, n, 1), in place; returns how many."""
    graph = model.graph
    found = [node for node in graph if node.op_type == "GatherElements" and _index(node) is not None]
    for node in found:
        index = _index(node)
        rows = ir.node("GatherND", [node.inputs[0], index], {"batch_dims": 1}, name=node.name)
        ir.convenience.replace_nodes_and_values(graph, node, [node], [rows], node.outputs, rows.outputs)
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
    return len(found)


def _index(node: ir.Node) -> ir.Value | None:
    """The index (F, n, 1) that a GatherElements along axis 1 reads expanded; None if it is anything else."""
    data, expanded = node.inputs
    expand = expanded.producer() if expanded is not None else None
    if node.attributes.get_int("axis", 0) != 1 or expand is None or expand.op_type != "Expand":
        return None
    index = expand.inputs[0]
    sizes, wanted, given = _sizes(data), _sizes(expanded), _sizes(index)
    is_row = len(sizes) == len(given) == 3 and given[2] == 1 and wanted == [*given[:2], sizes[2]]
    return index if is_row else None


def _sizes(value: ir.Value | None) -> list[int | ir.SymbolicDim]:
    return list(value.shape) if value is not None and value.shape is not None else []
