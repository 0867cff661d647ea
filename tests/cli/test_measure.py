from __future__ import annotations

import json
import shutil

import pytest

from handmade_bundle import handmade_config, write_bundle
from question_files import write_questions


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return write_questions(tmp_path_factory.mktemp("questions"), answer=None)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another model of the same sizes: it answers otherwise."""
    return write_bundle(tmp_path_factory.mktemp("other") / "other.aurora", seed=1)


def test_a_bundle_against_itself_passes(invoke, bundle, questions):
    result = invoke("measure", bundle, "--against", bundle, "--questions", questions, "--max-drop", 0.5)
    assert result.exit_code == 0
    assert result.stdout.endswith("needed\nPASS\n") or result.stdout.endswith("would\nPASS\n")
    assert "agreement drops by 0.00 ± 0.00 points" in result.stdout


def test_another_model_fails_with_the_code_of_accuracy(invoke, bundle, other, questions):
    result = invoke("measure", other, "--against", bundle, "--questions", questions, "--max-drop", 0.5)
    assert result.exit_code == 5
    assert result.stdout.endswith("FAIL\n")
    assert "over the limit of 0.5" in result.stdout


def test_json_and_the_report(invoke, bundle, other, questions, tmp_path):
    copy = shutil.copytree(other, tmp_path / "copy.aurora")
    result = invoke("measure", copy, "--against", bundle, "--questions", questions, "--json", "--report")
    content = json.loads(result.stdout)
    assert result.exit_code == 0  # no gate was asked for
    assert content["drop"] > 10
    assert content["loss"]["accuracy"] is None
    assert json.loads((copy / "reports/accuracy.json").read_text()) == content
    assert "reports/accuracy.html" in invoke("info", copy).stdout
    assert invoke("check", copy).exit_code == 0


def test_refused(refused, bundle, questions, tmp_path):
    """Each with its reason and code, before anything is opened."""
    measure = ("measure", bundle, "--against", bundle)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    assert refused(*measure, "--questions", empty) == (f"{empty}: has no questions", 2)
    message, code = refused(*measure, "--questions", questions, "--max-drop", -1)
    assert (message, code) == ("--max-drop is -1; points are from 0 to 100", 2)
    message, code = refused(*measure, "--questions", questions, "--max-drop", "nan")
    assert code == 2
    wider = write_bundle(tmp_path / "wider.aurora", handmade_config(language={"ffn_width": 20}))
    message, code = refused("measure", wider, "--against", bundle, "--questions", questions)
    assert "different models: language differ" in message
    assert code == 3
    (tmp_path / "none.aurora").mkdir()
    message, code = refused("measure", tmp_path / "none.aurora", "--against", bundle, "--questions", questions)
    assert code == 4


def test_a_build_checks_its_gate_first(refused, questions, tmp_path):
    build = ("build", tmp_path / "checkpoint", "--out", tmp_path / "x.aurora")
    cases = {
        ("--questions", questions): "--questions is for --max-drop",
        ("--against", tmp_path): "--against is for --max-drop",
        ("--max-drop", 0.5, "--precision", "int8"): "--max-drop needs questions",
        ("--max-drop", 0.5, "--questions", questions): "--max-drop compares with fp32, and that is what is built",
        ("--max-drop", 200, "--questions", questions): "--max-drop is 200; points are from 0 to 100",
        ("--max-drop", 1, "--precision", "int8", "--questions", tmp_path / "q"): f"{tmp_path / 'q'}: no such file",
    }
    for options, message in cases.items():
        assert refused(*build, *options) == (message, 2)
