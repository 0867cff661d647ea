"""Build a bundle from the testbed's checkpoint and ask it the questions of the sample clips.

Both ways of asking are shown: the command line, with the question known before the first frame; and the Python API,
which watches a clip once and answers every question from that one state. Ends with exit code 1 when an answer is not
the expected one.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from aurora_export.runtime.session import Aurora

HERE = Path(__file__).resolve().parent
PROGRAM = Path(sys.executable).with_name("aurora-export")


def show_command(*arguments: str) -> None:
    """Print a command of ours as it would be typed."""
    print(f"\n$ {shlex.join(('aurora-export', *arguments))}", flush=True)


def path_as_typed(path: Path) -> str:
    """A path as a user in the current folder would type it."""
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else str(path)


def build(checkpoint: str, bundle: str) -> None:
    """Run `aurora-export build`. Raises CalledProcessError."""
    arguments = ("build", checkpoint, "--out", bundle)
    show_command(*arguments)
    subprocess.run([PROGRAM, *arguments], check=True)


def ask_by_command(bundle: str, clip: str, question: str) -> str:
    """Run `aurora-export run`: the answer as it comes, then the times. Returns it. Raises CalledProcessError."""
    arguments = ("run", bundle, clip, "--prompt", question)
    show_command(*arguments)
    answer = b""
    with subprocess.Popen([PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        while piece := os.read(process.stdout.fileno(), 4096):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            answer += piece
        sys.stderr.buffer.write(process.stderr.read())  # apart from the answer, into which it would be mixed
        sys.stderr.buffer.flush()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return answer.decode().strip()


def ask_watched(session: Aurora, question: str) -> str:
    """Ask a fork of a session that has watched a clip; the answer is printed as it comes. Returns it."""
    print(question, end="", flush=True)
    started = time.perf_counter()
    answer = ""
    for piece in session.fork().ask(question):  # the first piece begins with a space
        print(piece, end="", flush=True)
        answer += piece
    print(f"  ({(time.perf_counter() - started) * 1000:.0f} ms)", flush=True)
    return answer.strip()


def judged(answer: str, expected: str) -> bool:
    """Print and return whether an answer is the expected one."""
    print(f"  {'right' if answer == expected else 'WRONG'}, expected: {expected}", flush=True)
    return answer == expected


def answers(bundle: str, rows: list[dict[str, str]]) -> Iterator[bool]:
    """Ask every question: the first of each clip by the command line, all of them in Python. Yields right or not."""
    for name, of_clip in groupby(rows, key=itemgetter("clip")):
        clip, questions = HERE / "clips" / name, list(of_clip)
        first = questions[0]
        yield judged(ask_by_command(bundle, path_as_typed(clip), first["question"]), first["answer"])

        print(f"\n>>> session = Aurora.open({bundle!r}); session.watch({path_as_typed(clip)!r})", flush=True)
        with Aurora.open(bundle) as session:
            report = session.watch(clip)
            times = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in report.seconds.items())
            print(f"{report.n_frames} frames, {report.n_visual_tokens} visual tokens; {times}", flush=True)
            print(">>> session.fork().ask(question)  # for each question, from the same state", flush=True)
            for row in questions:
                yield judged(ask_watched(session, row["question"]), row["answer"])


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="build/testbed.aurora", help="where to build the bundle")
    bundle = parser.parse_args().bundle
    rows = json.loads((HERE / "clips" / "questions.json").read_text(encoding="utf-8"))
    started = time.monotonic()
    try:
        build(path_as_typed(HERE / "checkpoint"), bundle)
        results = list(answers(bundle, rows))
    except subprocess.CalledProcessError as error:
        print(f"\nFAIL: the command ended with exit code {error.returncode}", file=sys.stderr)
        return 1
    verdict = "PASS" if all(results) else "FAIL"
    print(f"\n{verdict}: {sum(results)} of {len(results)} answers right, {time.monotonic() - started:.0f} s in all")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
