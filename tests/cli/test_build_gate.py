"""The gate of a build, on finished folders; that a build which raises writes nothing is in tests/export."""

from __future__ import annotations

import shutil

import pytest

from aurora_export.cli.build_gate import Gate, GateOptions, _check_yardstick
from aurora_export.errors import AccuracyError, UsageError
from aurora_export.manifest import read_manifest, verify_files
from handmade_bundle import rewrite_manifest, write_bundle
from question_files import write_questions
from workbench_files import write_workbench


class Silent:
    def phase(self, name):
        pass

    def detail(self, text):
        pass


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    questions = write_questions(tmp_path_factory.mktemp("questions"), answer=None)
    return GateOptions(
        out=questions.parent / "x.aurora",
        max_drop=0.5,
        questions=questions,
        against=None,
        scales=None,
        precision="int8",
    )


def test_a_bundle_that_passes_gets_its_report(bundle, bundle_copy, options):
    gate = Gate(options, bundle, Silent())
    manifest = gate(bundle_copy)
    assert manifest == read_manifest(bundle_copy)
    verify_files(bundle_copy, manifest)
    assert "reports/accuracy.html" in manifest.digests
    assert "agreement drops by 0.00" in gate.lines[-1]


def test_a_bundle_that_loses_too_much_is_refused(bundle, options, tmp_path):
    other = write_bundle(tmp_path / "other.aurora", seed=1)
    before = sorted(path for path in other.rglob("*"))
    with pytest.raises(AccuracyError, match="over the limit") as caught:
        Gate(options, bundle, Silent())(other)
    assert caught.value.exit_code == 5
    assert "nothing was written" in caught.value.hint
    assert sorted(path for path in other.rglob("*")) == before


def test_what_to_keep_is_said_as_options(tmp_path):
    """Found by a search, and measured: with these the build passes."""
    bundle, scales, questions = write_workbench(tmp_path, end=0.01)
    options = GateOptions(
        out=tmp_path / "x.aurora", max_drop=0.5, questions=questions, against=bundle, scales=scales, precision="int8"
    )
    other = write_bundle(tmp_path / "other.aurora", seed=1)
    with pytest.raises(AccuracyError) as caught:
        Gate(options, bundle, Silent())(other)
    assert "build with --keep " in caught.value.hint
    assert "Then agreement drops by 0.00 ± 0.00 points" in caught.value.hint


def test_the_yardstick_is_fp32(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "int8.aurora")
    rewrite_manifest(copy, precision="int8")
    with pytest.raises(UsageError, match="is int8; the yardstick is fp32"):
        _check_yardstick(copy, None)
