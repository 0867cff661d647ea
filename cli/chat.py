"""aurora-export chat: a conversation about a state."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurora_export.cli.answers import print_answer
from aurora_export.cli.options import PATH, check_max_tokens, engine_options, sampling_options, time_text
from aurora_export.cli.program import Subcommand
from aurora_export.errors import AuroraError

if TYPE_CHECKING:
    from aurora_export.runtime.session import Aurora

COMMANDS = {"/reset": "forget the conversation, not the video", "/quit": "end it, as Ctrl-D does"}

_log = logging.getLogger(__name__)


@click.command("chat", cls=Subcommand)
@click.argument("bundle", type=PATH)
@click.argument("state", type=PATH, metavar="FILE")
@click.option("--save", "save_to", type=PATH, metavar="FILE", help="Write video and conversation here in the end.")
@sampling_options
@engine_options
def chat_command(
    *,
    bundle: Path,
    state: Path,
    save_to: Path | None,
    max_tokens: int,
    threads: int | None,
    device: str,
    **sampling: Any,
) -> None:
    """Talk about what FILE has seen: each question knows those before it. FILE is not changed.

    Questions are read from the terminal, or one a line from a pipe; the answers go to stdout. /reset forgets the
    conversation, /quit or the end of the input ends it; Ctrl-C cuts an answer short.
    """
    from aurora_export.runtime.session import Aurora
    from aurora_export.sampling import SamplingOptions

    check_max_tokens(max_tokens)
    how: dict[str, Any] = {"options": SamplingOptions(**sampling), "max_tokens": max_tokens}
    interactive = sys.stdin.isatty()
    with Aurora.open(bundle, device=device, threads=threads) as aurora:
        aurora.load(state)
        start = aurora.state
        if interactive:
            seen = f"{aurora.header.frames_seen} frames, up to {time_text(aurora.header.position_s)}"
            _log.info("%s; %s", seen, ", ".join(f"{command}: {what}" for command, what in COMMANDS.items()))
        try:
            for question in _questions(interactive=interactive):
                if question == "/quit":
                    break
                if question == "/reset":
                    aurora.state = start
                elif interactive:
                    _answer_at_terminal(aurora, question, how)
                else:
                    print_answer(aurora, question, **how)
        finally:
            if save_to is not None and aurora.header.tokens_seen > start.header.tokens_seen:
                aurora.save(save_to)


def _questions(*, interactive: bool) -> Iterator[str]:
    """Lines that are not blank, without a prompt where no one is there to see it."""
    while True:
        if interactive:
            click.echo("> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            if interactive:
                click.echo(err=True)
            return
        if line.strip():
            yield line.strip()


def _answer_at_terminal(aurora: Aurora, question: str, how: dict[str, Any]) -> None:
    """Answer; Ctrl-C ends the answer and not the conversation, and a bad question is said."""
    try:
        print_answer(aurora, question, **how)
    except KeyboardInterrupt:
        _log.info("cut short")
    except AuroraError as error:
        _log.error(error.message)
