"""Errors that a user can act on: what was given, what was expected, what to do; and the exit code.

Anything that is not an `AuroraError` is a bug in this project and keeps its traceback (exit code 1).
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_UNEXPECTED = 1
EXIT_USAGE = 2
EXIT_INCOMPATIBLE = 3
EXIT_INTEGRITY = 4
EXIT_ACCURACY = 5
EXIT_RESOURCES = 6
EXIT_DEPENDENCY = 7
EXIT_SOURCE = 8
EXIT_INTERRUPTED = 130


class AuroraError(Exception):
    """A user-facing error: one line that says what is wrong, and a hint that says what to do.

    The command line prints `error: <message>`, an empty line, `hint: <hint>` and exits with
    `exit_code`; nothing else in the project ends the process.
    """

    exit_code = EXIT_UNEXPECTED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(AuroraError):
    """An option or argument is wrong or contradicts another one."""

    exit_code = EXIT_USAGE


class IncompatibleError(AuroraError):
    """The file is whole, but made for another version, model or machine."""

    exit_code = EXIT_INCOMPATIBLE


class IntegrityError(AuroraError):
    """A checkpoint, bundle, state or video is damaged, incomplete or hostile."""

    exit_code = EXIT_INTEGRITY


class AccuracyError(AuroraError):
    """A comparison with the reference is over the limit of its precision."""

    exit_code = EXIT_ACCURACY


class ResourceError(AuroraError):
    """Memory or disk space ran out, or an estimate says that it would."""

    exit_code = EXIT_RESOURCES


class DependencyError(AuroraError):
    """A package or library that this command needs is not installed."""

    exit_code = EXIT_DEPENDENCY


class SourceError(AuroraError):
    """A live source cannot be reached, or was lost and did not come back; what was watched is kept."""

    exit_code = EXIT_SOURCE
