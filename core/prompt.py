"""The text around the frames: what stands before, between and after them, as token ids.

The chunks are tokenised one by one, never joined first: the tokenizer is greedy, so the newline that ends the
prefix and the one that starts the suffix would become a single token, which ends a turn.
The sandwich follows VisualRWKV's `middle` form, which the paper names (section 3.3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from aurora_export.config import PromptConfig
from aurora_export.errors import UsageError
from aurora_export.tokenizer import END_OF_TEXT, Tokenizer


@dataclass(frozen=True)
class Prompt:
    """Ids in the order in which the language model reads them: prefix, frames with `separator` between, suffix."""

    prefix: tuple[int, ...]
    separator: tuple[int, ...]
    suffix: tuple[int, ...]


def build_prompt(
    config: PromptConfig, tokenizer: Tokenizer, question: str, *, instruction: str | None = None
) -> Prompt:
    """The whole prompt for a question that is known before the first frame.

    instruction: replaces `config.instruction` (sandwich `split`). Raises UsageError for an empty text.
    """
    return Prompt(
        prefix=prefix_ids(config, tokenizer, question, instruction=instruction),
        separator=separator_ids(config, tokenizer),
        suffix=suffix_ids(config, tokenizer, question),
    )


def prefix_ids(
    config: PromptConfig, tokenizer: Tokenizer, question: str | None = None, *, instruction: str | None = None
) -> tuple[int, ...]:
    """Ids before the first frame. `duplicate` wants the question here; None, not known yet, gives the instruction."""
    if config.sandwich == "image_first":
        text = "User: "
    elif config.sandwich == "duplicate" and question is not None:
        text = f"User: {_clean(config, question, 'question')}\n"
    else:
        text = f"User: {_clean(config, config.instruction if instruction is None else instruction, 'instruction')}\n"
    return ((END_OF_TEXT,) if config.bos else ()) + tuple(tokenizer.encode(text))


def separator_ids(config: PromptConfig, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids between two frames; empty for the empty separator."""
    return tuple(tokenizer.encode(config.frame_separator))


def suffix_ids(config: PromptConfig, tokenizer: Tokenizer, question: str) -> tuple[int, ...]:
    """Ids after the last frame: the question and the opening of the answer."""
    return tuple(tokenizer.encode(f"\n{_clean(config, question, 'question')}\n\nAssistant:"))


def turn_ids(config: PromptConfig, tokenizer: Tokenizer, question: str) -> tuple[int, ...]:
    """Ids of a further question after an answer, with no frames between."""
    return tuple(tokenizer.encode(f"\n\nUser: {_clean(config, question, 'question')}\n\nAssistant:"))


def _clean(config: PromptConfig, text: str, what: str) -> str:
    """Text without the newlines that would end a turn (World models separate turns by an empty line)."""
    if not text.strip():
        raise UsageError(f"the {what} is empty", hint="say what you want to know about the video")
    if not config.collapse_newlines:
        return text
    return re.sub(r"\n{2,}", "\n", text.replace("\r\n", "\n")).strip()
