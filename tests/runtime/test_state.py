from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from aurora_export.contract import STATE_NAMES
from aurora_export.errors import IncompatibleError, IntegrityError, ResourceError, UsageError
from aurora_export.runtime.state import State, read_state_header
from handmade_bundle import handmade_config

CONFIG = handmade_config()
MODEL = "ab" * 32


@pytest.fixture
def state():
    rng = np.random.default_rng(0)
    zero = State.zero(CONFIG, fingerprint=MODEL, precision="fp32", backend="onnxruntime-cpu")
    arrays = {name: rng.normal(size=array.shape).astype(np.float32) for name, array in zero.arrays.items()}
    fields = {"phase": "watching", "tokens_seen": 12345, "frames_seen": 77, "position_s": 0.1 + 0.2}
    return State(arrays, zero.header.model_copy(update={**fields, "video_digest": "cd" * 32}))


def load(path):
    return State.load(path, CONFIG, fingerprint=MODEL)


def pieces(path: Path) -> tuple[dict, bytes]:
    """JSON header and tensor bytes of a safetensors file."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def write(path: Path, header: object, body: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def test_zero_is_as_the_contract_says():
    zero = State.zero(CONFIG, fingerprint=MODEL, precision="fp32", backend="x")
    assert {name: array.shape for name, array in zero.arrays.items()} == {
        "att_shift": (2, 1, 8),
        "ffn_shift": (2, 1, 8),
        "wkv": (2, 1, 2, 4, 4),
    }
    assert not any(array.any() for array in zero.arrays.values())
    assert (zero.header.phase, zero.header.tokens_seen, zero.header.position_s) == ("empty", 0, None)
    assert zero.n_bytes == 4 * (2 * 8 + 2 * 8 + 2 * 2 * 4 * 4)


def test_saved_and_loaded_bit_for_bit(state, tmp_path):
    state.arrays["wkv"][0, 0, 0, 0] = [-0.0, 1e-42, 3.4e38, np.nextafter(np.float32(1), 2)]
    state.save(tmp_path / "here.aurstate")
    loaded = load(tmp_path / "here.aurstate")
    assert loaded.header == state.header
    for name in STATE_NAMES:
        assert loaded.arrays[name].tobytes() == state.arrays[name].tobytes()
        assert loaded.arrays[name].dtype == np.float32
    assert os.listdir(tmp_path) == ["here.aurstate"]


def test_unknown_fields_stay_unknown(tmp_path):
    """None is no text: the field is left out of the file."""
    zero = State.zero(CONFIG, fingerprint=MODEL, precision="fp32", backend="x")
    zero.save(tmp_path / "s.aurstate")
    assert load(tmp_path / "s.aurstate").header == zero.header


def test_a_copy_is_apart(state):
    copy = state.copy()
    copy.arrays["wkv"] += 1
    assert not np.array_equal(copy.arrays["wkv"], state.arrays["wkv"])


def test_an_existing_file_is_replaced_whole(state, tmp_path, monkeypatch):
    path = tmp_path / "s.aurstate"
    path.write_bytes(b"old")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ResourceError) as caught:
            state.save(path)
    assert caught.value.message == f"{path}: the disk is full"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["s.aurstate"]
    state.save(path)
    assert load(path).header == state.header


def test_a_folder_that_is_not_there(state, tmp_path):
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        state.save(tmp_path / "nowhere" / "s.aurstate")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="no such state file"):
        load(tmp_path / "s.aurstate")


def test_state_of_another_model(state, tmp_path):
    path = tmp_path / "s.aurstate"
    state.save(path)
    with pytest.raises(IncompatibleError) as caught:
        State.load(path, CONFIG, fingerprint="ef" * 32)
    assert caught.value.message == f"{path}: state of the model {'ab' * 32}; this bundle is {'ef' * 32}"
    assert caught.value.hint == "open the bundle that saved it, or watch the video again with this one"
    assert caught.value.exit_code == 3


def test_state_of_a_model_of_other_sizes_is_another_model_first(state, tmp_path):
    state.save(tmp_path / "s.aurstate")
    other = CONFIG.model_copy(update={"language": CONFIG.language.model_copy(update={"n_layers": 9})})
    with pytest.raises(IncompatibleError, match="state of the model"):
        State.load(tmp_path / "s.aurstate", other, fingerprint="ef" * 32)


@pytest.fixture
def saved(state, tmp_path):
    path = tmp_path / "s.aurstate"
    state.save(path)
    return path


def refusal(path) -> str:
    with pytest.raises(IntegrityError) as caught:
        load(path)
    assert caught.value.message.startswith(f"{path}: ")
    return caught.value.message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("length", [0, 5, 8, 100, -1])
def test_truncated(length, saved):
    saved.write_bytes(saved.read_bytes()[:length])
    assert refusal(saved).startswith("not a valid state file: ")


@pytest.mark.parametrize("announced", [2**64 - 1, 2**40, 65537])
def test_a_huge_header_is_not_read(announced, saved):
    data = saved.read_bytes()
    saved.write_bytes(announced.to_bytes(8, "little") + data[8:] + bytes(70000))
    assert f"it announces a header of {announced} bytes" in refusal(saved)


def test_bytes_behind_the_tensors(saved):
    saved.write_bytes(saved.read_bytes() + b"more")
    assert refusal(saved).startswith("not a valid state file: ")


def test_a_pickle(saved):
    saved.write_bytes(b"\x80\x04\x95cos\nsystem\n(S'false'\ntR." + bytes(50))
    assert refusal(saved).startswith("not a valid state file: ")


NO_HEADERS = {"list": b"[]", "open": b"{", "deep": b"[" * 50000, "bytes": b"\xff\xfe", "double": b'{"a": 1, "a": 2}'}


@pytest.mark.parametrize("header", NO_HEADERS.values(), ids=NO_HEADERS)
def test_a_header_that_is_no_json_object(header, saved):
    write(saved, header, b"")
    assert refusal(saved).startswith("not a valid state file: its header is not ")


def test_another_safetensors_file(saved):
    saved.write_bytes(save({"x": np.zeros(3, np.float32)}))
    assert refusal(saved) == "a safetensors file, but not a state of aurora-export"


def test_another_format_version(saved):
    header, body = pieces(saved)
    header["__metadata__"]["format_version"] = "3"
    write(saved, header, body)
    with pytest.raises(IncompatibleError) as caught:
        load(saved)
    assert caught.value.message == f"{saved}: state format '3'; this version reads 1 and 2"


def test_version_1_is_read(state, saved):
    """It had neither the newer fields nor `encoding`; saved again it is a file of today."""
    header, body = pieces(saved)
    del header["__metadata__"]["encoding"]
    header["__metadata__"]["format_version"] = "1"
    write(saved, header, body)
    assert read_state_header(saved).header.format_version == "1"
    loaded = load(saved)
    assert loaded.header == state.header
    assert loaded.arrays["wkv"].tobytes() == state.arrays["wkv"].tobytes()
    loaded.save(saved)
    assert read_state_header(saved).header.format_version == "2"


def test_packed_is_the_same_state(state, tmp_path):
    raw, packed = tmp_path / "raw.aurstate", tmp_path / "packed.aurstate"
    sizes = state.save(raw), state.save(packed, packed=True)
    assert sizes == (raw.stat().st_size, packed.stat().st_size)
    assert [read_state_header(path).encoding for path in (raw, packed)] == ["raw", "packed"]
    assert load(packed).header == load(raw).header
    assert load(packed).digest == load(raw).digest == state.digest


def test_a_packed_tensor_that_is_damaged(state, tmp_path):
    path = tmp_path / "s.aurstate"
    state.save(path, packed=True)
    header, body = pieces(path)
    write(path, header, body[:-9] + bytes(9))
    assert refusal(path).startswith("a packed tensor is damaged: ")


def test_a_packed_tensor_that_expands(state, tmp_path):
    """100 MB in 100 kB, announced as a tensor of the contract."""
    path = tmp_path / "s.aurstate"
    state.arrays["wkv"] = np.zeros((25, 1000, 1000), np.float32)
    state.save(path, packed=True)
    assert refusal(path) == "a packed tensor is damaged: its content is not the 256 bytes of the shape (2, 1, 2, 4, 4)"


def test_the_header_alone(state, saved):
    """Without a model; what it says of the tensors must agree with the size of the file."""
    file = read_state_header(saved)
    assert (file.header, file.encoding, file.n_bytes) == (state.header, "raw", saved.stat().st_size)
    assert file.tensors["wkv"]["shape"] == [2, 1, 2, 4, 4]


def test_digests_tell_states_apart(state):
    other = state.copy()
    assert other.digest == state.digest
    other.arrays["wkv"][0, 0, 0, 0, 0] = np.nextafter(other.arrays["wkv"][0, 0, 0, 0, 0], np.float32(9))
    assert other.digest != state.digest


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("tokens_seen", "-1", "header field 'tokens_seen': Input should be greater than or equal to 0"),
        ("tokens_seen", "many", "header field 'tokens_seen': Input should be a valid integer"),
        ("phase", "asleep", "header field 'phase': Input should be 'empty', 'watching' or 'answered'"),
        ("position_s", "nan", "header field 'position_s': Input should be a finite number"),
        ("video_digest", "../../x", "header field 'video_digest': String should match pattern"),
        ("encoding", "pickle", "header field encoding: 'pickle' is none of raw, packed"),
        ("prompt_form", "secret", "header field 'prompt_form': Input should be 'generic' or 'primed'"),
        ("primed_for", "x" * 501, "header field 'primed_for': String should have at most 500 characters"),
        ("surprise", "1", "header field 'surprise': Extra inputs are not permitted"),
    ],
)
def test_bad_header_fields(field, value, complaint, saved):
    header, body = pieces(saved)
    header["__metadata__"][field] = value
    write(saved, header, body)
    assert refusal(saved).startswith(complaint)


def test_a_missing_tensor(saved):
    header, body = pieces(saved)
    header["extra"] = header.pop("wkv")
    write(saved, header, body)
    assert refusal(saved) == "holds the tensors att_shift, extra, ffn_shift; expected att_shift, ffn_shift, wkv"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"shape": [2, 1, 2, 4, 5]}, "not a valid state file: its tensors need 448 bytes, the file has 384"),
        ({"shape": [10**18]}, "not a valid state file: its tensors need 4000000000000000128 bytes, the file has 384"),
        ({"shape": [1, 2, 2, 4, 4]}, "wkv has the shape [1, 2, 2, 4, 4], expected [2, 1, 2, 4, 4]"),
        ({"shape": [-64]}, "wkv is {"),
        ({"shape": "many"}, "wkv is {"),
        ({"dtype": "F64"}, "wkv is {"),
        ({"dtype": None}, "wkv is {"),
    ],
)
def test_another_shape_or_type(change, complaint, saved):
    header, body = pieces(saved)
    header["wkv"].update(change)
    write(saved, header, body)
    assert refusal(saved).startswith(complaint)


@pytest.mark.parametrize("offsets", [[0, 64], [0, 256], [64, 1 << 40], [-5, 3], [64, 10]])
def test_overlapping_or_impossible_offsets(offsets, saved):
    header, body = pieces(saved)
    header["att_shift"]["data_offsets"] = offsets
    header["ffn_shift"]["data_offsets"] = offsets
    write(saved, header, body)
    assert refusal(saved).startswith("not a valid state file: ")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value, state, tmp_path):
    state.arrays["wkv"][1, 0, 1, 2, 3] = value
    state.save(tmp_path / "s.aurstate")
    assert refusal(tmp_path / "s.aurstate") == "wkv holds values that are not finite"
