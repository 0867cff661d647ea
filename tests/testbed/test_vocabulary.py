from __future__ import annotations

from pathlib import Path

import pytest

from aurora_export.tokenizer import Tokenizer
from dialogue import answer_ids, make_turns, prefix_ids, question_ids
from network import make_config
from scenes import COLOURS, DIRECTIONS, NUMBERS, PHRASINGS, SHAPES, Question, caption, questions, sample_scene
from vocabulary import FILE_NAME, pieces, vocabulary_size, write_vocabulary

SHIPPED = Path(__file__).resolve().parents[2] / "testbed" / "checkpoint" / FILE_NAME


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocabulary") / FILE_NAME
    write_vocabulary(path)
    return Tokenizer.from_file(path)


def test_shipped_vocabulary_is_the_generated_one(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / FILE_NAME)
    assert SHIPPED.read_bytes() == (tmp_path / FILE_NAME).read_bytes()


def test_pieces_follow_the_rules_of_world(tokenizer: Tokenizer) -> None:
    assert pieces()[:256] == [bytes([value]) for value in range(256)]
    lengths = [len(piece) for piece in pieces()]
    assert lengths == sorted(lengths)
    assert len(set(pieces())) == len(pieces())
    assert vocabulary_size() % 32 == 0
    assert tokenizer.vocabulary_size <= vocabulary_size() == make_config().language.vocabulary_size


def test_any_text_survives_the_round_trip(tokenizer: Tokenizer) -> None:
    scene = sample_scene(1, n_objects=3)
    for text in (caption(scene), "é😀 \x00\n\n 你好", *(q.text for q in questions(scene))):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_word_of_an_answer_is_one_token(tokenizer: Tokenizer) -> None:
    for word in (*COLOURS, *SHAPES, *DIRECTIONS, *NUMBERS):
        assert len(tokenizer.encode(f" {word}")) == 1, word
    assert len(answer_ids("A red circle moves left.")) == 7


def test_questions_are_short_and_have_no_byte_pieces(tokenizer: Tokenizer) -> None:
    for phrasings in PHRASINGS.values():
        for phrasing in phrasings:
            ids = tokenizer.encode(f"User: {phrasing.format(colour='purple', shape='triangle')}\n")
            assert len(ids) <= 13, (phrasing, ids)
            assert min(ids) > 256, (phrasing, ids)


def test_only_answers_are_learned() -> None:
    first, second = (
        Question("colour", "What colour is the circle?", "red"),
        Question("count", "How many objects appear?", "two"),
    )
    turns = make_turns([(0, (first, second)), (1, (second,))])
    start = len(question_ids(first.text, is_first=True))
    red, end = answer_ids("red")
    assert turns.ids[0, start] == red
    assert turns.targets[0, start - 1 : start + 1].tolist() == [red, end]
    # What follows is the next turn, not the end of text.
    following = question_ids(second.text, is_first=False)
    assert tuple(turns.ids[0, start + 1 : start + 1 + len(following)].tolist()) == following
    assert int((turns.targets[0] >= 0).sum()) == 4
    assert int((turns.targets[1] >= 0).sum()) == 2


def test_prefix_holds_the_question_or_the_instruction(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(prefix_ids()) == f"User: {make_config().prompt.instruction}\n"
    assert tokenizer.decode(prefix_ids("How many objects are there?")) == "User: How many objects are there?\n"
