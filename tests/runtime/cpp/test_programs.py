"""aurora-run and the smallest example, as their users run them; and an application that finds the installed library."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from aurora_library import INTEGRITY, USAGE


def run(program, *arguments, **options):
    return subprocess.run([program, *map(str, arguments)], capture_output=True, check=False, timeout=60, **options)


@pytest.fixture
def aurora_run(build, library):
    return build / "examples/aurora-run"


def test_raw_frames_on_stdin(aurora_run, testbed_bundle, aurora, clip_frames):
    frames = clip_frames("two_shapes.mp4")
    height, width = frames[0].shape[:2]
    question = "What is the colour of the square?"
    found = run(
        aurora_run, testbed_bundle, "-", "--raw-size", f"{width}x{height}", "--prompt", question,
        input=b"".join(frame.tobytes() for frame in frames),
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    aurora.watch(frames, prompt=question)
    assert found.stdout.decode().strip() == "".join(aurora.ask(question)).strip() == "red"
    assert json.loads(found.stderr)["frames_seen"] == len(frames)


def test_a_video_file_or_how_to_pipe_it(aurora_run, testbed_bundle, root):
    clip = root / "testbed/clips/two_shapes.mp4"
    found = run(aurora_run, testbed_bundle, clip, "--fps", "8", "--prompt", "What is the colour of the square?")
    if b"without FFmpeg" in found.stderr:
        assert found.returncode == USAGE
        assert b"ffmpeg -i" in found.stderr
    else:
        assert found.stdout.decode().strip() == "red", found.stderr


def test_a_saved_state(aurora_run, testbed_bundle, aurora, clip_frames, tmp_path):
    aurora.watch(clip_frames("two_shapes.mp4"))
    aurora.save(tmp_path / "seen.aurstate")
    saved = tmp_path / "after.aurstate"
    found = run(
        aurora_run, testbed_bundle, tmp_path / "seen.aurstate", "--prompt", "How many objects appear?", "--save", saved
    )
    assert found.stdout.decode() == "".join(aurora.ask("How many objects appear?")) + "\n"
    aurora.load(saved)
    assert aurora.phase == "answered"


def test_bench(aurora_run, testbed_bundle):
    found = json.loads(run(aurora_run, testbed_bundle, "--bench", "--bench-tokens", 8, "--threads", 1).stdout)
    assert found["n_tokens"] == 8
    assert min(found["frame_ms"], found["frame_together_ms"], found["token_ms"]) > 0


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        ((), USAGE, "BUNDLE and VIDEO expected"),
        (("x", "-"), USAGE, "--prompt is missing"),
        (("x", "-", "--prompt", "a", "--fast"), USAGE, "unknown option --fast"),
        (("x", "--bench", "--threads", "many"), USAGE, "whole number"),
        (("/no/bundle", "-", "--prompt", "a"), USAGE, "no such bundle"),
        (("{bundle}", "-", "--prompt", "a"), USAGE, "--raw-size"),
        (("{bundle}", "{bundle}/manifest.json", "--prompt", "a"), (USAGE, INTEGRITY), "manifest.json"),
    ],
)
def test_what_aurora_run_refuses(aurora_run, testbed_bundle, arguments, code, word):
    found = run(
        aurora_run, *(argument.format(bundle=testbed_bundle) for argument in arguments), stdin=subprocess.DEVNULL
    )
    assert found.returncode in (code if isinstance(code, tuple) else (code,))
    assert word in found.stderr.decode()
    assert not found.stdout


def test_the_smallest_example(build, library, testbed_bundle, root):
    found = run(build / "examples/embed_min", testbed_bundle, "What is shown?")
    assert found.returncode == 0
    assert found.stdout.decode().strip()
    assert len((root / "runtime/cpp/examples/embed_min.c").read_text().splitlines()) < 60


@pytest.mark.parametrize("program", ["aurora-run", "embed_min"])
def test_onnxruntime_reports_to_nobody(build, library, testbed_bundle, tmp_path, program):
    """What Microsoft's builds would report they keep in a database in the home folder."""
    arguments = {"aurora-run": ("--bench", "--bench-frames", 0, "--bench-tokens", 1), "embed_min": ("What is shown?",)}
    environment = {"HOME": str(tmp_path), "AURORA_ONNXRUNTIME": os.environ["AURORA_ONNXRUNTIME"]}
    assert run(build / "examples" / program, testbed_bundle, *arguments[program], env=environment).returncode == 0
    assert not list(tmp_path.rglob("*"))


APPLICATION = """
cmake_minimum_required(VERSION 3.24)
project(app LANGUAGES C CXX)
find_package(aurora 0.1 REQUIRED)
add_executable(app app.cpp)
target_compile_features(app PRIVATE cxx_std_17)
target_link_libraries(app PRIVATE aurora::aurora)
"""


def test_an_application_finds_what_was_installed(build, library, testbed_bundle, tmp_path):
    prefix, app = tmp_path / "prefix", tmp_path / "app"
    app.mkdir()
    subprocess.run(["cmake", "--install", build, "--prefix", prefix], check=True, capture_output=True)
    (app / "CMakeLists.txt").write_text(APPLICATION)
    (app / "app.cpp").write_text(
        "#include <aurora.hpp>\n#include <cstdio>\n"
        "int main(int, char** argv) { std::puts(aurora::Model(argv[1]).info().c_str()); }\n"
    )
    for command in (["-S", app, "-B", app / "b", f"-DCMAKE_PREFIX_PATH={prefix}"], ["--build", app / "b"]):
        subprocess.run(["cmake", *command], check=True, capture_output=True)
    assert json.loads(run(app / "b/app", testbed_bundle).stdout)["name"]
    (description,) = prefix.rglob("aurora.pc")
    pkg_config = ["pkg-config", "--cflags", "--libs", description]
    flags = subprocess.check_output(pkg_config, text=True).split()
    subprocess.run(["c++", "-std=c++17", app / "app.cpp", *flags, "-o", app / "plain"], check=True)
    library_path = {"LD_LIBRARY_PATH": str(description.parent.parent), "AURORA_ONNXRUNTIME": "/nowhere"}
    found = run(app / "plain", testbed_bundle, env=library_path)
    assert found.returncode != 0
    assert b"ONNX Runtime cannot be loaded" in found.stderr
