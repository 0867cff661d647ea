"""Build a bundle from the testbed's checkpoint and ask it the questions of the sample clips.

Every command is shown as a user would type it; what it prints comes straight through. Ends with exit code 1 when an
answer is not the expected one.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAM = Path(sys.executable).with_name("aurora-export")


def show(*arguments: str) -> None:
    """Print a command of ours as it would be typed."""
    print(f"\n$ {shlex.join(('aurora-export', *arguments))}", flush=True)


def build(checkpoint: str, bundle: str) -> None:
    """Run `aurora-export build`. Raises CalledProcessError."""
    arguments = ("build", checkpoint, "--out", bundle)
    show(*arguments)
    subprocess.run([PROGRAM, *arguments], check=True)


def ask(bundle: str, clip: str, question: str) -> str:
    """Run `aurora-export run`, pass the answer on piece by piece as it comes, return it. Raises CalledProcessError."""
    arguments = ("run", bundle, clip, "--prompt", question)
    show(*arguments)
    answer = ""
    with subprocess.Popen([PROGRAM, *arguments], stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdout is not None
        while piece := process.stdout.read(1):
            print(piece, end="", flush=True)
            answer += piece
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return answer.strip()


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("build/testbed.aurora"), help="where to build the bundle")
    bundle = str(parser.parse_args().bundle)
    rows = json.loads((HERE / "clips" / "questions.json").read_text(encoding="utf-8"))

    started = time.monotonic()
    try:
        build(shown(HERE / "checkpoint"), bundle)
        n_right = 0
        for row in rows:
            answer = ask(bundle, shown(HERE / "clips" / row["clip"]), row["question"])
            right = answer == row["answer"]
            n_right += right
            print(f"  {'right' if right else 'WRONG'}: expected {row['answer']!r}", flush=True)
    except subprocess.CalledProcessError as error:
        print(f"\nFAIL: the command ended with exit code {error.returncode}", file=sys.stderr)
        return 1
    passed = n_right == len(rows)
    print(
        f"\n{'PASS' if passed else 'FAIL'}: {n_right} of {len(rows)} answers right, {time.monotonic() - started:.0f} s"
    )
    return 0 if passed else 1


def shown(path: Path) -> str:
    """A path as a user at the root of the repository would type it."""
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
