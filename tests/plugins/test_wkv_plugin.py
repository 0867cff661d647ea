"""The TensorRT plugins as a builder and a context would ask them; against our declarations, with emulated kernels."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from aurora_export.plugins import DOMAIN, OP_VERSION, WKV_OPS
from aurora_export.plugins.wkv.op import INPUTS, OUTPUTS
from wkv_on_cuda import HEAD_SIZE, expected, random_inputs, shape_of

SOURCES = (
    "wkv/wkv6_kernel.cu",
    "wkv/wkv6_tensor_kernel.cu",
    "wkv/wkv7_kernel.cu",
    "wkv/wkv_launch.cpp",
    "wkv/wkv_plugin.cpp",
    "tensorrt_library.cpp",
)
FLOAT, HALF, INT8, INT32, BF16 = 0, 1, 2, 3, 7  # nvinfer1::DataType
TYPES = {torch.float32: FLOAT, torch.float16: HALF, torch.bfloat16: BF16}
LINEAR, CHW2 = 0, 1  # nvinfer1::TensorFormat
FIELD_FLOAT32, FIELD_INT32 = 1, 5  # nvinfer1::PluginFieldType
FREE = -1


class Described(ctypes.Structure):
    """`Tensor` of tensorrt_harness.cpp."""

    _fields_ = (
        ("type", ctypes.c_int32),
        ("format", ctypes.c_int32),
        ("n_dims", ctypes.c_int32),
        ("dims", ctypes.c_int64 * 8),
    )


def described(shape: Sequence[int] = (), element: int = FLOAT, layout: int = LINEAR) -> Described:
    return Described(element, layout, len(shape), (ctypes.c_int64 * 8)(*shape))


def array_of(tensors: Sequence[Described]) -> ctypes.Array:
    return (Described * len(tensors))(*tensors)


@pytest.fixture(scope="module")
def library(root, tmp_path_factory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("plugin") / "libplugin.so"
    headers = [root / "tests/plugins/cuda_emulation", root / "tests/plugins/tensorrt_declarations/include"]
    flags = ["-std=c++17", "-Og", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fPIC", "-shared"]
    checks = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
    files = [*(root / "plugins" / name for name in SOURCES), root / "tests/plugins/tensorrt_harness.cpp"]
    includes = [f"-I{folder}" for folder in headers]
    subprocess.run(["g++", *flags, *checks, *includes, "-xc++", *map(str, files), "-o", str(path)], check=True)
    return ctypes.CDLL(str(path))


@pytest.fixture(params=WKV_OPS.values())
def op_type(request) -> str:
    return request.param


def shapes(op_type: str, sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [shape_of(name, sizes) for name in INPUTS[op_type]]


def test_creators_bear_the_names_of_the_nodes(library):
    library.harness_creator.restype = ctypes.c_char_p
    found = [tuple(library.harness_creator(i, part).decode() for part in range(4)) for i in range(len(WKV_OPS))]
    assert found == [(name, str(OP_VERSION), DOMAIN, "aliased_state") for name in WKV_OPS.values()]
    assert library.harness_creator(len(WKV_OPS), 0) is None


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("n_tokens", [1, 10])
def test_enqueue_computes_the_operator(library, op_type, n_tokens, dtype):
    inputs = random_inputs(op_type, (2, n_tokens, 2, HEAD_SIZE), seed=n_tokens, dtype=dtype)
    outputs = [torch.full_like(inputs["receptance"], torch.nan), torch.full_like(inputs["state"], torch.nan)]

    def addresses(tensors: Sequence[Tensor]) -> ctypes.Array:
        return (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors))

    tensors = array_of([described(x.shape, TYPES[x.dtype]) for x in inputs.values()])
    arguments = (tensors, len(inputs), addresses(list(inputs.values())), addresses(outputs))
    assert library.harness_enqueue(op_type.encode(), *arguments) == 0
    limits = (6e-3 if dtype is torch.bfloat16 else 1e-3 if dtype is torch.float16 else 2e-6, 2e-6)
    for actual, wanted, limit in zip(outputs, expected(op_type, inputs), limits, strict=True):
        assert (actual.double() - wanted).abs().max() <= limit * wanted.abs().max()


def test_format_combinations(library, op_type):
    always_float = {"log_decay", "bonus", "state", "next_state"}
    names = [*INPUTS[op_type], *OUTPUTS]

    def accepted(first: int, changed: dict[str, Described]) -> list[str]:
        """Names of the arguments whose type and format are accepted, one after the other."""
        tensors = [changed.get(n, described(element=FLOAT if n in always_float else first)) for n in names]
        array = array_of(tensors)
        arguments = (array, len(INPUTS[op_type]), len(OUTPUTS))
        return [n for i, n in enumerate(names) if library.harness_supports(op_type.encode(), i, *arguments)]

    for element in (FLOAT, HALF, BF16):
        assert accepted(element, {}) == names
    assert set(accepted(INT8, {})) == always_float & set(names)
    for name in names:
        assert name not in accepted(HALF, {name: described(element=INT8)})
        assert name not in accepted(FLOAT, {name: described(layout=CHW2)})
        if name in always_float:
            assert name not in accepted(HALF, {name: described(element=HALF)})
        elif name != "receptance":
            assert name not in accepted(HALF, {name: described(element=FLOAT)})
    array = array_of([described() for _ in names])
    for n_inputs, n_outputs, position in ((len(INPUTS[op_type]) - 1, 2, 0), (len(INPUTS[op_type]), 1, 0)):
        assert not library.harness_supports(op_type.encode(), position, array, n_inputs, n_outputs)


def output_types(library, op_type: str, inputs: list[int]) -> list[int] | None:
    outputs = (ctypes.c_int32 * 2)(-9, -9)
    status = library.harness_output_types(
        op_type.encode(), (ctypes.c_int32 * len(inputs))(*inputs), len(inputs), outputs
    )
    return list(outputs) if status == 0 else None


def test_output_types(library, op_type, capfd):
    def types(element: int, **changed: int) -> list[int]:
        float32 = dict.fromkeys(("log_decay", "bonus", "state"), FLOAT)
        return [{**float32, **changed}.get(name, element) for name in INPUTS[op_type]]

    for element in (FLOAT, HALF, BF16):
        assert output_types(library, op_type, types(element)) == [element, FLOAT]
    refused = {
        "receptance: data type 2; takes float32, float16 or bfloat16": types(INT8),
        "value: data type 1; takes float32, float16 or bfloat16, the same as receptance": types(FLOAT, value=HALF),
        "state: data type 1; takes float32": types(HALF, state=HALF),
        "has 3 inputs and 2 outputs": [FLOAT] * 3,
    }
    for reason, inputs in refused.items():
        assert output_types(library, op_type, inputs) is None
        assert f"aurora::{op_type}: {reason}" in capfd.readouterr().err


def test_output_shapes_with_free_batch_and_length(library, op_type):
    inputs = array_of([described(shape) for shape in shapes(op_type, (FREE, FREE, 32, 64))])
    outputs = array_of([described(), described()])
    assert library.harness_output_shapes(op_type.encode(), inputs, len(inputs), outputs) == 0
    assert [list(x.dims[: x.n_dims]) for x in outputs] == [[FREE, FREE, 32, 64], [FREE, 32, 64, 64]]


@pytest.mark.parametrize(
    ("sizes", "changed", "reason"),
    [
        ((FREE, FREE, 4, 32), {}, "head_size: is 32; the CUDA kernels are for 64"),
        ((1, 0, 4, 64), {}, "n_tokens: is 0; at least 1"),
        ((1, FREE, 4, 64), {"state": (1, 5, 64, 64)}, "state: H is 5; it is 4 in the inputs before"),
        ((2, 7, 4, 64), {"value": (2, 6, 4, 64)}, "value: T is 6; it is 7 in the inputs before"),
        ((2, 7, 4, 64), {"key": (7, 4, 64)}, "key: has 3 dimensions; takes 4"),
    ],
)
def test_shapes_are_refused_by_name(library, op_type, sizes, changed, reason, capfd):
    wanted = dict(zip(INPUTS[op_type], shapes(op_type, sizes), strict=True)) | changed
    inputs = array_of([described(shape) for shape in wanted.values()])
    assert library.harness_output_shapes(op_type.encode(), inputs, len(inputs), array_of([described()] * 2)) != 0
    assert f"aurora::{op_type}: {reason}" in capfd.readouterr().err


def test_a_missing_input_is_refused(library, op_type, capfd):
    inputs = array_of([described(shape) for shape in shapes(op_type, (1, 1, 4, 64))][:-1])
    assert library.harness_output_shapes(op_type.encode(), inputs, len(inputs), array_of([described()] * 2)) != 0
    assert f"has {len(inputs)} inputs; takes {len(inputs) + 1}" in capfd.readouterr().err


def test_profiles_are_checked_at_both_ends(library, op_type, capfd):
    def configured(least: tuple[int, ...], most: tuple[int, ...]) -> int:
        ends = [array_of([described(shape) for shape in shapes(op_type, sizes)]) for sizes in (least, most)]
        return library.harness_configure(op_type.encode(), *ends, len(INPUTS[op_type]))

    assert configured((1, 1, 4, 64), (8, 256, 4, 64)) == 0
    assert configured((1, 0, 4, 64), (8, 256, 4, 64)) != 0
    assert configured((1, 1, 4, 64), (1 << 30, 256, 4, 64)) != 0
    errors = capfd.readouterr().err
    assert "n_tokens: is 0; at least 1" in errors
    assert "n_sequences * n_heads: is 1073741824 * 4" in errors


def test_state_is_aliased_only_where_it_was_asked_for(library, op_type):
    for output, aliased_input in ((0, -1), (1, list(INPUTS[op_type]).index("state"))):
        assert library.harness_aliased_input(op_type.encode(), 1, output) == aliased_input
        assert library.harness_aliased_input(op_type.encode(), 0, output) == -1


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (("alias", FIELD_INT32, 1, 1), "field alias: unknown; aliased_state is all there is"),
        (("aliased_state", FIELD_FLOAT32, 1, 1), "field aliased_state: takes one int32"),
        (("aliased_state", FIELD_INT32, 2, 1), "field aliased_state: takes one int32"),
        (("aliased_state", FIELD_INT32, 1, 2), "field aliased_state: is 2; takes 0 or 1"),
    ],
)
def test_fields_are_refused_by_name(library, op_type, field, reason, capfd):
    name, *rest = field
    assert library.harness_refuses_field(op_type.encode(), name.encode(), *rest) == 1
    assert f"aurora::{op_type}: {reason}" in capfd.readouterr().err
    assert library.harness_refuses_field(op_type.encode(), b"aliased_state", FIELD_INT32, 1, 1) == 0
