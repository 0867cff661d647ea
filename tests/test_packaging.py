"""What is built is what is in the tree: sdist → wheel → one name in site-packages, no file lost, none too many."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest

import aurora_export

NAME = f"aurora_export-{aurora_export.__version__}"
COMPILED = {".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp"}


@pytest.fixture(scope="module")
def built(root, tree, tmp_path_factory) -> Path:
    """A folder with the sdist, and the wheel made from that sdist; built from a copy, as `build/` would leak in."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("built")
    for path in tree:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, copy / path)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert process.returncode == 0, process.stdout[-4000:]
    return out


@pytest.fixture(scope="module")
def in_wheel(built) -> set[str]:
    (path,) = built.glob(f"{NAME}-py3-none-*.whl")
    assert not path.name.endswith("-any.whl"), "the operator library is of one platform"
    with zipfile.ZipFile(path) as wheel:
        return set(wheel.namelist())


@pytest.fixture(scope="module")
def in_sdist(built) -> set[str]:
    with tarfile.open(built / f"{NAME}.tar.gz") as sdist:
        return {name.removeprefix(f"{NAME}/") for name in sdist.getnames()}


def packaged(root: Path, tree: list[Path]) -> list[Path]:
    """Return the files of the tree that belong to the package."""
    folders = {path.parent.name for path in root.glob("*/__init__.py")}
    return [
        path
        for path in tree
        if path.parts[0] in folders
        and (path.suffix == ".py" or path.name == "py.typed")
        and path.parts[:2] != ("runtime", "cpp")  # what is there makes a header
    ]


def test_wheel_holds_the_tree_and_nothing_else(root, tree, in_wheel):
    expected = {
        ("aurora_export" / path).as_posix().replace("aurora_export/core/", "aurora_export/")
        for path in packaged(root, tree)
    }
    libraries = {name for name in in_wheel if name.endswith(".so")}
    assert libraries <= {"aurora_export/plugins/cpu/aurora_cpu.so"}
    assert bool(libraries) == bool(shutil.which("c++") or shutil.which("g++"))
    assert {name for name in in_wheel - libraries if ".dist-info/" not in name} == expected


def test_one_name_goes_to_site_packages(in_wheel):
    assert {name.partition("/")[0] for name in in_wheel} == {"aurora_export", f"{NAME}.dist-info"}


def test_licence_travels(in_wheel, in_sdist):
    assert f"{NAME}.dist-info/licenses/LICENSE" in in_wheel
    assert "LICENSE" in in_sdist


def test_sdist_holds_the_compiled_sources_too(root, tree, in_sdist):
    sources = {path for path in tree if path.suffix in COMPILED and path.parts[0] in {"plugins", "runtime"}}
    assert {path.as_posix() for path in [*packaged(root, tree), *sources]} <= in_sdist


def test_sdist_leaves_tests_and_testbed_behind(in_sdist):
    assert not [name for name in in_sdist if name.startswith(("tests/", "testbed/", "build/"))]


def test_every_requirement_is_pinned(root):
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if "==" in line}
    names = (re.match(r"[\w.-]+", line) for line in requires("aurora-export") or [])
    needed = {name[0].lower() for name in names if name}
    assert needed - {"onnxruntime-gpu"} <= pinned
