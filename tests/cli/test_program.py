from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from aurora_export import __version__
from aurora_export.cli import main
from aurora_export.cli.program import Program, Subcommand
from aurora_export.errors import AccuracyError, DependencyError, IntegrityError, ResourceError


@pytest.fixture
def failing():
    """A program whose one command raises what it is given."""

    def run(error: BaseException, *args: str):
        program = Program("aurora-export")
        program.add_command(Subcommand("fail", callback=lambda: (_ for _ in ()).throw(error)))
        return CliRunner().invoke(program, ["fail", *args])

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (IntegrityError("it is broken", hint="mend it"), 4),
        (AccuracyError("it is off", hint="mend it"), 5),
        (ResourceError("it is full", hint="mend it"), 6),
        (DependencyError("it is not there", hint="mend it"), 7),
    ],
)
def test_errors_become_a_line_a_hint_and_a_code(error, code, failing):
    result = failing(error)
    assert result.exit_code == code
    assert result.stderr == f"error: {error.message}\n\nhint: mend it\n"
    assert result.stdout == ""


def test_an_error_without_a_hint(failing):
    assert failing(IntegrityError("it is broken")).stderr == "error: it is broken\n"


def test_out_of_memory(failing):
    result = failing(MemoryError())
    assert (result.exit_code, result.stderr.splitlines()[0]) == (6, "error: out of memory")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_interrupted(error, failing):
    result = failing(error)
    assert (result.exit_code, result.stderr.strip()) == (130, "interrupted")


def test_a_bug_keeps_its_traceback(failing):
    result = failing(ZeroDivisionError("a bug"))
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["frobnicate"], "no such command 'frobnicate'"),
        (["run", "--frames", "3"], "no such option '--frames'"),
        (["run", "b", "v"], "missing option '--prompt'"),
        (["run", "b"], "missing argument 'VIDEO'"),
        (["run", "b", "v", "--prompt", "x", "--fps", "fast"], "invalid value for '--fps': 'fast' is not a valid float"),
        (["build", "c", "--out", "o", "--precision", "int3"], "invalid value for '--precision': 'int3' is not one of"),
        (["info", "b", "more"], "got unexpected extra argument (more)"),
    ],
)
def test_usage_errors(args, message, refused):
    found, code = refused(*args)
    assert found.startswith(message)
    assert code == 2


def test_no_command_shows_the_help(invoke):
    result = invoke()
    assert result.exit_code == 2
    assert "Commands:" in result.stderr


def test_version(invoke):
    result = invoke("--version")
    assert (result.stdout, result.exit_code) == (f"{__version__}\n", 0)


def test_every_command_has_help_and_verbosity(invoke):
    running = {"run", "ingest", "ask", "chat", "batch", "bench"}
    expected = {"build", "calibrate", "sensitivity", "measure", "check", "info", "doctor", *running}
    assert set(main.commands) == expected
    for name, command in main.commands.items():
        result = invoke(name, "--help")
        assert result.exit_code == 0
        assert "--quiet" in result.stdout
        assert all(option.help for option in command.params if isinstance(option, click.Option)), name


SCRIPT = Path(sys.executable).with_name("aurora-export")


@pytest.mark.parametrize("program", [[SCRIPT], [sys.executable, "-m", "aurora_export"]], ids=["script", "module"])
def test_both_ways_to_start(program):
    process = subprocess.run([*program, "info", "/nothing"], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr.startswith("error: /nothing: no such bundle\n\nhint: ")


def test_a_reader_that_goes_away(bundle):
    """`aurora-export info | head -1` ends without a traceback."""
    command = f"{sys.executable} -m aurora_export info {bundle} --json | head -c 1"
    process = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert process.stdout == "{"
    assert process.stderr == ""
