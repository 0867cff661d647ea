"""What the C interface refuses, and that it says why: arguments, handles, bundles, states; callbacks that end it."""

from __future__ import annotations

import ctypes as c
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

import aurora_library as lib
from aurora_export.sampling import SamplingOptions
from aurora_library import LibraryError, Model, Session

FRAME = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)


@pytest.fixture
def bundle_copy(testbed_bundle, tmp_path):
    return shutil.copytree(testbed_bundle, tmp_path / "copy.aurora")


def refused(library, bundle, status, *words, **options):
    with pytest.raises(LibraryError) as error:
        Model(library, bundle, **options)
    assert error.value.status == status
    for word in words:
        assert word in str(error.value)


def test_structs_are_those_of_the_header(root, build, tmp_path):
    """Sizes and offsets as the C compiler has them."""
    lines = [
        f'printf("%zu ", offsetof({name}, {field[0]}));'
        for name, struct in lib.STRUCTS.items()
        for field in struct._fields_
    ]
    lines += [f'printf("%zu ", sizeof({name}));' for name in lib.STRUCTS]
    source = tmp_path / "layout.c"
    source.write_text(f'#include <stdio.h>\n#include "aurora.h"\nint main(void) {{ {" ".join(lines)} return 0; }}')
    program = tmp_path / "layout"
    include = root / "runtime/cpp/include"
    subprocess.run(
        ["cc", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{include}", source, "-o", program],
        check=True,
    )
    found = [int(number) for number in subprocess.check_output([program]).split()]
    expected = [getattr(struct, field[0]).offset for struct in lib.STRUCTS.values() for field in struct._fields_]
    assert found == expected + [c.sizeof(struct) for struct in lib.STRUCTS.values()]


def test_versions_and_names(library, root):
    assert library.aurora_abi_version() == 3
    assert library.aurora_version().decode() in (root / "core/__init__.py").read_text()
    assert library.aurora_status_name(6) == b"AURORA_ERROR_RESOURCES"
    assert library.aurora_status_name(5) == library.aurora_status_name(-1) == b"unknown"


def test_info_of_a_model(model, opened):
    info = model.info
    assert info["fingerprint"] == opened.header.fingerprint
    assert info["backend"] == "onnxruntime-cpu"
    assert info["state_bytes"] == opened.state.n_bytes


def test_zeroed_options_and_no_options(library, testbed_bundle):
    for options in (None, c.byref(lib.ModelOptions())):
        handle = c.c_void_p()
        assert library.aurora_model_open(str(testbed_bundle).encode(), options, c.byref(handle)) == lib.OK
        assert library.aurora_model_last_error(handle) == b""
        library.aurora_model_close(handle)


def test_options_of_a_newer_header(library, testbed_bundle):
    class Newer(c.Structure):
        _fields_ = [*lib.ModelOptions._fields_, ("more", c.c_int64)]

    handle = c.c_void_p()
    arguments = str(testbed_bundle).encode(), c.byref(Newer(size=c.sizeof(Newer))), c.byref(handle)
    assert library.aurora_model_open(*arguments) == lib.OK
    library.aurora_model_close(handle)
    arguments = str(testbed_bundle).encode(), c.byref(Newer(size=c.sizeof(Newer), more=1)), c.byref(handle)
    assert library.aurora_model_open(*arguments) == lib.USAGE
    assert b"does not know" in library.aurora_model_last_error(handle)
    library.aurora_model_close(handle)


@pytest.mark.parametrize(
    ("options", "status", "word"),
    [
        ({"backend": 3}, lib.USAGE, "backend is 3"),
        ({"backend": 2}, lib.UNSUPPORTED, "TensorRT"),
        ({"device": -1}, lib.USAGE, "device is -1"),
        ({"device": 1}, lib.DEPENDENCY, "GPU"),
        ({"n_threads": -2}, lib.USAGE, "n_threads is -2"),
        ({"device_name": b"gpu"}, lib.USAGE, "unknown device 'gpu'"),
        ({"device_name": b"cuda", "device": 1}, lib.USAGE, "device_name is given beside"),
        ({"device_name": b"tensorrt:1"}, lib.UNSUPPORTED, "TENSORRT_ROOT"),
        ({"device_name": b"cuda"}, lib.DEPENDENCY, "GPU"),
        ({"reserved": 1}, lib.USAGE, "reserved"),
        ({"onnxruntime_library": b"/nowhere/libonnxruntime.so"}, lib.DEPENDENCY, "AURORA_ONNXRUNTIME"),
        ({"onnxruntime_library": b"libm.so.6"}, lib.DEPENDENCY, "not ONNX Runtime"),
    ],
)
def test_options_that_cannot_be(library, testbed_bundle, options, status, word):
    refused(library, testbed_bundle, status, word, **options)


def test_null_for_everything(library, model):
    assert library.aurora_model_open(None, None, None) == lib.USAGE
    handle = c.c_void_p()
    assert library.aurora_model_open(None, None, c.byref(handle)) == lib.USAGE
    assert b"bundle is NULL" in library.aurora_model_last_error(handle)
    library.aurora_model_close(handle)
    library.aurora_model_close(None)
    assert library.aurora_model_info(None) is None
    assert library.aurora_session_info(None) is None
    assert b"no open" in library.aurora_model_last_error(None)
    assert b"no open" in library.aurora_session_last_error(None)
    assert library.aurora_session_close(None) == lib.OK
    assert library.aurora_session_new(model.handle, None) == lib.USAGE
    assert library.aurora_session_new(None, c.byref(handle)) == lib.USAGE
    assert library.aurora_session_close(handle) == lib.OK
    for name in (
        "watch",
        "watch_frames",
        "visual_tokens",
        "logits",
        "ask",
        "reset",
        "save",
        "load",
        "save_to",
        "load_from",
    ):
        function = getattr(library, f"aurora_session_{name}")
        nothing = [0 if kind in (c.c_int, c.c_size_t) else None for kind in function.argtypes]
        assert function(*nothing) == lib.USAGE


def test_null_where_a_session_wants_something(library, session):
    handle = session.handle
    assert library.aurora_session_watch(handle, None, None) == lib.USAGE
    assert library.aurora_session_last_error(handle) == b"frame is NULL"
    assert library.aurora_session_watch(handle, c.byref(lib.Frame(width=8, height=8)), None) == lib.USAGE
    session.watch(FRAME)
    assert library.aurora_session_last_error(handle) == b""
    assert library.aurora_session_ask(handle, None, None, None, None, None) == lib.USAGE
    assert library.aurora_session_ask(handle, b"What?", None, None, None, None) == lib.OK
    for name, arguments in {
        "save": (None, 0, None),
        "load": (None,),
        "save_to": (None, None),
        "load_from": (None, 5),
    }.items():
        assert getattr(library, f"aurora_session_{name}")(handle, *arguments) == lib.USAGE
    assert library.aurora_session_logits(handle, None, None) == lib.USAGE


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"width": 0}, lib.USAGE, "0"),
        ({"height": 16385}, lib.USAGE, "16384"),
        ({"format": 2}, lib.USAGE, "format is 2"),
        ({"format": 1}, lib.USAGE, "data[1] is NULL"),
        ({"colour": 4}, lib.USAGE, "colour is 4"),
        ({"memory": 1}, lib.UNSUPPORTED, "GPU"),
        ({"memory": 2}, lib.USAGE, "memory is 2"),
        ({"stride": (c.c_ssize_t * 2)(191, 0)}, lib.USAGE, "191"),
        ({"stride": (c.c_ssize_t * 2)(-191, 0)}, lib.USAGE, "191"),
    ],
)
def test_frames_that_cannot_be(session, fields, status, word):
    with pytest.raises(LibraryError, match=re.escape(word)) as error:
        session.watch(FRAME, **fields)
    assert error.value.status == status
    assert session.info["phase"] == "empty"
    session.watch(FRAME)


