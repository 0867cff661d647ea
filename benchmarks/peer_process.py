"""A program of a benchmark that runs beside us: it waits while others have their turn, and answers in lines of JSON."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

END_S = 60


class PeerProcess:
    """It says its version when it is ready; then each line that it is told has one answer."""

    def __init__(self, command: list[str], log: Path) -> None:
        """Start it; what it says on stderr goes to the log. Raises OSError or ValueError if it cannot run here."""
        # Threads that wait actively would take the cores from those whose turn it is.
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
        self.peak_rss_mib = 0.0
        try:
            self.version = str(self._answer()["version"])
        except ValueError:
            self.close()
            raise

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, line: str) -> dict[str, Any]:
        """Its answer: `seconds`, `peak_rss_mib` and what else it says. Raises ValueError if it has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise ValueError(self._last_words()) from error
        answer = self._answer()
        self.peak_rss_mib = float(answer["peak_rss_mib"])
        return answer

    def run(self, test: str, n_tokens: int) -> float:
        """Seconds of one task."""
        return float(self.ask(f"{test} {n_tokens}")["seconds"])

    def close(self) -> None:
        """End it. Twice is allowed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ValueError(self._last_words())
        return dict(json.loads(line))

    def _last_words(self) -> str:
        """The last line of its log."""
        self._process.wait()
        return (self._log.read_text(errors="replace").strip().splitlines() or ["it ended and said nothing"])[-1]
