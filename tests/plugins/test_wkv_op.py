from __future__ import annotations

import inspect
import re

import onnx.defs
import pytest
import torch

from aurora_export.plugins import NODE_ATTRIBUTES, OP_VERSION, WKV_OPS
from aurora_export.plugins.wkv import reference
from aurora_export.plugins.wkv.op import INPUTS, OUTPUTS, TORCH_OPS, schema, translations

VERSIONS = [6, 7]


def inputs(
    version: int, n_sequences: int = 2, n_tokens: int = 5, n_heads: int = 3, size: int = 4
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(n_tokens)
    shapes = {
        "(B, T, H, N)": (n_sequences, n_tokens, n_heads, size),
        "(H, N)": (n_heads, size),
        "(B, H, N, N)": (n_sequences, n_heads, size, size),
    }
    named = {name: torch.randn(shapes[shape], generator=generator) for name, shape in INPUTS[WKV_OPS[version]].items()}
    named["log_decay"] = -torch.exp(named["log_decay"])
    return list(named.values())


def recurrent(version: int):
    return getattr(reference, f"wkv{version}_recurrent")


@pytest.mark.parametrize("version", VERSIONS)
def test_op_computes_what_the_reference_does(version):
    arguments = inputs(version)
    for actual, expected in zip(TORCH_OPS[version](*arguments), recurrent(version)(*arguments), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("n_tokens", [1, 5])
def test_opcheck(version, n_tokens):
    # No autograd: training uses the chunked form of the reference.
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(TORCH_OPS[version], inputs(version, n_tokens=n_tokens), test_utils=tests)


@pytest.mark.parametrize("version", VERSIONS)
def test_argument_order_is_that_of_the_reference_everywhere(version):
    expected = list(inspect.signature(recurrent(version)).parameters)
    op_type = WKV_OPS[version]
    assert list(INPUTS[op_type]) == expected
    assert [argument.name for argument in TORCH_OPS[version]._opoverload._schema.arguments] == expected
    assert [parameter.name for parameter in schema(op_type).inputs] == expected


def test_schemas_are_known_to_onnx_only_during_an_export():
    def known():
        return [onnx.defs.has(op_type, OP_VERSION, "aurora") for op_type in WKV_OPS.values()]

    for _ in range(2):
        with translations() as table:
            assert known() == [True, True]
            assert set(table) == {torch.ops.aurora.wkv6.default, torch.ops.aurora.wkv7.default}
        assert known() == [False, False]


@pytest.mark.parametrize("op_type", WKV_OPS.values())
def test_readme_tables_equal_the_schema(root, op_type):
    text = (root / "plugins/wkv/README.md").read_text(encoding="utf-8")
    section = text.partition(f"## `aurora::{op_type}`")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (input|output|attribute) \d* ?\| `(\w+)` \| (.*?) \|", section, re.M)
    described = schema(op_type)
    assert rows == [
        *(("input", item.name, INPUTS[op_type][item.name]) for item in described.inputs),
        *(("output", item.name, OUTPUTS[item.name]) for item in described.outputs),
        *(("attribute", name, f'string, "{default}"') for name, default in NODE_ATTRIBUTES.items()),
    ]
    assert {item.type_str for item in (*described.inputs, *described.outputs)} == {"tensor(float)"}
