"""Ends an answer at a stop text, none of which ever reaches the output, however the pieces cut it."""

from __future__ import annotations

from collections.abc import Iterable

from aurora_export.errors import UsageError


class StopTexts:
    """A filter over pieces of text; holds back what could still become a stop text, and nothing else."""

    def __init__(self, texts: Iterable[str]) -> None:
        """texts: any number; the one that starts first in the text wins. Raises UsageError for an empty one."""
        self._texts = tuple(texts)
        if not all(self._texts):
            raise UsageError("a stop text is empty", hint="leave it out: an answer also ends without stop texts")
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """The text that may be shown now, and whether the answer ends here."""
        text = self._held + piece
        found = [text.index(stop) for stop in self._texts if stop in text]
        if found:
            self._held = ""
            return text[: min(found)], True
        n_held = max((self._overlap(text, stop) for stop in self._texts), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held], False

    def flush(self) -> str:
        """What was held back when the answer ended otherwise."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Length of the longest end of the text that the stop text begins with."""
        longest = min(len(text), len(stop) - 1)
        return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
