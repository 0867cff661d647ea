"""The sandwich: what stands around the frames in each mode, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aurora_export.config import PROFILES, PromptConfig
from aurora_export.errors import UsageError
from aurora_export.prompt import Prompt, build_prompt, prefix_ids, separator_ids, suffix_ids, turn_ids
from aurora_export.tokenizer import Tokenizer

# One token a byte, and the double newline that the World vocabulary has too.
TOKENIZER = Tokenizer({**{byte + 1: bytes([byte]) for byte in range(256)}, 261: b"\n\n"})


def config(**changes: Any) -> PromptConfig:
    return PromptConfig.model_validate({**PROFILES["released"]["prompt"], **changes})


def texts(prompt: Prompt) -> tuple[str, str, str]:
    return TOKENIZER.decode(prompt.prefix), TOKENIZER.decode(prompt.separator), TOKENIZER.decode(prompt.suffix)


@pytest.mark.parametrize(
    ("sandwich", "prefix"),
    [
        ("duplicate", "User: What moves?\n"),
        ("split", "User: Describe the video in detail.\n"),
        ("image_first", "User: "),
    ],
)
def test_modes(sandwich: str, prefix: str) -> None:
    prompt = build_prompt(config(sandwich=sandwich), TOKENIZER, "What moves?")
    assert texts(prompt) == (prefix, "", "\nWhat moves?\n\nAssistant:")


def test_a_given_instruction_replaces_the_configured_one() -> None:
    prompt = build_prompt(config(sandwich="split"), TOKENIZER, "What moves?", instruction="Watch.")
    assert texts(prompt)[0] == "User: Watch.\n"
    prompt = build_prompt(config(sandwich="duplicate"), TOKENIZER, "What moves?", instruction="Watch.")
    assert texts(prompt)[0] == "User: What moves?\n"


def test_before_the_question_is_known() -> None:
    """A stream is watched under the general instruction; its suffix is then the same as in a known prompt."""
    for sandwich in ("duplicate", "split"):
        settings = config(sandwich=sandwich, instruction="Watch.")
        assert TOKENIZER.decode(prefix_ids(settings, TOKENIZER)) == "User: Watch.\n"
        assert TOKENIZER.decode(prefix_ids(settings, TOKENIZER, instruction="Look.")) == "User: Look.\n"
    settings = config()
    assert suffix_ids(settings, TOKENIZER, "q") == build_prompt(settings, TOKENIZER, "q").suffix


def test_a_further_turn() -> None:
    assert TOKENIZER.decode(turn_ids(config(), TOKENIZER, "And then?")) == "\n\nUser: And then?\n\nAssistant:"


def test_bos_starts_the_sequence_and_nothing_else() -> None:
    without, with_bos = (build_prompt(config(bos=bos), TOKENIZER, "q") for bos in (False, True))
    assert with_bos.prefix == (0, *without.prefix)
    assert with_bos.suffix == without.suffix
    assert 0 not in turn_ids(config(bos=True), TOKENIZER, "q")


@pytest.mark.parametrize(("separator", "ids"), [("", ()), (" ", (33,)), ("\n", (11,))])
def test_separators(separator: str, ids: tuple[int, ...]) -> None:
    assert separator_ids(config(frame_separator=separator), TOKENIZER) == ids


def test_chunks_are_tokenised_apart() -> None:
    """Joined, the prefix's last newline and the suffix's first one would be token 261."""
    prompt = build_prompt(config(), TOKENIZER, "q")
    assert prompt.prefix[-1] == 11
    assert prompt.suffix == (11, ord("q") + 1, 261, *(byte + 1 for byte in b"Assistant:"))


@pytest.mark.parametrize(
    ("question", "collapsed"),
    [
        ("  What\nmoves? \n", "What\nmoves?"),
        ("a\n\n\nb", "a\nb"),
        ("a\r\n\r\nb\r\n", "a\nb"),
        ("\nOnly give the best option.\n\nBest option: (", "Only give the best option.\nBest option: ("),
    ],
)
def test_newlines_are_collapsed_or_left_as_they_are(question: str, collapsed: str) -> None:
    assert texts(build_prompt(config(), TOKENIZER, question)) == (
        f"User: {collapsed}\n",
        "",
        f"\n{collapsed}\n\nAssistant:",
    )
    untouched = build_prompt(config(collapse_newlines=False), TOKENIZER, question)
    assert texts(untouched) == (f"User: {question}\n", "", f"\n{question}\n\nAssistant:")


@pytest.mark.parametrize("collapse_newlines", [True, False])
@pytest.mark.parametrize("question", ["", " \r\n\t"])
def test_an_empty_question_is_refused(question: str, collapse_newlines: bool) -> None:
    settings = config(collapse_newlines=collapse_newlines)
    for make in (build_prompt, suffix_ids, turn_ids, prefix_ids):
        with pytest.raises(UsageError, match=r"^the question is empty$"):
            make(settings, TOKENIZER, question)
    with pytest.raises(UsageError, match=r"^the instruction is empty$"):
        prefix_ids(settings, TOKENIZER, instruction=question)


def test_ids_of_the_world_vocabulary() -> None:
    """The strings of the released prompt, whole."""
    package = pytest.importorskip("rwkv", reason="the rwkv package, which ships the World vocabulary, is not installed")
    world = Tokenizer.from_file(Path(package.__file__).parent / "rwkv_vocab_v20230424.txt")
    prompt = build_prompt(config(), world, "Describe the video in detail.")
    assert prompt.prefix == (24281, 59, 28759, 8605, 102, 22590, 40115, 4596, 45724, 47, 11)
    assert prompt.separator == ()
    assert prompt.suffix[0] == 11
    assert prompt.suffix[-4:] == (261, 5585, 41693, 59)
