from __future__ import annotations

import json

from aurora_export.manifest import Manifest, read_manifest
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


def test_only_the_manifest_is_read(bundle_copy, invoke):
    (bundle_copy / FILES["language"]).unlink()
    assert invoke("info", bundle_copy).exit_code == 0


def test_refusals(bundle_copy, tmp_path, refused):
    assert refused("info", tmp_path) == (f"{tmp_path}: has no manifest.json", 4)
    (bundle_copy / "manifest.json").write_text(json.dumps({"schema_version": "1.0", "surprise": 1}))
    message, code = refused("info", bundle_copy)
    assert message.startswith(f"{bundle_copy}/manifest.json: ")
    assert code == 4
