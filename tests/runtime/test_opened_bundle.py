"""Bundles that are refused, and what is said. The same through the command line: tests/cli/test_run.py."""

from __future__ import annotations

import numpy as np
import pytest

from aurora_export.errors import AuroraError, IntegrityError
from aurora_export.runtime.session import Aurora
from handmade_bundle import FILES, rewrite_manifest


def refusal(bundle, **options) -> AuroraError:
    with pytest.raises(AuroraError) as caught:
        Aurora.open(bundle, threads=1, **options)
    return caught.value


@pytest.mark.parametrize("role", sorted(FILES))
def test_a_flipped_byte(role, bundle_copy):
    path = bundle_copy / FILES[role]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    error = refusal(bundle_copy)
    assert error.message.startswith(f"{path}: SHA-256 is ")
    assert error.exit_code == 4


@pytest.mark.parametrize("role", sorted(FILES))
def test_a_missing_file(role, bundle_copy):
    (bundle_copy / FILES[role]).unlink()
    error = refusal(bundle_copy)
    assert (error.message, error.exit_code) == (f"{bundle_copy}: {FILES[role]} is missing", 4)


def test_digests_are_checked_before_anything_is_opened(bundle_copy, monkeypatch):
    (bundle_copy / FILES["language"]).write_bytes(b"evil")
    monkeypatch.setattr("aurora_export.runtime.engine_onnx.load_library", lambda: pytest.fail("opened"))
    assert refusal(bundle_copy).exit_code == 4


def test_a_linked_file(bundle_copy, tmp_path):
    path = bundle_copy / FILES["vocabulary"]
    path.rename(tmp_path / "elsewhere.txt")
    path.symlink_to(tmp_path / "elsewhere.txt")
    assert refusal(bundle_copy).message == f"{path}: a bundle holds plain files and folders only, no links"


def test_not_verified_if_so_asked(bundle_copy):
    (bundle_copy / "note.txt").write_text("hello")
    assert "note.txt is not in the manifest" in refusal(bundle_copy).message
    Aurora.open(bundle_copy, threads=1, verify=False).close()


def test_no_bundle(tmp_path):
    error = refusal(tmp_path / "nothing.aurora")
    assert (error.message, error.exit_code) == (f"{tmp_path}/nothing.aurora: no such bundle", 2)


def test_embeddings_of_another_size(bundle_copy):
    np.save(bundle_copy / FILES["embeddings"], np.zeros((7, 8), np.float32))
    rewrite_manifest(bundle_copy)
    error = refusal(bundle_copy)
    assert isinstance(error, IntegrityError)
    assert error.message.endswith("float32 (7, 8), expected float32 (260, 8) by the manifest")


def test_embeddings_that_are_a_pickle(bundle_copy):
    np.save(bundle_copy / FILES["embeddings"], np.array([{"a": 1}], dtype=object), allow_pickle=True)
    rewrite_manifest(bundle_copy)
    assert "not a numpy array" in refusal(bundle_copy).message


def test_a_vocabulary_that_is_larger_than_the_model(bundle_copy):
    with (bundle_copy / FILES["vocabulary"]).open("a") as file:
        file.write("300 'abc' 3\n")
    rewrite_manifest(bundle_copy)
    assert "the vocabulary has ids up to 300; the model has 260 rows" in refusal(bundle_copy).message


def test_another_contract(bundle_copy):
    with Aurora.open(bundle_copy, threads=1) as aurora:
        contract = dict(aurora.manifest.contract)
    contract["vision"] = contract["language"]
    rewrite_manifest(bundle_copy, contract=contract)
    error = refusal(bundle_copy)
    assert error.message == f"{bundle_copy}: the contract of the vision is not that of this version"
    assert error.exit_code == 3


def test_progress_of_verification(bundle):
    read = {}

    def progress(path, n_bytes):
        read[path] = read.get(path, 0) + n_bytes

    with Aurora.open(bundle, threads=1, progress=progress) as aurora:
        digests = aurora.manifest.digests
    assert {path: read.get(path, 0) for path in digests} == {path: entry.size for path, entry in digests.items()}
