"""The tensor form of `Wkv6`, emulated: its source runs, with products in TF32, not the instructions of a GPU."""

from __future__ import annotations

import ctypes
import math
import re

import pytest
import torch

from aurora_export.errors import UsageError
from aurora_export.plugins.wkv.cuda_library import (
    ARGUMENTS,
    ELEMENT_TYPES,
    FORMS,
    TENSOR_TOKENS,
    WkvCudaLibrary,
    _Sizes,
)
from emulated_kernels import SCHEDULES, emulated, schedule
from wkv_on_cuda import HEAD_SIZE, OUTPUT_ERROR, errors, limits, random_inputs, run

TENSOR_FORMS = ("tensor_16", "tensor_64")
FAST, SLOW = -math.exp(5), math.log1p(-1e-7)


@pytest.fixture(scope="module")
def library(root, tmp_path_factory) -> WkvCudaLibrary:
    return emulated(root, tmp_path_factory.mktemp("emulated") / "libwkv.so")


def assert_close(inputs, actual):
    measured, allowed = errors("Wkv6", inputs, actual), limits(inputs["receptance"].dtype)
    assert all(measured[name] <= allowed[name] for name in allowed), measured


def inputs_of(sizes, dtype=torch.float16, seed=1):
    return random_inputs("Wkv6", (*sizes, HEAD_SIZE), seed=seed, dtype=dtype)


@pytest.mark.parametrize("form", TENSOR_FORMS)
@pytest.mark.parametrize("dtype", OUTPUT_ERROR, ids=str)
@pytest.mark.parametrize("n_tokens", [1, 7, 8, 9, 15, 16, 17, 25, 33])
def test_equals_the_reference(library, n_tokens, dtype, form):
    inputs = inputs_of((1, n_tokens, 1), dtype, seed=n_tokens)
    schedule(library, 2)
    assert_close(inputs, run(library, "Wkv6", inputs, form=form))


@pytest.mark.parametrize("form", TENSOR_FORMS)
def test_heads_and_sequences_have_places_of_their_own(library, form):
    inputs = inputs_of((2, 18, 3))
    schedule(library, 0)
    assert_close(inputs, run(library, "Wkv6", inputs, form=form))


@pytest.mark.parametrize("n_tokens", [255, 256])
def test_equals_the_reference_over_many_tokens(library, n_tokens):
    inputs = inputs_of((1, n_tokens, 1), torch.float32)
    schedule(library, 0)
    assert_close(inputs, run(library, "Wkv6", inputs, form="tensor_64"))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", OUTPUT_ERROR, ids=str)
@pytest.mark.parametrize("n_tokens", [4095, 4096, 4097])
def test_nothing_grows_over_thousands_of_tokens(library, n_tokens, dtype):
    inputs = inputs_of((1, n_tokens, 1), dtype)
    schedule(library, 0)
    assert_close(inputs, run(library, "Wkv6", inputs, form="tensor_64"))


