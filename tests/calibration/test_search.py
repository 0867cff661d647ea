from __future__ import annotations

import pytest

from aurora_export.calibration.evaluations import Evaluations
from aurora_export.calibration.gate import Loss
from aurora_export.calibration.search import most_evaluations, search
from aurora_export.calibration.sensitivity import Row, parts_of, ranked_groups, table_text
from aurora_export.calibration.variants import kind_of, layer_of
from aurora_export.errors import AccuracyError, IntegrityError, UsageError

GROUPS = (*(f"vision.{i}.{part}" for i in range(3) for part in ("qkv", "mlp")), "projector", "language.head")


def loss(drop=0.0, kl=0.0):
    return Loss(1000, 200, 4000, 10, 0.99, 0.001, kl, 0.001, 0.9 - drop / 100, 0.9, 0.001, 0, 0)


def evaluator(bad):
    """Each quantized group of `bad` costs a point."""
    calls = []

    def evaluate(quantized, _name):
        calls.append(tuple(quantized))
        return loss(drop=len(set(quantized) & set(bad)))

    evaluate.calls = calls
    return evaluate


@pytest.mark.parametrize("n_bad", range(len(GROUPS) + 1))
def test_as_few_as_hold_the_gate_are_kept(n_bad):
    evaluate = evaluator(GROUPS[:n_bad])
    found = search(GROUPS, evaluate, max_drop=0.5)
    assert found.kept == GROUPS[:n_bad]
    assert found.verdict.holds
    assert found.n_evaluations == len(evaluate.calls) <= most_evaluations(len(GROUPS)) == 5
    assert evaluate.calls == search_again(n_bad)


def search_again(n_bad):
    evaluate = evaluator(GROUPS[:n_bad])
    search(GROUPS, evaluate, max_drop=0.5)
    return evaluate.calls


def test_a_gate_that_cannot_be_met():
    with pytest.raises(AccuracyError, match=r"with every group in float, accuracy drops by 2\.00"):
        search(GROUPS, lambda _quantized, _name: loss(drop=2), max_drop=0.5)


def test_names_of_layers_and_kinds():
    assert [layer_of(name) for name in ("vision.3.qkv", "language.0.att.r", "language.head", "projector")] == [
        "vision.3",
        "language.0",
        "language.head",
        "projector",
    ]
    assert [kind_of(name) for name in ("vision.3.qkv", "language.10.att.r", "projector")] == [
        "vision.qkv",
        "language.att.r",
        "projector",
    ]


def table():
    kls = {"vision.mlp": 3.0, "vision.qkv": 1.0, "projector": 0.5, "language.head": 0.1, "vision.1": 2.0}
    return [Row(name, by, groups, loss(kl=kls.get(name, 0.2))) for by, name, groups in parts_of(GROUPS)]


def test_every_group_is_in_a_kind_and_parts_stand_once():
    parts = parts_of(GROUPS)
    assert [name for _, name, _ in parts] == [
        "vision.qkv", "vision.mlp", "projector", "language.head", "vision.0", "vision.1", "vision.2"
    ]  # fmt: skip
    assert {group for by, _, groups in parts if by == "kind" for group in groups} == set(GROUPS)


def test_groups_are_ranked_by_kind_and_layer():
    ranked = ranked_groups(GROUPS, table())
    assert ranked[:2] == ["vision.1.mlp", "vision.1.qkv"]
    assert sorted(ranked) == sorted(GROUPS)
    assert "| layer vision.1 | 2.00e+00" in table_text(table())
    assert "-0.00" not in table_text(table())


IDENTITY = {"model": "a", "questions": "b"}


def test_evaluations_survive_and_a_cut_line_is_measured_again(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    first = Evaluations(path, IDENTITY)
    first.add({"b", "a"}, 10, loss(1))
    first.add({"a"}, 10, loss(2))
    path.write_text(path.read_text()[:-20])
    again = Evaluations(path, IDENTITY)
    assert again.get(["a", "b"], 10) == loss(1)
    assert again.get(["a", "b"], 11) is None
    assert again.get(["a"], 10) is None
    again.add({"a"}, 10, loss(2))
    assert Evaluations(path, IDENTITY).get(["a"], 10) == loss(2)
    assert again.n_measured == 1


def test_evaluations_of_something_else_are_refused(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    Evaluations(path, IDENTITY)
    with pytest.raises(UsageError, match="is of another questions"):
        Evaluations(path, {**IDENTITY, "questions": "c"})
    for text in ("", "[]\n", '{"identity": {}}\n{"questions": 1}\n', "\0\n"):
        path.write_text(text)
        with pytest.raises(IntegrityError, match="no file of evaluations"):
            Evaluations(path, IDENTITY)
    with pytest.raises(UsageError, match="cannot be written"):
        Evaluations(tmp_path / "none" / "x", IDENTITY)
