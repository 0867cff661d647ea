from __future__ import annotations

import json

import pytest

from workbench_files import write_workbench


@pytest.fixture(scope="module")
def workbench(tmp_path_factory):
    return write_workbench(tmp_path_factory.mktemp("workbench"), end=0.5)


@pytest.fixture(scope="module")
def command(workbench):
    bundle, scales, questions = workbench
    return ("sensitivity", bundle, "--scales", scales, "--questions", questions, "--threads", 1)


def test_a_table_and_what_to_keep(invoke, command, tmp_path):
    result = invoke(*command, "--max-drop", 5, "--out", tmp_path / "kept.json")
    assert result.exit_code == 0
    assert "| language.head | " in result.stdout
    assert "keep in float: " in result.stdout
    kept = json.loads((tmp_path / "kept.json").read_text())["keep"]
    again = invoke(*command, "--max-drop", 5, "--json")
    assert json.loads(again.stdout)["keep"] == kept


@pytest.mark.parametrize("precision", ["fp8", "int4"])
def test_other_recipes(invoke, command, precision):
    result = invoke(*command, "--precision", precision)
    assert result.exit_code == 0
    assert "| projector | " in result.stdout


def test_refused(refused, command, workbench, tmp_path):
    _, scales, questions = workbench
    assert refused(*command, "--sample", 0) == ("--sample is 0; at least 1 question is needed", 2)
    assert refused(*command, "--out", tmp_path / "x") == ("--out is for what a search finds", 2)
    assert refused(*command, "--max-drop", 101)[1] == 2
    empty = tmp_path / "empty"
    empty.touch()
    assert refused(*command[:-4], "--questions", empty) == (f"{empty}: has no questions", 2)
    assert refused("sensitivity", tmp_path, "--scales", scales, "--questions", questions)[1] == 4
    message, code = refused(*command, "--resume", scales)
    assert "no file of evaluations" in message
    assert code == 4
