from __future__ import annotations

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from aurora_export.calibration.gate import Loss
from aurora_export.calibration.questions import read_questions
from aurora_export.calibration.report import DATA, PAGE, add_to_bundle, files_of, lines_of, make_report, page_of
from aurora_export.calibration.sensitivity import Row
from aurora_export.calibration.svg import bar_plot, line_plot
from aurora_export.errors import IncompatibleError
from aurora_export.manifest import read_manifest, verify_files
from aurora_export.runtime.opened_bundle import open_bundle
from handmade_bundle import handmade_config, write_bundle
from question_files import with_noise, write_questions


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("report") / "a.aurora")


@pytest.fixture(scope="module")
def opened(bundle):
    return open_bundle(bundle, threads=1)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return read_questions(write_questions(tmp_path_factory.mktemp("questions")))


@pytest.fixture(scope="module")
def report(opened, questions):
    return make_report(with_noise(opened, 0.2), opened, questions, max_drop=0.5)


def test_what_a_report_holds(report, questions):
    content = json.loads(files_of(report)[DATA])
    assert content["questions_digest"] == questions.digest
    assert content["loss"]["n_questions"] == 9
    assert set(content["by_kind"]) == {"which", "how"}
    assert [row["n_tokens"] for row in content["drift"]] == [16, 64, 256, 1024, 4096]
    assert content["verdict"]["holds"]
    text = "\n".join(lines_of(report))
    for expected in ("accuracy 0.0 %", "same next token", "KL of the next token", "after 4096 tokens"):
        assert expected in text


def test_one_video_has_no_error_and_its_report_is_json(opened, tmp_path):
    questions = read_questions(write_questions(tmp_path, n_videos=1, answer=None))
    report = make_report(with_noise(opened, 0.5), opened, questions, max_drop=0.5)
    content = json.loads(files_of(report)[DATA], parse_constant=pytest.fail)
    assert content["drop"] > 0
    assert content["drop_error"] is None
    assert not content["verdict"]["is_decided"]
    assert "nan" not in page_of(report)


def test_the_page_is_whole_and_runs_nothing(report):
    loss = Loss(9, 3, 40, 1, 0.9, 0.01, 0.1, 0.01)
    hostile = replace(
        report,
        name="<script>alert(1)</script>",
        sensitivity=(Row("vision.<b>", "kind", ("x",), loss),),
        kept=("<img src=x>",),
    )
    page = page_of(hostile)
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>" not in page
    assert page.count("<svg") == 2
    ET.fromstring(page.removeprefix("<!doctype html>").replace('<meta charset="utf-8">', ""))


def test_a_report_becomes_part_of_the_bundle(bundle, report, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy.aurora")
    before = read_manifest(copy).fingerprint
    for name in ("first", "second"):
        files = files_of(replace(report, name=name))
        manifest = add_to_bundle(copy, files)
        assert (copy / PAGE).read_bytes() == files[PAGE]
        assert {PAGE, DATA} <= set(manifest.digests)
        verify_files(copy, read_manifest(copy))
    assert read_manifest(copy).fingerprint == before
    assert [path.name for path in tmp_path.iterdir()] == ["copy.aurora"]


def test_other_models_have_no_report(opened, questions, tmp_path):
    other = write_bundle(tmp_path / "b.aurora", handmade_config(language={"ffn_width": 20}))
    with pytest.raises(IncompatibleError, match="different models"):
        make_report(open_bundle(other, threads=1), opened, questions)


def test_measuring_needs_neither_torch_nor_onnx():
    """A device that runs bundles can be where they are measured."""
    program = (
        "import sys, aurora_export.calibration.report; sys.exit(bool({'torch', 'onnx', 'onnx_ir'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_plots_are_svg():
    lines = {"a & b": [(1, 0.0), (10, 1e-3), (100, float("inf"))], "c": [(1, 1.0), (10, 2.0), (100, 3.0)]}
    for plot in (line_plot(lines, x_label="x", y_label="<y>"), bar_plot([("<x>", 0.0), ("y", 3.0)], label="z")):
        assert ET.fromstring(plot).tag.endswith("svg")
    assert bar_plot([("a", 0.0)], label="") != ""
    assert (line_plot({}, x_label="", y_label=""), bar_plot([], label="")) == ("", "")
    assert line_plot({"one": [(5, 2.0)]}, x_label="", y_label="")