@pytest.mark.parametrize(
    "decays",
    [
        pytest.param([FAST], id="fast"),
        pytest.param([SLOW], id="slow"),
        pytest.param([0.0], id="none"),
        pytest.param([FAST, SLOW, SLOW, SLOW, SLOW], id="slow beside fast"),
        pytest.param([FAST, SLOW, -20.0, -1e4, -1e-3, -0.7, 0.0, -90.0], id="everything"),
        pytest.param([-math.inf, SLOW, SLOW], id="nothing is left"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_no_decay_is_too_fast_or_too_slow(library, decays, dtype):
    inputs = inputs_of((1, 41, 1), dtype)
    generator = torch.Generator().manual_seed(7)
    chosen = torch.randint(len(decays), inputs["log_decay"].shape, generator=generator)
    inputs["log_decay"] = torch.tensor(decays, dtype=torch.float32)[chosen]
    schedule(library, 0)
    assert_close(inputs, run(library, "Wkv6", inputs, form="tensor_64"))


def test_what_a_sum_of_logarithms_loses_is_kept(library):
    """Every eighth token forgets all, and the others nothing: exp(a - b) of sums near 300 would be wrong by 1e-5."""
    inputs = inputs_of((1, 32, 1), torch.float32)
    inputs["log_decay"] = torch.full_like(inputs["log_decay"], -1e-5)
    inputs["log_decay"][:, ::8] = -300.0
    output, state = errors("Wkv6", inputs, run(library, "Wkv6", inputs, form="tensor_64")).values()
    assert output < 2e-6
    assert state < 1e-6


@pytest.mark.parametrize("form", TENSOR_FORMS)
def test_no_schedule_of_the_threads_changes_a_bit(library, form):
    inputs = inputs_of((1, 35, 1))
    results = []
    for seed in (*SCHEDULES.values(), 3):
        schedule(library, seed)
        results.append(run(library, "Wkv6", inputs, form=form))
    for output, state in results[1:]:
        assert torch.equal(output, results[0][0])
        assert torch.equal(state, results[0][1])


@pytest.mark.parametrize("form", TENSOR_FORMS)
def test_state_may_be_updated_in_place(library, form):
    inputs = inputs_of((2, 17, 2))
    apart = run(library, "Wkv6", inputs, form=form)
    in_place = run(library, "Wkv6", inputs, form=form, in_place=True)
    assert torch.equal(apart[0], in_place[0])
    assert torch.equal(apart[1], in_place[1])


def test_a_text_cut_anywhere_is_the_same_but_for_rounding(library):
    inputs = inputs_of((1, 40, 1), torch.float32)
    whole, last = run(library, "Wkv6", inputs, form="tensor_16")
    parts, state = [], inputs["state"]
    for tokens in (slice(0, 5), slice(5, 24), slice(24, 40)):
        cut = {name: x[:, tokens].contiguous() if x.shape[1] == 40 else x for name, x in inputs.items()}
        output, state = run(library, "Wkv6", {**cut, "state": state}, form="tensor_16")
        parts.append(output)
    assert torch.allclose(torch.cat(parts, 1), whole, rtol=0, atol=5e-6 * float(whole.abs().max()))
    assert torch.allclose(state, last, rtol=0, atol=5e-6 * float(last.abs().max()))


@pytest.mark.parametrize(
    ("dtype", "n_tokens", "form"),
    [
        (torch.float32, 4 * TENSOR_TOKENS, "recurrent"),
        (torch.float16, TENSOR_TOKENS - 1, "recurrent"),
        (torch.float16, TENSOR_TOKENS, "tensor"),
        (torch.bfloat16, TENSOR_TOKENS - 1, "recurrent"),
        (torch.bfloat16, TENSOR_TOKENS, "tensor"),
    ],
    ids=str,
)
def test_the_form_is_chosen_by_type_and_tokens(library, dtype, n_tokens, form):
    inputs = inputs_of((1, n_tokens, 1), dtype)
    chosen = run(library, "Wkv6", inputs)[1]
    other = "tensor" if form == "recurrent" else "recurrent"
    assert torch.equal(chosen, run(library, "Wkv6", inputs, form=form)[1])
    assert not torch.equal(chosen, run(library, "Wkv6", inputs, form=other)[1])


@pytest.mark.parametrize(("n_multiprocessors", "slices"), [(8, 1), (9, 4)])
def test_blocks_are_wide_where_they_fill_the_device(library, n_multiprocessors, slices):
    inputs = inputs_of((2, 2, 3))
    library.library.emulation_set_multiprocessors(n_multiprocessors)
    run(library, "Wkv6", inputs, form="tensor")
    assert library.library.emulation_n_blocks() == 6 * slices


def test_names_and_numbers_are_those_of_the_header(root):
    header = (root / "plugins/wkv/wkv_kernel.h").read_text(encoding="utf-8")
    forms = {name.lower(): int(number) for name, number in re.findall(r"AURORA_WKV6_(\w+) = (\d+)", header)}
    assert forms.pop("tensor_tokens") == TENSOR_TOKENS
    assert forms == FORMS


def test_other_forms_are_refused(library):
    inputs = inputs_of((1, 2, 1))
    with pytest.raises(UsageError, match="Wkv7: has no form recurrent"):
        run(library, "Wkv7", random_inputs("Wkv7", (1, 2, 1, HEAD_SIZE), 1, torch.float16), form="recurrent")
    arrays = (ctypes.c_void_p * len(ARGUMENTS["Wkv6"]))(*([inputs["value"].data_ptr()] * 8))
    sizes = ctypes.byref(_Sizes(1, 2, 1, HEAD_SIZE))
    refusal = library.library.aurora_wkv6_enqueue_form(arrays, sizes, ELEMENT_TYPES["float16"], 5, None)
    assert refusal == b"form: is 5; 0 auto, 1 recurrent, 2 tensor, or 16 or 64 for its columns"


class TestTheEmulationSeesFaults:
    """Each of these faults was made on purpose: a check that cannot fail proves nothing."""

    @pytest.mark.parametrize(
        ("file", "text", "replacement"),
        [
            pytest.param("wkv6_tensor_kernel.cu", "    __syncthreads();\n", "", id="barrier"),
            pytest.param("wkv6_tensor_kernel.cu", "  }\n  __syncwarp();\n", "  }\n", id="barrier of a warp"),
        ],
    )
    def test_missing_barrier(self, root, tmp_path, file, text, replacement):
        library = emulated(root, tmp_path / "libwkv.so", edit=(file, text, replacement))
        inputs = inputs_of((1, 40, 1))
        results = []
        for seed in SCHEDULES.values():
            schedule(library, seed)
            results.append(run(library, "Wkv6", inputs, form="tensor_16")[0])
        assert not all(torch.equal(result, results[0]) for result in results[1:])

    def test_state_that_takes_a_token_after_the_last(self, root, tmp_path):
        edit = ("wkv6_tensor_kernel.cu", "lane.group >= n_tokens)", "lane.group > n_tokens)")
        library = emulated(root, tmp_path / "libwkv.so", edit=edit)
        inputs = inputs_of((1, 13, 1))
        assert errors("Wkv6", inputs, run(library, "Wkv6", inputs, form="tensor_16"))["next_state"] > 1e-2

    def test_write_after_the_last_token(self, root, tmp_path):
        edit = ("wkv6_tensor_kernel.cu", "if (token >= n_tokens) return;", "if (token > n_tokens) return;")
        library = emulated(root, tmp_path / "libwkv.so", edit=edit)
        inputs = inputs_of((1, 13, 1))
        with pytest.raises(AssertionError, match="output: written outside"):
            run(library, "Wkv6", inputs, form="tensor_16")

    def test_read_after_the_last_token(self, root, tmp_path):
        edit = ("wkv6_fragments.cuh", "min(2 * lane.quad + i, last)", "(2 * lane.quad + i)")
        library = emulated(root, tmp_path / "libwkv.so", edit=edit)
        inputs = inputs_of((1, 13, 1))
        assert not run(library, "Wkv6", inputs, form="tensor_16")[1].isfinite().all(), "guards are NaN"

    def test_half_the_bits(self, root, tmp_path):
        library = emulated(
            root, tmp_path / "libwkv.so", edit=("wkv6_fragments.cuh", "kComputedParts = 2", "kComputedParts = 1")
        )
        inputs = inputs_of((1, 17, 1), seed=17)
        measured = errors("Wkv6", inputs, run(library, "Wkv6", inputs, form="tensor_16"))
        assert measured["output"] > limits(torch.float16)["output"], measured
        assert measured["next_state"] < limits(torch.float16)["next_state"], "which has two parts always"
