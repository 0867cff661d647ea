"""libaurora.a, installed and found as its users find it: the smallest example, linked to it, gives the same answer.

Nothing is compiled again: the archive is made of the objects of `make cpp`, which a static build compiles with the same
flags. That is compared; the slow test makes one in earnest.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

QUESTION = "What is shown?"
APPLICATION = """
cmake_minimum_required(VERSION 3.24)
project(app LANGUAGES C)
find_package(aurora 0.1 REQUIRED)
add_executable(app embed_min.c)
target_link_libraries(app PRIVATE aurora::aurora)
"""


def run(*command: object, **options) -> str:
    found = subprocess.run([*map(str, command)], capture_output=True, check=False, text=True, **options)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def configure(root: Path, folder: Path) -> None:
    run("cmake", "-S", root / "runtime/cpp", "-B", folder, "-DBUILD_SHARED_LIBS=OFF", "-DAURORA_EXAMPLES=OFF")


def with_objects_of(build: Path, folder: Path) -> None:
    """Put libaurora.a into a build folder that has compiled nothing."""
    objects = []
    for target in ("aurora_objects", "aurora_operators"):
        compiled = build / f"CMakeFiles/{target}.dir"
        flags = (folder / f"CMakeFiles/{target}.dir/flags.make").read_text()
        assert flags.replace(str(folder), str(build)) == (compiled / "flags.make").read_text()
        objects += sorted(compiled.rglob("*.o"))
    run("ar", "rcs", folder / "libaurora.a", *objects)


@pytest.fixture(scope="session")
def prefix(root, build, library, tmp_path_factory) -> Path:
    """Where the static library is installed, and no shared one."""
    folder, installed = tmp_path_factory.mktemp("static"), tmp_path_factory.mktemp("installed")
    configure(root, folder)
    with_objects_of(build, folder)
    run("cmake", "--install", folder, "--prefix", installed)
    assert not list(installed.rglob("*.so*"))
    return installed


@pytest.fixture(scope="session")
def answer(build, library, testbed_bundle) -> str:
    """Of the example on the shared library."""
    return run(build / "examples/embed_min", testbed_bundle, QUESTION)


def test_found_by_cmake(prefix, answer, root, testbed_bundle, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(APPLICATION)
    (tmp_path / "embed_min.c").symlink_to(root / "runtime/cpp/examples/embed_min.c")
    run("cmake", "-S", tmp_path, "-B", tmp_path / "b", f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", tmp_path / "b")
    assert "libaurora" not in run("ldd", tmp_path / "b/app")
    assert run(tmp_path / "b/app", testbed_bundle, QUESTION) == answer


def test_found_by_pkg_config(prefix, answer, root, testbed_bundle, tmp_path):
    (folder,) = prefix.rglob("pkgconfig")
    asked = ["pkg-config", "--static", "--cflags", "--libs", "aurora"]
    flags = run(*asked, env={"PKG_CONFIG_PATH": str(folder), "PATH": "/usr/bin:/bin"}).split()
    run("cc", root / "runtime/cpp/examples/embed_min.c", *flags, "-o", tmp_path / "app")
    assert "libaurora" not in run("ldd", tmp_path / "app")
    assert run(tmp_path / "app", testbed_bundle, QUESTION) == answer


@pytest.mark.slow
def test_compiled_as_a_static_library(root, build, tmp_path):
    configure(root, tmp_path)
    run("cmake", "--build", tmp_path, "--parallel", 2)
    made = run("ar", "t", tmp_path / "libaurora.a").split()
    objects = [
        path.name
        for name in ("objects", "operators")
        for path in (build / f"CMakeFiles/aurora_{name}.dir").rglob("*.o")
    ]
    assert sorted(made) == sorted(objects)
