"""The command, and what it says to bad input; the pass itself: tests/calibration."""

from __future__ import annotations

import shutil

import pytest

from aurora_export.cli import main
from aurora_export.cli.build_quantization import WITH_SCALES
from aurora_export.cli.calibrate import METHODS
from handmade_video import write_video
from named_bundle import write_named_bundle


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    return write_named_bundle(tmp_path_factory.mktemp("named") / "named.aurora")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for number in range(2):
        write_video(folder / f"{number}.mp4", 3)
    return folder


def test_methods_and_precisions_are_those_of_the_package():
    from aurora_export.calibration import ranges
    from aurora_export.export.quantizer import PRECISIONS

    assert sorted(METHODS) == sorted(ranges.METHODS) and sorted(WITH_SCALES) == sorted(PRECISIONS)
    assert main.get_command(None, "calibrate") is not None


def test_a_scale_file_is_made_and_used_again(invoke, refused, named, clips, tmp_path):
    out = tmp_path / "scales.json"
    shown = ("--num-frames", 2, "--max-tokens", 3)
    first = invoke("calibrate", named, "--data", clips, "--out", out, *shown)
    assert first.exit_code == 0, first.stderr
    assert first.stdout.startswith(f"{out}: 3 tensors, method mse, smoothing auto\n  from 2 clips: 4 frames, ")
    again = invoke("calibrate", named, "--data", clips, "--out", out, *shown)
    assert again.stdout.startswith(f"{out}: 3 tensors, method mse, smoothing auto, as it was\n")
    message, code = refused("calibrate", named, "--data", clips, "--out", out, *shown, "--smooth", "none")
    assert (message, code) == (f"{out}: exists, and its method is 'mse, smoothing auto', not 'mse'", 3)
    message, code = refused("calibrate", named, "--data", clips, "--out", out)
    assert (message, code) == (f"{out}: exists, and is of other clips, or of clips shown otherwise", 3)
    out.write_text(out.read_text().replace('"int8": ', '"int8": -'))
    message, code = refused("calibrate", named, "--data", clips, "--out", out, *shown)
    assert message.startswith(f"{out}: tensors.projector.fc1.int8: Input should be greater than 0") and code == 4


@pytest.mark.parametrize(("smooth", "method"), [("none", "mse"), ("0.25", "mse, smoothing 0.25")])
def test_smoothing_by_choice(invoke, named, clips, tmp_path, smooth, method):
    out = tmp_path / "scales.json"
    options = ("--num-frames", 2, "--max-tokens", 3, "--smooth", smooth)
    done = invoke("calibrate", named, "--data", clips, "--out", out, *options)
    assert done.exit_code == 0 and done.stdout.startswith(f"{out}: 3 tensors, method {method}\n"), done.stderr


def test_bad_data(refused, named, clips, tmp_path):
    out = tmp_path / "scales.json"
    one, broken = tmp_path / "one", tmp_path / "broken"
    for folder in (one, broken):
        folder.mkdir()
        shutil.copyfile(clips / "0.mp4", folder / "0.mp4")
    (broken / "1.mp4").write_bytes(b"not a video")
    for data, expected, code in (
        (tmp_path / "none", "no such file or folder", 2),
        (one, "holds one clip", 2),
        (broken, "1.mp4: ", 4),
    ):
        message, found = refused("calibrate", named, "--data", data, "--out", out)
        assert expected in message and found == code, message
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--percentile", 99), "--percentile is for --method percentile"),
        (("--threads", 0), "--threads is 0"),
        (("--num-frames", 0), "num_frames is 0"),
        (("--smooth", 2), "smoothing is 2"),
        (("--smooth", "some"), "invalid value for '--smooth': 'some' is no number"),
        (("--second-moments", "language.9.*"), "no site is called language.9.*"),
    ],
)
def test_bad_options(refused, named, clips, tmp_path, options, message):
    found, code = refused("calibrate", named, "--data", clips, "--out", tmp_path / "scales.json", *options)
    assert found.startswith(message) and code == 2


def test_a_place_that_is_none(refused, named, clips, tmp_path):
    assert refused("calibrate", named, "--data", clips, "--out", tmp_path)[1] == 2
    assert refused("calibrate", named, "--data", clips, "--out", tmp_path / "no/where.json")[1] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--precision", "fp8"), "--precision fp8 needs --scales"),
        (("--precision", "fp16", "--scales", "s.json"), "--scales has no use at fp16"),
        (("--keep", "language.head"), "--keep has no meaning without --scales"),
        (("--rest", "fp16"), "--rest has no meaning without --scales"),
        (("--error-feedback",), "--error-feedback has no use at fp32"),
        (("--precision", "int4", "--error-feedback"), "--error-feedback needs second moments"),
        (("--precision", "int4", "--moments", "s.json"), "--moments is for --error-feedback"),
        (("--precision", "int8", "--error-feedback", "--moments", "none.json"), "none.json: no such file"),
        (("--precision", "int8", "--scales", "s.json", "--moments", "s.json"), "--moments is for builds without"),
        (("--precision", "int8", "--scales", "none.json"), "none.json: no such file"),
    ],
)
def test_build_options_that_do_not_go_together(refused, root, tmp_path, options, message):
    found, code = refused("build", root / "testbed/checkpoint", "--out", tmp_path / "b.aurora", *options)
    assert found.startswith(message) and code == 2
    assert not list(tmp_path.iterdir())
