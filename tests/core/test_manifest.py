"""The manifest reader: what it refuses, with the exact words, before any other file is opened."""

from __future__ import annotations

import json
import logging

import pytest

from aurora_export import manifest as m
from aurora_export.contract import graphs
from aurora_export.errors import (
    EXIT_INCOMPATIBLE,
    EXIT_INTEGRITY,
    EXIT_USAGE,
    IncompatibleError,
    IntegrityError,
    UsageError,
)
from handmade_bundle import FILES


@pytest.fixture
def bundle(tmp_path, config):
    """A bundle whose files are not what they say, which the manifest does not look into."""
    root = tmp_path / "made.aurora"
    for relative in [*FILES.values(), "onnx/language.onnx.data"]:
        path = root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(relative.encode())
    m.write_manifest(
        root,
        m.Manifest(
            name="made",
            created="2026-11-23T00:00:00Z",
            source={},
            precision="fp32",
            config=config,
            contract=dict(graphs(config)),
            files=FILES,
            digests=dict(m.digest_files(root)),
            layer_outputs={},
            tools={},
            verification=m.Verification(outputs={}, merge_flips=0, n_frames=0, n_tokens=0),
        ),
    )
    return root


def edit(bundle, change):
    path = bundle / m.MANIFEST_NAME
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refused(bundle, kind=IntegrityError):
    with pytest.raises(kind) as caught:
        m.verify_files(bundle, m.read_manifest(bundle))
    assert caught.value.hint
    return caught.value.message.replace(str(bundle), "B"), caught.value.exit_code


def test_reads_what_it_wrote(bundle):
    manifest = m.read_manifest(bundle)
    seen = {}
    m.verify_files(bundle, manifest, lambda path, n: seen.update({path: n}))
    assert seen == {path: entry.size for path, entry in manifest.digests.items()}
    assert m.resolve(bundle, manifest, "vision") == bundle / "onnx/vision.onnx"


def test_names_of_files_and_folder_do_not_matter(bundle):
    renamed = bundle.rename(bundle.with_name("anything"))
    (renamed / "onnx/vision.onnx").rename(renamed / "onnx/eyes.onnx")

    def rename(content):
        content["files"]["vision"] = "onnx/eyes.onnx"
        content["digests"]["onnx/eyes.onnx"] = content["digests"].pop("onnx/vision.onnx")

    edit(renamed, rename)
    m.verify_files(renamed, m.read_manifest(renamed))


def test_no_bundle(tmp_path):
    assert refused(tmp_path / "none", UsageError) == ("B: no such bundle", EXIT_USAGE)
    assert refused(tmp_path) == ("B: has no manifest.json", EXIT_INTEGRITY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(extra=1), "B/manifest.json: extra: unknown key"),
        (lambda c: c.pop("config"), "B/manifest.json: config: Field required"),
        (lambda c: c["config"]["merge"].pop("sort"), "B/manifest.json: config.merge.sort: Field required"),
        (
            lambda c: c["digests"]["onnx/vision.onnx"].update(size=-1),
            "B/manifest.json: digests.onnx/vision.onnx.size: Input should be greater than or equal to 0",
        ),
        (
            lambda c: c["files"].pop("language"),
            (
                "B/manifest.json: files: roles are vision, language, embeddings, vocabulary, selfcheck; "
                "found embeddings, selfcheck, vision, vocabulary"
            ),
        ),
        (
            lambda c: c["digests"].pop("onnx/vision.onnx"),
            "B/manifest.json: files.vision: onnx/vision.onnx has no digest",
        ),
    ],
)
def test_content_that_is_wrong(bundle, change, message):
    edit(bundle, change)
    assert refused(bundle) == (message, EXIT_INTEGRITY)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../outside", "onnx/../../outside", "C:/windows", "a\\b", "", "./x", "a//b"]
)
@pytest.mark.parametrize("where", ["files", "digests"])
def test_paths_that_could_leave_the_bundle(bundle, path, where):
    def change(content):
        if where == "files":
            content["files"]["vision"] = path
        else:
            content["digests"][path] = content["digests"]["onnx/vision.onnx"]

    edit(bundle, change)
    assert refused(bundle) == (f"B/manifest.json: {path!r} is not a plain path inside the bundle", EXIT_INTEGRITY)


@pytest.mark.parametrize("text", ["", "not json", "[1, 2]", "[" * 100_000])
def test_not_a_manifest(bundle, text):
    (bundle / m.MANIFEST_NAME).write_text(text)
    message, code = refused(bundle)
    assert message.startswith(
        ("B/manifest.json: not valid JSON:", "B/manifest.json: expected a JSON object, found list")
    )
    assert code == EXIT_INTEGRITY


def test_a_key_that_stands_twice(bundle):
    """Two readers could see two things."""
    path = bundle / m.MANIFEST_NAME
    path.write_text(path.read_text().replace('"name":', '"name": "other", "name":', 1))
    assert refused(bundle)[0] == "B/manifest.json: not valid JSON: the key 'name' stands twice"


def test_a_manifest_too_large_to_be_one(bundle):
    with (bundle / m.MANIFEST_NAME).open("r+b") as file:
        file.truncate(m.MAX_MANIFEST_BYTES + 1)
    assert refused(bundle)[0] == "B/manifest.json: 16777217 bytes, over the limit of 16777216"


