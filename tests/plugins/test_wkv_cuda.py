"""The CUDA kernels, compiled as C++ against an emulation: their source runs, not the instructions of a GPU."""

from __future__ import annotations

import pytest
import torch

from aurora_export.errors import DependencyError, UsageError
from aurora_export.plugins import WKV_OPS
from aurora_export.plugins.wkv.cuda_library import ARGUMENTS, WkvCudaLibrary
from aurora_export.plugins.wkv.op import INPUTS, OUTPUTS
from emulated_kernels import SCHEDULES, emulated, schedule
from wkv_on_cuda import HEAD_SIZE, OUTPUT_ERROR, errors, limits, random_inputs, run


@pytest.fixture(scope="module")
def library(root, tmp_path_factory) -> WkvCudaLibrary:
    return emulated(root, tmp_path_factory.mktemp("emulated") / "libwkv.so")


@pytest.fixture(params=WKV_OPS.values())
def op_type(request) -> str:
    return request.param


def assert_close(op_type, inputs, actual):
    measured, allowed = errors(op_type, inputs, actual), limits(inputs["receptance"].dtype)
    assert all(measured[name] <= allowed[name] for name in allowed), measured


@pytest.mark.parametrize("dtype", OUTPUT_ERROR, ids=str)
@pytest.mark.parametrize("n_tokens", [1, 2, 7, 8, 9, 19])
def test_equals_the_reference(library, op_type, n_tokens, dtype):
    inputs = random_inputs(op_type, (2, n_tokens, 3, HEAD_SIZE), seed=n_tokens, dtype=dtype)
    schedule(library, 2)
    assert_close(op_type, inputs, run(library, op_type, inputs))


def test_equals_the_reference_over_many_tokens(library, op_type):
    inputs = random_inputs(op_type, (1, 203, 1, HEAD_SIZE), seed=5, dtype=torch.float32)
    schedule(library, 0)
    assert_close(op_type, inputs, run(library, op_type, inputs))


@pytest.mark.parametrize("n_tokens", [1, 11])
def test_no_schedule_of_the_threads_changes_a_bit(library, op_type, n_tokens):
    inputs = random_inputs(op_type, (1, n_tokens, 2, HEAD_SIZE), seed=1, dtype=torch.float32)
    results = []
    for seed in (*SCHEDULES.values(), 3, 4):
        schedule(library, seed)
        results.append(run(library, op_type, inputs))
    for output, state in results[1:]:
        assert torch.equal(output, results[0][0])
        assert torch.equal(state, results[0][1])


@pytest.mark.parametrize("n_tokens", [1, 11])
def test_state_may_be_updated_in_place(library, op_type, n_tokens):
    inputs = random_inputs(op_type, (2, n_tokens, 2, HEAD_SIZE), seed=2, dtype=torch.float32)
    apart = run(library, op_type, inputs)
    in_place = run(library, op_type, inputs, in_place=True)
    assert torch.equal(apart[0], in_place[0])
    assert torch.equal(apart[1], in_place[1])


def test_a_text_cut_between_chunks_gives_the_same_bits(library, op_type):
    inputs = random_inputs(op_type, (1, 21, 2, HEAD_SIZE), seed=3, dtype=torch.float32)
    whole, last = run(library, op_type, inputs)
    parts, state = [], inputs["state"]
    for tokens in (slice(0, 5), slice(5, 13), slice(13, 21)):
        cut = {name: x[:, tokens].contiguous() if x.shape[1] == 21 else x for name, x in inputs.items()}
        output, state = run(library, op_type, {**cut, "state": state})
        parts.append(output)
    assert torch.equal(torch.cat(parts, 1), whole)
    assert torch.equal(state, last)


