"""The native operators, each instruction set that runs here, through ONNX Runtime against the reference."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from aurora_export.errors import IncompatibleError, UsageError
from aurora_export.export.rounding import BITS, pack_codes
from aurora_export.plugins import DOMAIN, NODE_ATTRIBUTES, OP_VERSION, cpu
from aurora_export.plugins.linear import reference as linear_reference
from aurora_export.plugins.wkv import reference as wkv_reference
from aurora_export.plugins.wkv.op import INPUTS, OUTPUTS
from aurora_export.runtime.engine_onnx import register_operators

LIBRARY = cpu.library_path()
needs_library = pytest.mark.skipif(LIBRARY is None, reason="the operator library was not built: no C++ compiler")
LEVELS = [level.name for level in cpu.levels(LIBRARY) if level.is_supported] if LIBRARY else []
SIZES = [(1, 1, 1, 64), (2, 5, 3, 64), (1, 70, 2, 64), (3, 7, 2, 8), (1, 3, 2, 48), (2, 4, 1, 20), (1, 2, 1, 256)]
BLOCK_SIZES = (16, 32, 64, 128, 256)


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch):
    monkeypatch.setenv(cpu.LEVEL, request.param)
    return request.param


def session_of(node, inputs, outputs, *, threads=2):
    """A session over one operator, without a function: what runs is the library, or nothing."""
    described = [
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), None) for name in names]
        for names, dtype in ((list(inputs), np.float32), (list(outputs), np.float32))
    ]
    for value in described[0]:
        value.type.tensor_type.elem_type = TensorProto.UINT8 if value.name == "codes" else TensorProto.FLOAT
    model = helper.make_model(
        helper.make_graph([node], "one", *described),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, OP_VERSION)],
        ir_version=10,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    register_operators(options)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def wkv_session(op_type, **options):
    node = helper.make_node(op_type, list(INPUTS[op_type]), list(OUTPUTS), domain=DOMAIN, **NODE_ATTRIBUTES)
    return session_of(node, INPUTS[op_type], OUTPUTS, **options)


def wkv_inputs(op_type, B, T, H, N, *, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"(B, T, H, N)": (B, T, H, N), "(H, N)": (H, N), "(B, H, N, N)": (B, H, N, N)}
    arrays = {name: rng.normal(size=shapes[shape]).astype(np.float32) for name, shape in INPUTS[op_type].items()}
    if op_type == "Wkv6":
        arrays["log_decay"] = -np.exp(2 * arrays["log_decay"])
    else:
        arrays["log_decay"] = -0.6065 / (1 + np.exp(-arrays["log_decay"]))
        arrays["removal"] /= np.linalg.norm(arrays["removal"], axis=-1, keepdims=True)
        arrays["replacement"] = -arrays["removal"] * 0.5
    return arrays


def wkv_expected(op_type, arrays):
    recurrent = getattr(wkv_reference, f"{op_type.lower()}_recurrent")
    doubles = (torch.from_numpy(array.astype(np.float64)) for array in arrays.values())
    return [value.numpy() for value in recurrent(*doubles)]


def assert_near(actual, expected, *, error=2e-6):
    scale = np.abs(expected).max()
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= error * scale


def test_the_library_was_built_where_there_is_a_compiler():
    if shutil.which("c++") or shutil.which("g++"):
        assert (cpu.Path(cpu.__file__).parent / cpu.LIBRARY_NAME).is_file()


@needs_library
def test_levels_end_with_one_that_runs_everywhere():
    assert cpu.levels(LIBRARY)[-1] == cpu.Level("portable", is_supported=True)
    assert cpu.chosen_level(LIBRARY) == os.environ.get(cpu.LEVEL, LEVELS[0])


@pytest.mark.parametrize("op_type", ["Wkv6", "Wkv7"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_wkv_equals_the_reference(level, op_type, sizes):
    arrays = wkv_inputs(op_type, *sizes)
    for actual, expected in zip(wkv_session(op_type).run(None, arrays), wkv_expected(op_type, arrays), strict=True):
        assert_near(actual, expected)


@pytest.mark.parametrize("op_type", ["Wkv6", "Wkv7"])
def test_wkv_does_not_depend_on_threads_or_on_chunks(level, op_type):
    arrays = wkv_inputs(op_type, 2, 9, 3, 64)
    whole, last = wkv_session(op_type, threads=1).run(None, arrays)
    for threads in (2, 3):
        again = wkv_session(op_type, threads=threads).run(None, arrays)
        np.testing.assert_array_equal(again[0], whole)
        np.testing.assert_array_equal(again[1], last)
    session, state, parts = wkv_session(op_type), arrays["state"], []
    for tokens in (slice(0, 1), slice(1, 5), slice(5, 9)):
        some = {name: array[:, tokens] if array.shape[1] == 9 else array for name, array in arrays.items()}
        output, state = session.run(None, {**some, "state": state})
        parts.append(output)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    np.testing.assert_array_equal(state, last)


@pytest.mark.parametrize("op_type", ["Wkv6", "Wkv7"])
@pytest.mark.parametrize("log_decay", [0.0, -1e-30, -40.0, -87.4, -100.0, -1e4, -np.inf])
def test_extreme_decays(level, op_type, log_decay):
    arrays = wkv_inputs(op_type, 1, 4, 2, 64)
    arrays["log_decay"][...] = log_decay
    for actual, expected in zip(wkv_session(op_type).run(None, arrays), wkv_expected(op_type, arrays), strict=True):
        assert_near(actual, expected)


def test_denormal_numbers_stay_small(level):
    arrays = wkv_inputs("Wkv6", 1, 3, 1, 64)
    for name in ("key", "state"):
        arrays[name] = (arrays[name] * 1e-40).astype(np.float32)
    output, state = wkv_session("Wkv6").run(None, arrays)
    assert np.abs(output).max() < 1e-36
    assert np.abs(state).max() < 1e-38


@needs_library
@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("receptance", (1, 2, 64), r"receptance has shape \(1, 2, 64\), not \(B, T, H, N\)"),
        ("key", (1, 3, 1, 64), r"key has shape \(1, 3, 1, 64\), expected \(1, 2, 1, 64\)"),
        ("bonus", (2, 64), r"bonus has shape"),
        ("state", (1, 1, 64, 63), r"state has shape"),
    ],
)
def test_other_shapes_are_refused(name, shape, message):
    arrays = wkv_inputs("Wkv6", 1, 2, 1, 64)
    arrays[name] = np.zeros(shape, np.float32)
    with pytest.raises(Exception, match=message):
        wkv_session("Wkv6").run(None, arrays)


def linear_session(K, N, block_size, *, bits=8, **options):
    attributes = {"K": K, "N": N, "bits": bits, "block_size": block_size}
    node = helper.make_node("BlockLinear", ["x", "codes", "scales"], ["y"], domain=DOMAIN, **attributes)
    return session_of(node, ["x", "codes", "scales"], ["y"], **options)


def linear_inputs(shape, N, block_size, *, bits=8, seed=0):
    rng = np.random.default_rng(seed)
    K = shape[-1]
    codes = rng.integers(0, 2**bits, (N, -(-K // block_size), block_size), dtype=np.uint8)
    codes.reshape(N, -1)[:, K:] = 2 ** (bits - 1)
    codes = pack_codes(codes, bits)
    scales = rng.uniform(1e-3, 1e-2, N * codes.shape[1]).astype(np.float32)
    return {"x": rng.normal(size=shape).astype(np.float32), "codes": codes, "scales": scales}


def linear_expected(arrays, *, bits=8):
    codes, scales = torch.from_numpy(arrays["codes"]), torch.from_numpy(arrays["scales"])
    x = linear_reference.round_activations(torch.from_numpy(arrays["x"]), codes.shape[2] * 8 // bits).double()
    return (x @ linear_reference.dequantize(codes, scales, x.shape[-1], bits=bits).double().T).numpy()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("shape", [(1, 256), (1, 1, 300), (2, 17), (3, 5, 130), (40, 512), (2, 3, 2, 33)], ids=str)
def test_linear_equals_the_reference(level, block_size, shape, bits):
    for N in (1, 37, 128):
        arrays = linear_inputs(shape, N, block_size, bits=bits)
        expected = linear_expected(arrays, bits=bits)
        (y,) = linear_session(shape[-1], N, block_size, bits=bits).run(None, arrays)
        # A rounding that is nearly a tie may fall the other way: one step of one activation.
        assert_near(y, expected, error=1e-3)
        assert np.median(np.abs(y - expected)) <= 2e-6 * np.abs(y).max()


@needs_library
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("n_tokens", [1, 30])
def test_linear_does_not_depend_on_threads(n_tokens, bits):
    arrays = linear_inputs((n_tokens, 640), 200, 128, bits=bits)
    results = [linear_session(640, 200, 128, bits=bits, threads=n).run(None, arrays)[0] for n in (1, 2, 3)]
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


@pytest.mark.parametrize(("bits", "block_size"), [(8, 128), (8, 16), (4, 128), (4, 32)])
@pytest.mark.parametrize("n_tokens", [1, 3])
def test_linear_of_numbers_at_the_ends(level, n_tokens, bits, block_size):
    arrays = linear_inputs((n_tokens, 256), 20, block_size, bits=bits)
    session = linear_session(256, 20, block_size, bits=bits)
    for magnitude in (0.0, 1e-40, 1e-25, 1e30):
        x = {**arrays, "x": (arrays["x"] * magnitude).astype(np.float32)}
        expected = linear_expected(x, bits=bits) if magnitude > 1e-30 else np.zeros((n_tokens, 20))
        assert np.abs(session.run(None, x)[0] - expected).max() <= 1e-3 * np.abs(expected).max()
    for value in (np.nan, np.inf, -np.inf):
        arrays["x"][-1, 200] = value
        y = session.run(None, arrays)[0]
        assert np.isnan(y[-1]).all(), "what is not finite is not hidden"
        assert np.isfinite(y[:-1]).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("n_tokens", [1, 5])
def test_largest_codes_do_not_overflow(level, n_tokens, bits):
    arrays = linear_inputs((n_tokens, 512), 33, 256, bits=bits)
    arrays["x"][...] = np.where(np.arange(512) % 2, -1, 1)
    largest = 2**bits - 1
    codes = np.empty((33, 2, 256), np.uint8)
    for code in (0, largest):
        codes[...] = code
        codes[:, :, ::2] = largest - code
        arrays["codes"] = pack_codes(codes, bits)
        (y,) = linear_session(512, 33, 256, bits=bits).run(None, arrays)
        assert_near(y, linear_expected(arrays, bits=bits))


@needs_library
def test_linear_of_another_width_is_refused():
    arrays = linear_inputs((2, 256), 20, 128)
    with pytest.raises(Exception, match=r"the input has shape \(2, 255\), its last size is to be 256"):
        linear_session(256, 20, 128).run(None, {**arrays, "x": arrays["x"][:, :255]})
    with pytest.raises(Exception, match="block_size is 48, not 16, 32, 64, 128 or 256"):
        linear_session(256, 20, 48)
    with pytest.raises(Exception, match="bits is 2, not 8 or 4"):
        linear_session(256, 20, 128, bits=2)


@needs_library
def test_an_unknown_level_is_refused(monkeypatch):
    monkeypatch.setenv(cpu.LEVEL, "avx1024")
    with pytest.raises(UsageError, match="AURORA_CPU_LEVEL names no level"):
        register_operators(onnxruntime.SessionOptions())


def test_the_library_can_be_switched_off(monkeypatch):
    monkeypatch.setenv(cpu.SWITCH, "off")
    assert cpu.library_path() is None
    assert register_operators(onnxruntime.SessionOptions()) is None


def test_a_broken_library_is_named(monkeypatch, tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr("aurora_export.runtime.engine_onnx.library_path", lambda: broken)
    with pytest.raises(IncompatibleError, match=r"broken\.so: ONNX Runtime cannot use this library"):
        register_operators(onnxruntime.SessionOptions())


@needs_library
def test_an_older_runtime_is_refused(tmp_path):
    """A stand-in for an interface older than the library needs: it has no table for version 18."""
    program = f"""
import ctypes
CREATE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
GET = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
said = []
create = CREATE(lambda code, text: said.append(text) or 1)
table = (ctypes.c_void_p * 1)(ctypes.cast(create, ctypes.c_void_p))
get = GET(lambda version: ctypes.addressof(table) if version == 1 else None)
base = (ctypes.c_void_p * 2)(ctypes.cast(get, ctypes.c_void_p), None)
library = ctypes.CDLL({str(LIBRARY)!r})
library.RegisterCustomOps.restype = ctypes.c_void_p
assert library.RegisterCustomOps(None, base) == 1
print(said[0].decode())
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert process.stdout == "ONNX Runtime 1.18 or newer is needed\n", process.stderr