@pytest.mark.parametrize("version", ["2.0", "0.9", "1", "missing"])
def test_unknown_major_version(bundle, version):
    edit(bundle, lambda c: c.pop("schema_version") if version == "missing" else c.update(schema_version=version))
    message, code = refused(bundle, IncompatibleError)
    assert message == f"B/manifest.json: schema_version is {version}; this version reads 1.x"
    assert code == EXIT_INCOMPATIBLE


def test_newer_minor_version_is_read_with_a_warning(bundle, caplog):
    edit(bundle, lambda c: c.update(schema_version="1.7", novelty={"x": 1}))
    with caplog.at_level(logging.WARNING):
        assert m.read_manifest(bundle).name == "made"
    assert f"schema_version 1.7 is newer than {m.SCHEMA_VERSION}; keys left out: ['novelty']" in caplog.text


def test_flipped_byte(bundle):
    path = bundle / "onnx/language.onnx.data"
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    message, code = refused(bundle)
    assert message.startswith("B/onnx/language.onnx.data: SHA-256 is ")
    assert code == EXIT_INTEGRITY


def test_missing_grown_and_unknown_files(bundle):
    path = bundle / "onnx/vision.onnx"
    content = path.read_bytes()
    path.unlink()
    assert refused(bundle)[0] == "B: onnx/vision.onnx is missing"
    path.write_bytes(content + b"x")
    assert refused(bundle)[0] == "B/onnx/vision.onnx: expected 16 bytes, found 17"
    path.write_bytes(content)
    (bundle / "onnx/more.bin").touch()
    assert refused(bundle)[0] == "B: onnx/more.bin is not in the manifest (1 such files)"


@pytest.mark.parametrize("target", ["file", "folder"])
def test_links_are_refused_even_to_the_right_content(bundle, target):
    path = bundle / ("onnx/vision.onnx" if target == "file" else "onnx")
    moved = path.rename(bundle.parent / "moved")
    path.symlink_to(moved)
    assert (
        refused(bundle)[0]
        == f"{str(path).replace(str(bundle), 'B')}: a bundle holds plain files and folders only, no links"
    )


ENGINES = {
    "tensorrt-rtx": {
        "files": {"vision": "engines/tensorrt-rtx/vision.engine"},
        "builder": {"tensorrt_rtx": "1.7.1.116"},
        "compute_capabilities": ["8.6"],
        "profiles": {"vision": [{"F": [1, 1, 8]}]},
    }
}


def test_engines_are_files_that_need_a_digest(bundle):
    edit(bundle, lambda c: c.update(engines=ENGINES))
    message = "B/manifest.json: engines.tensorrt-rtx.files.vision: engines/tensorrt-rtx/vision.engine has no digest"
    assert refused(bundle)[0] == message
    edit(bundle, lambda c: c["engines"]["tensorrt-rtx"]["files"].update(vision="../vision.engine"))
    assert "'../vision.engine' is not a plain path inside the bundle" in refused(bundle)[0]
    edit(bundle, lambda c: c["engines"]["tensorrt-rtx"].update(secret=1))
    assert refused(bundle)[0] == "B/manifest.json: engines.tensorrt-rtx.secret: unknown key"


def test_a_manifest_of_before_has_no_engines(bundle):
    edit(bundle, lambda c: (c.pop("engines"), c.update(schema_version="1.1")))
    assert m.read_manifest(bundle).engines == {}


def test_a_manifest_is_replaced_whole_or_not_at_all(bundle, monkeypatch):
    before = m.digest_files(bundle), (bundle / m.MANIFEST_NAME).read_bytes()
    manifest = m.read_manifest(bundle)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(m.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        m.write_manifest(bundle, manifest.model_copy(update={"name": "other"}))
    assert (m.digest_files(bundle), (bundle / m.MANIFEST_NAME).read_bytes()) == before


def test_fingerprint_follows_what_a_state_depends_on(bundle):
    manifest = m.read_manifest(bundle)

    def changed(path):
        entry = manifest.digests[path].model_copy(update={"sha256": "0" * 64})
        return manifest.model_copy(update={"digests": {**manifest.digests, path: entry}}).fingerprint

    assert manifest.model_copy(update={"name": "other", "created": "now"}).fingerprint == manifest.fingerprint
    assert changed("selfcheck/selfcheck.safetensors") == manifest.fingerprint
    for path in (
        "onnx/vision.onnx",
        "onnx/language.onnx.data",
        "embeddings/embeddings.npy",
        "tokenizer/vocabulary.txt",
    ):
        assert changed(path) != manifest.fingerprint


def test_fingerprint_of_a_bundle_without_folders(bundle):
    manifest = m.read_manifest(bundle)
    flat = {path.rpartition("/")[2]: entry for path, entry in manifest.digests.items()}
    files = {role: path.rpartition("/")[2] for role, path in manifest.files.items()}
    first = manifest.model_copy(update={"digests": flat, "files": files})
    other = {**flat, "language.onnx.data": flat["language.onnx.data"].model_copy(update={"sha256": "0" * 64})}
    assert first.fingerprint != first.model_copy(update={"digests": other}).fingerprint