def test_calls_out_of_order_leave_the_session_as_it_was(session):
    with pytest.raises(LibraryError, match="nothing was watched"):
        session.ask("What?")
    with pytest.raises(LibraryError, match="no frame"):
        session.visual_tokens  # noqa: B018
    session.watch(FRAME)
    before = session.save_to_bytes()
    with pytest.raises(LibraryError, match="before the first frame"):
        session.watch(FRAME, prompt="What?")
    with pytest.raises(LibraryError, match="question is empty"):
        session.ask(" \n")
    with pytest.raises(LibraryError, match="UTF-8"):
        session.check(session.library.aurora_session_ask(session.handle, b"\xff", None, None, None, None))
    for options in ({"temperature": -1.0}, {"top_p": 1.5}, {"penalty_decay": float("nan")}):
        with pytest.raises(LibraryError, match=next(iter(options))):
            session.ask("What?", **options)
    with pytest.raises(LibraryError, match="stop text is empty"):
        session.ask("What?", stop=("",))
    assert session.save_to_bytes() == before


def test_cancel_in_mid_answer(session, aurora):
    session.watch(FRAME)
    aurora.watch([FRAME])
    pieces = []
    drawn = {"temperature": 1000.0, "seed": 3}  # nearly any token, so that there are many
    session.ask("What?", **drawn, on_text=lambda piece: pieces.append(piece) or len(pieces) == 2)
    assert session.status == lib.CANCELLED
    assert len(pieces) == 2
    assert session.answer.end == 0
    answer = aurora.ask("What?", options=SamplingOptions(**drawn))
    assert [next(answer), next(answer)] == pieces
    del answer
    assert session.ask("And then?", max_tokens=5) == "".join(aurora.ask("And then?", max_tokens=5))


def test_calls_from_inside_a_callback(session):
    session.watch(FRAME)
    found = []

    def call_back(_):
        found.append(session.library.aurora_session_reset(session.handle))
        found.append(session.library.aurora_session_close(session.handle))

    text = session.ask("What?", max_tokens=3, on_text=call_back)
    assert set(found) == {lib.BUSY}
    assert text


