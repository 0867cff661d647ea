"""Help texts and the runtime start without the heavy libraries: a bundle runs where torch was never installed."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from aurora_export.cli import main

HEAVY = {"torch", "onnx", "onnxscript", "onnxruntime", "tensorrt", "av", "transformers"}

REPORT = "import json, sys; json.dump(sorted(name for name in sys.modules if '.' not in name), sys.stderr)"
HELP = """
import sys
from aurora_export.cli import main
try:
    main(sys.argv[1:])
except SystemExit as exit:
    assert not exit.code, exit.code
"""


def heavy_modules_after(program: str, *arguments: str) -> set[str]:
    """Run a program in a fresh interpreter; return the heavy libraries that it loaded."""
    command = [sys.executable, "-c", program + "\n" + REPORT, *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    return HEAVY & set(json.loads(process.stderr))


def command_paths(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the words that lead to a command and to everything under it."""
    below = command.commands.items() if isinstance(command, click.Group) else ()
    return [path, *(words for name, sub in below for words in command_paths(sub, (*path, name)))]


@pytest.mark.parametrize("words", command_paths(main), ids=" ".join)
def test_help_starts_lean(words):
    assert heavy_modules_after(HELP, *words, "--help") == set()


def test_version_starts_lean():
    assert heavy_modules_after(HELP, "--version") == set()


@pytest.mark.parametrize("module", ["aurora_export", "aurora_export.runtime.session"])
def test_import_is_lean(module):
    assert heavy_modules_after(f"import {module}") == set()


def test_a_heavy_import_would_be_seen():
    assert heavy_modules_after("import av") == {"av"}