def test_step_and_chunk_kernel_agree(library, op_type):
    inputs = random_inputs(op_type, (2, 9, 2, HEAD_SIZE), seed=4, dtype=torch.float32)
    whole, last = run(library, op_type, inputs)
    state, steps = inputs["state"], []
    for t in range(9):
        token = {name: x[:, t : t + 1].contiguous() if x.shape[1] == 9 else x for name, x in inputs.items()}
        output, state = run(library, op_type, {**token, "state": state})
        steps.append(output)
    assert torch.allclose(torch.cat(steps, 1), whole, rtol=0, atol=2e-6 * float(whole.abs().max()))
    assert torch.allclose(state, last, rtol=0, atol=2e-6 * float(last.abs().max()))


def test_arguments_are_those_of_the_schema(op_type):
    assert ARGUMENTS[op_type] == (*INPUTS[op_type], *OUTPUTS)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ((1, 1, 2, 32), "head_size: is 32; the CUDA kernels are for 64"),
        ((0, 1, 2, 64), "n_sequences: is 0; at least 1"),
        ((1, 0, 2, 64), "n_tokens: is 0; at least 1"),
        ((1, 1, 0, 64), "n_heads: is 0; at least 1"),
        ((1 << 30, 1, 2, 64), "n_sequences \\* n_heads: is 1073741824 \\* 2; at most 536870911"),
    ],
)
def test_sizes_are_refused_by_name(library, op_type, sizes, reason):
    addresses = dict.fromkeys(ARGUMENTS[op_type], 1 << 20)
    with pytest.raises(UsageError, match=f"{op_type}: {reason}"):
        library.enqueue(op_type, addresses, sizes)


def test_addresses_are_refused_by_name(library, op_type):
    far_apart = {name: (i + 1) << 24 for i, name in enumerate(ARGUMENTS[op_type])}
    wrong = {
        "value: is null": {"value": 0},
        "state: 0x\\w+ is not aligned to 16 bytes": {"state": far_apart["state"] + 4},
        "next_state: overlaps state": {"next_state": far_apart["state"] + 64},
    }
    for reason, changed in wrong.items():
        with pytest.raises(UsageError, match=reason):
            library.enqueue(op_type, {**far_apart, **changed}, (1, 1, 2, 64))


def test_another_library_is_refused(tmp_path):
    (tmp_path / "other.so").write_bytes(b"no library")
    with pytest.raises(DependencyError, match=r"other\.so: not a library of the WKV kernels"):
        WkvCudaLibrary.load(tmp_path / "other.so")


class TestTheEmulationSeesFaults:
    """Each of these faults was made on purpose: a check that cannot fail proves nothing."""

    def faulty(self, root, tmp_path, text, replacement, file="wkv6_kernel.cu"):
        return emulated(root, tmp_path / "libwkv.so", edit=(file, text, replacement))

    def test_missing_barrier(self, root, tmp_path):
        library = self.faulty(root, tmp_path, "staged.store(tiles[current]);\n    __syncthreads();",
                              "staged.store(tiles[current]);")  # fmt: skip
        inputs = random_inputs("Wkv6", (1, 20, 1, HEAD_SIZE), seed=1, dtype=torch.float32)
        results = []
        for seed in SCHEDULES.values():
            schedule(library, seed)
            results.append(run(library, "Wkv6", inputs)[0])
        assert not all(torch.equal(result, results[0]) for result in results[1:])

    def test_barrier_that_some_threads_skip(self, root, tmp_path):
        library = self.faulty(root, tmp_path, "sums[threadIdx.x / 32][quad] = x;\n  __syncthreads();",
                              "{ sums[threadIdx.x / 32][quad] = x; __syncthreads(); }",
                              file="wkv_device.cuh")  # fmt: skip
        inputs = random_inputs("Wkv6", (1, 1, 1, HEAD_SIZE), seed=1, dtype=torch.float32)
        with pytest.raises(UsageError, match="threads wait at different barriers"):
            run(library, "Wkv6", inputs)

    def test_write_after_the_last_token(self, root, tmp_path):
        library = self.faulty(root, tmp_path, "if (group < n_here) {", "{")
        inputs = random_inputs("Wkv6", (1, 5, 1, HEAD_SIZE), seed=1, dtype=torch.float32)
        with pytest.raises(AssertionError, match="output: written outside"):
            run(library, "Wkv6", inputs)
