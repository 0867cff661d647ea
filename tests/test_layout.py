"""The rules a reader relies on when moving around the repository."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "core": set(),
    "plugins": {"core"},
    "model": {"core", "plugins"},
    "calibration": {"core", "plugins", "model", "runtime"},
    "runtime": {"core", "plugins"},
    "export": {"core", "plugins", "model", "calibration", "runtime"},
    "cli": {"core", "plugins", "model", "calibration", "runtime", "export"},
}
PACKAGES = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))

NEVER_IMPORTED = {"core": {"torch", "onnx", "onnxscript"}, "runtime": {"torch", "onnx", "onnxscript"}}
ONLY_INSIDE_FUNCTIONS = {"torch", "onnx", "onnxscript", "onnxruntime", "tensorrt", "av"}
STARTS_LEAN = ("core", "runtime", "cli")
CORE_NEEDS = {"numpy", "pydantic", "aurora_export", *sys.stdlib_module_names}

SAYS_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc"}
# A module of such a name hides the library when a file beside it is run as a script.
LIBRARIES = {"av", "click", "numpy", "onnx", "onnxruntime", "onnxscript", "pydantic", "rich", "safetensors", "torch"}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
REASON = "Over the size budget:"
"""A longer file says this, and why, in its first lines; a longer function in its docstring."""

STATES_SHAPES = re.compile(r"shape|[(\[][A-Z](, ?[A-Z0-9]+)*[)\]]|(same as|as in|as) `")
"""A shape such as (B, T, E), or the name of the function that takes the same arguments."""


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Yield the full dotted names; `from a import b` gives `a.b`, and a relative import begins with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def folders_imported(tree: ast.AST) -> set[str]:
    """Return the folders of ours that a module needs."""
    found = set()
    for name in imported_names(tree):
        package, _, rest = name.partition(".")
        if package == "aurora_export":
            head = rest.partition(".")[0]
            found.add(head if head in MAY_IMPORT else "core")
    return found


def imported_at_module_level(tree: ast.Module) -> set[str]:
    """Return the top-level packages that importing this module loads (type-checking blocks load none)."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    guarded = [node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    later = {id(child) for node in (*functions, *guarded) for child in ast.walk(node)}
    now = ast.Module([node for node in ast.walk(tree) if isinstance(node, ast.stmt) and id(node) not in later], [])
    return {
        name.partition(".")[0]
        for node in now.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in imported_names(node)
    }


@pytest.mark.parametrize("folder", PACKAGES)
def test_imports_point_one_way(folder):
    for path in python_files(folder):
        if relative(path) == "core/__main__.py":
            continue  # the one file in core that calls the command line
        extra = folders_imported(parse(path)) - MAY_IMPORT[folder] - {folder}
        assert not extra, f"{relative(path)} imports {sorted(extra)}"


@pytest.mark.parametrize("path", python_files(*PACKAGES), ids=relative)
def test_imports_are_absolute(path):
    assert not [name for name in imported_names(parse(path)) if name.startswith(".")]


@pytest.mark.parametrize("path", python_files(*NEVER_IMPORTED), ids=relative)
def test_core_and_runtime_never_import_the_export_side(path):
    packages = {name.partition(".")[0] for name in imported_names(parse(path))}
    assert not packages & NEVER_IMPORTED[path.relative_to(ROOT).parts[0]]


@pytest.mark.parametrize("path", python_files(*STARTS_LEAN), ids=relative)
def test_heavy_libraries_are_imported_inside_functions(path):
    assert not imported_at_module_level(parse(path)) & ONLY_INSIDE_FUNCTIONS


@pytest.mark.parametrize("path", python_files("core"), ids=relative)
def test_core_needs_numpy_and_pydantic_only(path):
    assert not {name.partition(".")[0] for name in imported_names(parse(path))} - CORE_NEEDS


def test_every_python_folder_has_its_place_in_the_import_order():
    assert set(PACKAGES) <= set(MAY_IMPORT)


def test_nothing_at_the_top_hides_the_installed_package():
    assert not (ROOT / "aurora_export").exists()
    assert not (ROOT / "__init__.py").exists()


@pytest.mark.parametrize("path", python_files(*PACKAGES, "testbed", "gpu_check"), ids=relative)
def test_module_names_say_something_and_hide_no_library(path):
    assert path.stem not in SAYS_NOTHING | LIBRARIES | sys.stdlib_module_names


def test_test_folders_mirror_the_source():
    folders = [path for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.rglob("test_*.py"))]
    assert not [relative(path) for path in folders if not (ROOT / path.name).is_dir()]
    assert not list((ROOT / "tests").rglob("__init__.py")), "importlib mode: tests/ holds no packages"


@pytest.mark.parametrize("path", python_files(*PACKAGES, "testbed", "gpu_check", "tests"), ids=relative)
def test_files_and_functions_are_short_or_say_why_not(path):
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    is_excused = REASON in "\n".join(lines[:15])
    assert len(lines) <= MAX_FILE_LINES or is_excused
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node) or ""
            n_lines = (node.end_lineno or node.lineno) - node.lineno + 1 - len(docstring.splitlines())
            is_excused = REASON in docstring
            assert n_lines <= MAX_FUNCTION_LINES or is_excused, f"{node.name}: {n_lines} lines"


def functions_of_tensors(folder: str) -> Iterator[tuple[str, str]]:
    for path in python_files(folder):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                types = {
                    name for a in node.args.args if a.annotation for name in ast.unparse(a.annotation).split(" | ")
                }
                if "Tensor" in types:
                    yield f"{relative(path)}:{node.name}", ast.get_docstring(node) or ""


@pytest.mark.parametrize("folder", ["model", "plugins"])
def test_public_functions_that_take_tensors_state_the_shapes(folder):
    assert not [name for name, docstring in functions_of_tensors(folder) if not STATES_SHAPES.search(docstring)]