def test_a_session_outlives_its_model(library, testbed_bundle):
    model = Model(library, testbed_bundle, n_threads=1)
    session = Session(model)
    model.close()
    session.watch(FRAME)
    assert session.ask("What?", max_tokens=3)
    session.close()


def test_progress_covers_all_files_and_may_cancel(library, testbed_bundle):
    seen = {}

    @lib.ProgressCallback
    def add(_, path, n_bytes, total):
        seen[path] = seen.get(path, 0) + n_bytes
        seen["total"] = total
        return 0

    Model(library, testbed_bundle, progress=add).close()
    total = seen.pop("total")
    manifest = json.loads((testbed_bundle / "manifest.json").read_text())
    assert {path.decode(): n for path, n in seen.items()} == {
        path: entry["size"] for path, entry in manifest["digests"].items()
    }
    assert sum(seen.values()) == total
    refused(library, testbed_bundle, lib.CANCELLED, progress=lib.ProgressCallback(lambda *_: 1))


def test_log_of_opening(library, testbed_bundle):
    lines = []
    Model(library, testbed_bundle, log=lib.LogCallback(lambda _, level, text: lines.append((level, text)))).close()
    assert [level for level, _ in lines] == [0]
    assert b"opened" in lines[0][1]


def damage_digest(bundle):
    path = bundle / "tokenizer/vocabulary.txt"
    path.write_bytes(path.read_bytes()[:-2] + b"9\n")


def leave_out(bundle):
    (bundle / "onnx/vision.onnx.data").unlink()


def add_file(bundle):
    (bundle / "onnx/more").write_text("x")


def link(bundle):
    (bundle / "onnx/more").symlink_to("/etc/hostname")


def manifest_with(**changes):
    def change(bundle):
        path = bundle / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def huge_sizes(bundle):
    path = bundle / "manifest.json"
    content = json.loads(path.read_text())
    content["config"]["language"]["n_layers"] = 10**12
    path.write_text(json.dumps(content))


def parent_path(bundle):
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace("tokenizer/vocabulary.txt", "../vocabulary.txt"))


@pytest.mark.parametrize(
    ("damage", "status", "word"),
    [
        (damage_digest, lib.INTEGRITY, "SHA-256"),
        (leave_out, lib.INTEGRITY, "missing"),
        (add_file, lib.INTEGRITY, "not in the manifest"),
        (link, lib.INTEGRITY, "no links"),
        (manifest_with(schema_version="2.0"), lib.INCOMPATIBLE, "schema_version is 2.0"),
        (manifest_with(surprise=1), lib.INTEGRITY, "surprise"),
        (huge_sizes, lib.INTEGRITY, "n_layers"),
        (parent_path, lib.INTEGRITY, "plain path"),
        (shutil.rmtree, lib.USAGE, "no such bundle"),
    ],
)
def test_hostile_bundles(library, bundle_copy, damage, status, word):
    damage(bundle_copy)
    refused(library, bundle_copy, status, word)


def test_a_graph_that_is_none(library, bundle_copy):
    """Behind the digests, which the caller switched off."""
    (bundle_copy / "onnx/vision.onnx").write_bytes(b"no graph")
    refused(library, bundle_copy, lib.INTEGRITY, "not an ONNX graph", skip_verification=1)


def test_graphs_of_another_contract(library, bundle_copy):
    shutil.copy(bundle_copy / "onnx/language.onnx", bundle_copy / "onnx/vision.onnx")
    refused(library, bundle_copy, lib.INCOMPATIBLE, "input frames is missing", "logits is unknown", skip_verification=1)


def test_states_that_are_none_leave_the_session_as_it_was(session, tmp_path):
    session.watch(FRAME)
    good = session.save_to_bytes()
    for data, status in (
        (good[:-1], lib.INTEGRITY),
        (good[:20], lib.INTEGRITY),
        (b"\xff" * 100, lib.INTEGRITY),
        (good.replace(b'"format_version":"2"', b'"format_version":"9"'), lib.INCOMPATIBLE),
        (good.replace(session.info["fingerprint"].encode(), b"0" * 64), lib.INCOMPATIBLE),
        (good[:-4] + b"\0\0\xc0\x7f", lib.INTEGRITY),
    ):
        with pytest.raises(LibraryError) as error:
            session.load_from_bytes(data)
        assert error.value.status == status, str(error.value)
        assert session.save_to_bytes() == good
    with pytest.raises(LibraryError) as error:
        session.load(tmp_path / "nothing.aurstate")
    assert error.value.status == lib.USAGE
    with pytest.raises(LibraryError) as error:
        session.save(tmp_path / "nowhere" / "x.aurstate")
    assert error.value.status == lib.USAGE
    n_bytes = c.c_size_t(10)
    buffer = c.create_string_buffer(10)
    assert session.library.aurora_session_save_to(session.handle, buffer, c.byref(n_bytes)) == lib.USAGE
