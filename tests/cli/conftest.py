"""Runs commands in this process, on a bundle written by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aurora_export.cli import main
from handmade_bundle import write_bundle
from handmade_video import write_video


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    """Read-only; `bundle_copy` may be damaged."""
    return write_bundle(tmp_path_factory.mktemp("cli") / "handmade.aurora")


@pytest.fixture
def bundle_copy(bundle, tmp_path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy.aurora"))


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    """2.5 seconds at 10 frames a second."""
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", options={"movflags": "faststart"})


@pytest.fixture
def invoke():
    """A command line in this process; an exception that is no error of ours is raised."""

    def run(*args: object) -> Result:
        return CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)

    return run


@pytest.fixture
def refused(invoke):
    """The error line and the exit code of a command line that must fail, and print nothing."""

    def run(*args: object) -> tuple[str, int]:
        result = invoke(*args)
        assert result.stdout == ""
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, result.stderr
        assert "Traceback" not in result.stderr
        return lines[0].removeprefix("error: "), result.exit_code

    return run
