"""Train the whole testbed from nothing and write testbed/checkpoint: about an hour on two free cores.

    python testbed/train.py

Everything follows from fixed seeds, but sums are taken in another order on another machine, so a new training gives
another model, not the same numbers. How the shipped weights were made, and what of this was never run as a whole, is
in README.md. Training of the language model, if stopped, goes on where it was.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run the three stages, each as its own script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("build/testbed_training"), help="what is made on the way, 400 MB"
    )
    parser.add_argument("--out", type=Path, default=HERE / "checkpoint")
    options = parser.parse_args()
    work = str(options.work)
    vision = options.work / "vision.pt"
    if not vision.exists():
        _run("train_vision.py", "--out", str(options.work / "vision_in_training.pt"))
        (options.work / "vision_in_training.pt").rename(vision)
    _run("train_language.py", "--work", work)
    _run("export_checkpoint.py", "--work", work, "--out", str(options.out))


def _run(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, HERE / script, *arguments], check=True)


if __name__ == "__main__":
    main()
