"""aurora-export ask: questions about a state, each apart from the others."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurora_export.cli.answers import all_questions, answer_object, print_answer
from aurora_export.cli.options import PATH, Time, check_max_tokens, engine_options, sampling_options, time_text
from aurora_export.cli.program import Subcommand

if TYPE_CHECKING:
    from aurora_export.runtime.session import Aurora

_log = logging.getLogger(__name__)


@click.command("ask", cls=Subcommand)
@click.argument("bundle", type=PATH)
@click.argument("state", type=PATH, metavar="FILE")
@click.argument("questions", nargs=-1, metavar="[QUESTION]...")
@click.option("--questions", "question_file", type=PATH, metavar="FILE", help="More questions, one a line; - is stdin.")
@click.option("--at", type=Time(), metavar="TIME", help="Ask what was known then, by the checkpoints of the state.")
@sampling_options
@engine_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, also for a single question.")
def ask_command(
    *,
    bundle: Path,
    state: Path,
    questions: tuple[str, ...],
    question_file: Path | None,
    at: float | None,
    max_tokens: int,
    threads: int | None,
    device: str,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Ask about what FILE has seen, a state made by `ingest`. FILE is not changed.

    One question: the answer goes to stdout as it is made. Several: one JSON object a line, and no question knows of
    another one.
    """
    from aurora_export.runtime.session import Aurora
    from aurora_export.sampling import SamplingOptions

    check_max_tokens(max_tokens)
    asked = all_questions(questions, question_file)
    how: dict[str, Any] = {"options": SamplingOptions(**sampling), "max_tokens": max_tokens}
    path = state if at is None else state_at(state, at)
    with Aurora.open(bundle, device=device, threads=threads) as aurora:
        aurora.load(path)
        if at is not None:
            _log.info("as of %s", time_text(aurora.header.position_s))
        if len(asked) == 1 and not as_json:
            print_answer(aurora, asked[0], **how)
            return
        for question in asked:
            found = answer_object(aurora.fork(), question, **how) | _where(aurora)
            click.echo(json.dumps(found, ensure_ascii=False))


def state_at(state: Path, time_s: float) -> Path:
    """The file that holds what was known at a time: the state itself, or the last checkpoint before.

    Raises UsageError if there is none.
    """
    from aurora_export.runtime.state import read_state_header
    from aurora_export.runtime.timeline import Timeline

    position_s = read_state_header(state).header.position_s
    if position_s is not None and position_s <= time_s:
        return state
    return Timeline.beside(state).at(time_s).path


def _where(aurora: Aurora) -> dict[str, Any]:
    """Up to where the video was known."""
    return {"position_s": aurora.header.position_s, "frames_seen": aurora.header.frames_seen}
