from __future__ import annotations

import json

import pytest

from aurora_export.manifest import Manifest, Quantization, read_manifest, write_manifest
from aurora_export.runtime.session import Aurora
from aurora_export.runtime.state import StateHeader, read_state_header
from handmade_bundle import FILES


def test_json_is_the_manifest(bundle, invoke):
    result = invoke("info", bundle, "--json")
    assert Manifest.model_validate_json(result.stdout) == read_manifest(bundle)


def test_tables_for_people(bundle, invoke):
    result = invoke("info", bundle)
    manifest = read_manifest(bundle)
    assert result.exit_code == 0
    assert manifest.fingerprint in result.stdout
    assert "9 of 16 patches" in result.stdout
    for path in FILES.values():
        assert manifest.digests[path].sha256 in result.stdout
    assert "uint8 [F, 16, 16, 3]" in result.stdout
    for section in ("vision", "merge", "frames", "projector", "language", "prompt"):
        for key in getattr(manifest.config, section).model_dump():
            assert f"{key} " in result.stdout


def test_what_a_calibration_wrote(bundle_copy, invoke):
    assert "left in float" not in invoke("info", bundle_copy).stdout
    groups = [f"language.{i}.att.r" for i in (0, 1, 2, 4)]
    described = Quantization(
        rest="fp16",
        method="mse, smoothing 0.5",
        groups=(*groups, "language.head", "language.9999999.{0.__class__}"),
        kept=("vision.patch", "vision.1.qkv"),
        error_feedback=True,
        residual_maximum=123.5,
    )
    write_manifest(bundle_copy, read_manifest(bundle_copy).model_copy(update={"quantization": described}))
    shown = {}
    for line in invoke("info", bundle_copy).stdout.splitlines():
        key, _, value = line.strip().partition("  ")
        shown[key] = value.strip()
    assert shown["ranges chosen by"] == "mse, smoothing 0.5"
    assert shown["quantized"] == "language.0-2,4.att.r, language.head, language.9999999.{0.__class__}"
    assert shown["left in float"] == "vision.patch, vision.1.qkv"
    assert shown["all else computes in"] == "fp16"
    assert shown["weights rounded"].startswith("with error feedback")
    assert shown["residual stream on the clips"] == "up to 123.5"
    in_json = json.loads(invoke("info", bundle_copy, "--json").stdout)["quantization"]
    assert Quantization.model_validate(in_json) == described


def test_only_the_manifest_is_read(bundle_copy, invoke):
    (bundle_copy / FILES["language"]).unlink()
    assert invoke("info", bundle_copy).exit_code == 0


def test_refusals(bundle_copy, tmp_path, refused):
    assert refused("info", tmp_path) == (f"{tmp_path}: has no manifest.json", 4)
    (bundle_copy / "manifest.json").write_text(json.dumps({"schema_version": "1.0", "surprise": 1}))
    message, code = refused("info", bundle_copy)
    assert message.startswith(f"{bundle_copy}/manifest.json: ")
    assert code == 4


@pytest.fixture
def state(bundle, clip, tmp_path):
    path = tmp_path / "clip.aurstate"
    with Aurora.open(bundle, threads=1) as aurora:
        aurora.watch(clip, prompt="What [red]moves[/red]?\x1b[2J")
        aurora.save(path)
    return path


def test_a_state_without_its_bundle(state, invoke):
    result = invoke("info", state)
    assert result.exit_code == 0
    assert "3 frames, " in result.stdout
    assert "up to 0:02" in result.stdout
    assert read_state_header(state).header.fingerprint in result.stdout
    assert "What [red]moves[/red]?\\x1b[2J" in result.stdout, "nothing of it is markup, or reaches the terminal"
    assert "\x1b" not in result.stdout + invoke("info", state, "--json").stdout


def test_a_state_as_json(state, invoke):
    found = json.loads(invoke("info", state, "--json").stdout)
    assert found.pop("checkpoints") == []
    assert (found.pop("encoding"), found.pop("n_bytes")) == ("raw", state.stat().st_size)
    assert StateHeader.model_validate(found) == read_state_header(state).header


def test_its_checkpoints_are_listed(bundle, clip, tmp_path, invoke):
    path = tmp_path / "cam.aurstate"
    invoke("ingest", bundle, clip, "--out", path, "--every", "1")
    (tmp_path / "cam.timeline" / "broken.aurstate").write_bytes(b"no state")
    result = invoke("info", path)
    assert [line.split()[0] for line in result.stdout.splitlines() if "0:0" in line][1:] == ["0:01", "0:02"]
    assert "left out of the timeline: " in result.stderr
    assert len(json.loads(invoke("info", path, "--json").stdout)["checkpoints"]) == 2


@pytest.mark.parametrize("data", [b"", b"\x80\x04pickle", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}"])
def test_no_state(data, tmp_path, refused):
    (tmp_path / "x.aurstate").write_bytes(data)
    message, code = refused("info", tmp_path / "x.aurstate")
    assert message.startswith(f"{tmp_path}/x.aurstate: ")
    assert code == 4
