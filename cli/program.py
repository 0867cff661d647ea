"""The group of commands: options that all share, logging, and the one place where errors become exit codes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from aurora_export import __doc__ as description
from aurora_export import __version__
from aurora_export.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_RESOURCES,
    EXIT_UNEXPECTED,
    EXIT_USAGE,
    AuroraError,
)

PROGRAM_NAME = "aurora-export"
CONTEXT_SETTINGS = {
    "help_option_names": ["-h", "--help"],
    # --num_frames is --num-frames: other tools of this trade disagree on the spelling.
    "token_normalize_func": lambda token: token.replace("_", "-"),
    "max_content_width": 110,
}

_log = logging.getLogger("aurora_export")


class _StderrLines(logging.Handler):
    """What a command has to say, as plain lines; the level in front of what is not normal."""

    def emit(self, record: logging.LogRecord) -> None:
        message = self.format(record)
        # The stderr of this moment: a live display puts lines above itself.
        click.echo(message if record.levelno == logging.INFO else f"{record.levelname.lower()}: {message}", err=True)


def _set_verbosity(context: click.Context, parameter: click.Parameter, is_set: bool) -> None:  # noqa: FBT001 (click's)
    if is_set:
        _log.setLevel(logging.DEBUG if parameter.name == "verbose" else logging.ERROR)


def _verbosity_options() -> list[click.Option]:
    common: dict[str, Any] = {"is_flag": True, "expose_value": False, "callback": _set_verbosity}
    return [
        click.Option(["-v", "--verbose"], help="Say more, on stderr.", **common),
        click.Option(["-q", "--quiet"], help="Say nothing but errors on stderr.", **common),
    ]


class Subcommand(click.Command):
    """A command with -v and -q."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As click.Command."""
        kwargs["context_settings"] = CONTEXT_SETTINGS
        super().__init__(*args, **kwargs)
        self.params += _verbosity_options()


class Program(click.Group):
    """The group; `main` ends the process with the exit code of the error, and lets bugs keep their traceback."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> NoReturn:
        """Run a command line; always raises SystemExit, or the exception of a bug."""
        handler = _StderrLines()
        _log.addHandler(handler)
        _log.setLevel(logging.INFO)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                # An answer may hold any character; a terminal that lacks one is no reason to fail.
                stream.reconfigure(errors="replace")
        try:
            sys.exit(self._exit_code(args))
        finally:
            _log.removeHandler(handler)

    def _exit_code(self, args: Sequence[str] | None) -> int:
        """Run a command line and report what went wrong."""
        try:
            result = super().main(args, prog_name=PROGRAM_NAME, standalone_mode=False)
            sys.stdout.flush()
        except AuroraError as error:
            _report(error.message, error.hint)
            return error.exit_code
        except click.UsageError as error:
            if error.ctx is not None and not isinstance(error, _MISSING_COMMAND):
                _report(_one_line(error), f"{error.ctx.command_path} --help")
            else:
                click.echo(error.format_message(), err=True)
            return EXIT_USAGE
        except click.ClickException as error:
            _report(error.format_message(), None)
            return EXIT_USAGE
        except (click.Abort, KeyboardInterrupt):
            click.echo("interrupted", err=True)
            return EXIT_INTERRUPTED
        except MemoryError:
            _report("out of memory", "close other programs, or use a smaller model")
            return EXIT_RESOURCES
        except BrokenPipeError:
            # Who read our output has gone (`| head`). Nothing is left to say, and exit must not try to flush.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_UNEXPECTED
        return result if isinstance(result, int) else EXIT_OK


_MISSING_COMMAND = click.exceptions.NoArgsIsHelpError


def _one_line(error: click.UsageError) -> str:
    """Click's message as a line like ours: lower case, no full stop."""
    message = " ".join(error.format_message().split()).removesuffix(".")
    return message[:1].lower() + message[1:]


def _show_version(context: click.Context, _: click.Parameter, is_set: bool) -> None:  # noqa: FBT001 (click's)
    if is_set:
        click.echo(__version__)
        context.exit()


def _report(message: str, hint: str | None) -> None:
    click.echo(f"error: {message}" + (f"\n\nhint: {hint}" if hint else ""), err=True)


program = Program(
    name=PROGRAM_NAME,
    help=description,
    context_settings=CONTEXT_SETTINGS,
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            help="Show the version and exit.",
            callback=_show_version,
        ),
        *_verbosity_options(),
    ],
)
