from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aurora_export.cli.build import _overrides
from aurora_export.errors import UsageError
from aurora_export.manifest import read_manifest
from tiny import LAYOUTS, tiny_config, tiny_weights, write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    config = tiny_config(6)
    layout = next(layout for layout, version in LAYOUTS if version == 6)
    folder = tmp_path_factory.mktemp("checkpoint")
    source = write_checkpoint(folder, config, tiny_weights(config), layout=layout)
    assert source.path is not None
    return source.path


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "aurora_export", *(str(arg) for arg in args)]


def test_build_run_and_check(checkpoint, clip, tmp_path, invoke):
    """The whole way, once: a checkpoint becomes a bundle that answers and passes every check."""
    out = tmp_path / "tiny.aurora"
    result = invoke("build", checkpoint, "--out", out, "--token_kept_ratio", 0.5, "--set", "prompt.bos=true")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{out}: ")
    assert lines[1].startswith("  tokens per frame: ")
    assert "asked 0.5" in lines[1]
    assert lines[-1] == "PASS"
    phases = [line.rpartition(": ")[0] for line in result.stderr.splitlines()]
    for phase in ("read the checkpoint", "export vision", "export language", "verify against the reference"):
        assert phase in phases
    manifest = read_manifest(out)
    assert (manifest.config.merge.kept_ratio, manifest.config.prompt.bos) == (0.5, True)
    assert os.listdir(tmp_path) == ["tiny.aurora"]

    answer = invoke("run", out, clip, "--prompt", "What moves?", "--max-tokens", 5, "--json")
    assert json.loads(answer.stdout)["n_frames"] == 3
    checked = invoke("check", out, "--reference", checkpoint)
    assert checked.stdout.splitlines()[-1] == "PASS"
    assert "reference:" in checked.stdout


@pytest.mark.parametrize("name", ["a file", "a folder with files"])
def test_what_is_no_bundle_is_not_overwritten(name, checkpoint, tmp_path, refused):
    out = tmp_path / "thing"
    if name == "a file":
        out.write_text("precious")
    else:
        out.mkdir()
        (out / "precious.txt").write_text("precious")
    message, code = refused("build", checkpoint, "--out", out)
    assert message == f"{out}: exists and is not a bundle; it is not overwritten"
    assert code == 2


def test_interrupted(checkpoint, bundle_copy):
    """Ctrl-C in mid-build: code 130, the old bundle as it was, no half bundle beside it."""
    before = {path: path.read_bytes() for path in bundle_copy.rglob("*") if path.is_file()}
    with subprocess.Popen(
        command("build", checkpoint, "--out", bundle_copy), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        assert any(line.startswith("read the checkpoint: ") for line in process.stderr)
        process.send_signal(signal.SIGINT)
        stderr = process.stderr.read()
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1] == "interrupted"
    assert "Traceback" not in stderr
    assert {path: path.read_bytes() for path in bundle_copy.rglob("*") if path.is_file()} == before
    assert list(bundle_copy.parent.iterdir()) == [bundle_copy]


def test_no_checkpoint(tmp_path, refused):
    assert refused("build", "--out", tmp_path / "b.aurora") == ("no checkpoint", 2)
    assert refused("build", "--out", tmp_path / "b.aurora", "--language", "x.pth") == ("no checkpoint", 2)
    message, code = refused("build", tmp_path / "nothing", "--out", tmp_path / "b.aurora")
    assert str(tmp_path / "nothing") in message
    assert code == 2
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], {}),
        (["merge.order=descending"], {"merge": {"order": "descending"}}),
        (["merge.kept_ratio=0.5", "merge.drop-first=false"], {"merge": {"kept_ratio": 0.5, "drop_first": False}}),
        (["frames.mean=[0.1,0.2,0.3]"], {"frames": {"mean": [0.1, 0.2, 0.3]}}),
        (['prompt.instruction="= is fine"'], {"prompt": {"instruction": "= is fine"}}),
        (["prompt.frame_separator="], {"prompt": {"frame_separator": ""}}),
        (["merge.kept_ratio=0.5", "merge.kept_ratio=0.25"], {"merge": {"kept_ratio": 0.25}}),
    ],
)
def test_settings(settings, expected):
    assert _overrides(tuple(settings), None) == expected


@pytest.mark.parametrize("setting", ["merge", "merge.order", "order=descending", ".order=x", "merge.=x", "=", ""])
def test_settings_that_are_none(setting):
    with pytest.raises(UsageError) as caught:
        _overrides((setting,), None)
    assert caught.value.message == f"--set {setting}: expected SECTION.KEY=VALUE"


def test_ratio_given_twice():
    assert _overrides((), 0.25) == {"merge": {"kept_ratio": 0.25}}
    with pytest.raises(UsageError, match="are the same setting"):
        _overrides(("merge.kept_ratio=0.5",), 0.25)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--profile", "fancy"], "unknown profile 'fancy'"),
        (["--set", "merge.taste=sweet"], "configuration: merge.taste: no such setting"),
        (["--token-kept-ratio", "0"], "configuration: merge.kept_ratio: Input should be greater than 0"),
        (["--token-kept-ratio", "2"], "configuration: merge.kept_ratio: Input should be less than or equal to 1"),
    ],
)
def test_bad_settings(flags, message, checkpoint, tmp_path, refused):
    assert refused("build", checkpoint, "--out", tmp_path / "b.aurora", *flags) == (message, 2)
    assert not (tmp_path / "b.aurora").exists()


def test_without_torch(tmp_path):
    """The command that installs it, before anything is read."""
    program = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ("torch", "onnx") else real(name, *rest)
from aurora_export.cli import main
main(sys.argv[1:])
"""
    arguments = ["build", str(tmp_path), "--out", str(tmp_path / "b.aurora")]
    process = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert process.returncode == 7
    assert process.stderr == (
        "error: build needs torch, onnx, not installed here\n\nhint: pip install 'aurora-export[export,cpu]'\n"
    )
