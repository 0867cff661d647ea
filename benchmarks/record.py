r"""Run a command that prints one JSON object, and keep what it printed as a result file.

    python benchmarks/record.py testbed_accuracy -- \
        python testbed/evaluate.py build/testbed.aurora --questions 2000 --json

Writes benchmarks/results/NAME.json: the command, the environment, the object. Nothing is written if the command fails.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import click
from environment import ROOT, write_result


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(name: str, command: tuple[str, ...]) -> None:
    """Run COMMAND and write what it prints to benchmarks/results/NAME.json."""
    program = [sys.executable, *command[1:]] if command[0] == "python" else list(command)
    process = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode:
        raise click.ClickException(f"{shlex.join(command)} ended with exit code {process.returncode}")
    path = write_result(name, shlex.join(command), json.loads(process.stdout))
    click.echo(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
