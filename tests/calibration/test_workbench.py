"""Variants of a bundle, and what the table and the search make of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from aurora_export.calibration.measures import Yardstick
from aurora_export.calibration.recipes import RECIPES
from aurora_export.calibration.search import most_evaluations
from aurora_export.calibration.variants import Variants
from aurora_export.calibration.workbench import Workbench
from aurora_export.cli import main
from aurora_export.errors import IncompatibleError, UsageError
from workbench_files import write_workbench


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder, and the questions in it."""
    folder = tmp_path_factory.mktemp("workbench")
    *_, questions = write_workbench(folder)
    return folder, questions


@pytest.fixture(scope="module")
def bench(files):
    folder, questions = files
    return Workbench.open(folder / "fp32.aurora", folder / "scales.json", questions, "int8", threads=1)


def silent(_text):
    pass


def test_groups_are_those_of_the_recipe_and_not_kept(files, bench):
    folder, questions = files
    assert bench.variants.groups == ("projector", "language.0.ffn.k", "language.head")
    keeping = Workbench.open(
        folder / "fp32.aurora", folder / "scales.json", questions, "int8", keep=("language.*.ffn.*",), threads=1
    )
    assert keeping.variants.groups == ("projector", "language.head")


def test_only_what_is_asked_for_is_quantized(bench):
    opened = bench.opened
    frames = np.random.default_rng(0).integers(0, 256, (1, *opened.vision.spec.inputs[0].shape[1:]), np.uint8)
    with bench.variants.opened(frozenset({"language.head"})) as variant:
        assert variant.vision is opened.vision
        assert variant.language is not opened.language
    with bench.variants.opened(frozenset()) as variant:
        assert (variant.vision, variant.language) == (opened.vision, opened.language)
    with bench.variants.opened(frozenset({"projector"})) as variant:
        expected, actual = (side.vision.run({"frames": frames}) for side in (opened, variant))
        np.testing.assert_array_equal(actual["token_of_patch"], expected["token_of_patch"])
        assert 0 < np.abs(actual["visual_tokens"] - expected["visual_tokens"]).max() < 1


def test_a_table_is_measured_once(bench):
    table = bench.table(2, silent)
    assert sorted(row.name for row in table) == ["language.ffn.k", "language.head", "projector"]
    assert len({row.loss.n_questions for row in table}) == 1
    n_measured = bench.known.n_measured
    assert bench.table(2, silent) == table
    assert bench.known.n_measured == n_measured == len(table)


def test_a_search_is_bounded_and_its_end_was_measured(bench):
    table = bench.table(2, silent)
    everything = bench.search(table, 100, silent)
    assert (everything.kept, everything.n_evaluations) == ((), 1)
    nothing = bench.search(table, 0, silent)
    assert nothing.verdict.loss.drop == 0
    assert nothing.n_evaluations <= most_evaluations(len(bench.variants.groups))
    assert bench.search(table, 0, silent) == nothing


def test_it_goes_on_where_it_was_stopped(files, monkeypatch, tmp_path):
    folder, questions = files
    command = [
        "sensitivity", folder / "fp32.aurora", "--scales", folder / "scales.json", "--questions", questions,
        "--sample", 2, "--max-drop", 100, "--out", tmp_path / "kept.json", "--resume", tmp_path / "known.jsonl",
        "--threads", 1, "--json",
    ]  # fmt: skip
    first = CliRunner().invoke(main, [str(word) for word in command], catch_exceptions=False)
    assert first.exit_code == 0
    content = json.loads(first.stdout)
    assert content["keep"] == []
    assert json.loads((tmp_path / "kept.json").read_text())["keep"] == []

    def fail(*_args, **_kwargs):
        raise AssertionError("measured again")

    monkeypatch.setattr(Yardstick, "measure", fail)
    again = CliRunner().invoke(main, [str(word) for word in command], catch_exceptions=False)
    assert json.loads(again.stdout) == content


def test_scales_of_another_model_and_no_fp32(files, tmp_path):
    folder, questions = files
    other = json.loads((folder / "scales.json").read_text())
    other["graphs"]["vision"] = "1" * 64
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(IncompatibleError, match="is of another model"):
        Workbench.open(folder / "fp32.aurora", tmp_path / "other.json", questions, "int8")
    other = json.loads((folder / "scales.json").read_text())
    other["keep"] = ["*"]
    (tmp_path / "all.json").write_text(json.dumps(other))
    with pytest.raises(UsageError, match="leaves every group in float"):
        Workbench.open(folder / "fp32.aurora", tmp_path / "all.json", questions, "int8")


def test_only_fp32_bundles_are_quantized(bench):
    manifest = bench.opened.manifest.model_copy(update={"precision": "int8"})
    with pytest.raises(UsageError, match="is int8; quantized graphs are made from fp32"):
        Variants.of(replace(bench.opened, manifest=manifest), bench.variants.scales, RECIPES["int8"])
