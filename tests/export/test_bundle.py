from __future__ import annotations

import errno
import json
import shutil
from collections import namedtuple

import numpy as np
import onnx
import pytest

import made_inputs
from aurora_export.errors import AccuracyError, ResourceError, UsageError
from aurora_export.export import bundle as bundle_module
from aurora_export.export.bundle import build_bundle, check_destination
from aurora_export.export.graph_lint import GraphError
from aurora_export.manifest import read_manifest, verify_files
from aurora_export.runtime.opened_bundle import open_bundle

FILES = [
    "embeddings/embeddings.npy",
    "onnx/language.onnx",
    "onnx/language.onnx.data",
    "onnx/vision.onnx",
    "onnx/vision.onnx.data",
    "reports/build.json",
    "selfcheck/selfcheck.safetensors",
    "tokenizer/vocabulary.txt",
]


def test_tests_without_torch_put_the_files_where_a_build_does():
    assert made_inputs.FILES == bundle_module.FILES


class Reporter:
    def __init__(self):
        self.phases, self.details = [], []

    def phase(self, name):
        self.phases.append(name)

    def detail(self, text):
        self.details.append(text)


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def old_bundle(tmp_path):
    """Something that counts as a bundle, and its content."""
    folder = tmp_path / "out" / "model.aurora"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "weights").write_text("old")
    return folder


@pytest.fixture
def untouched(old_bundle):
    """Checks afterwards that the old bundle is as it was and nothing else is beside it."""
    before = snapshot(old_bundle)
    yield old_bundle
    assert snapshot(old_bundle) == before
    assert [path.name for path in old_bundle.parent.iterdir()] == [old_bundle.name]


def test_bundle_is_complete_and_whole(built):
    manifest = read_manifest(built.path)
    assert manifest == built.manifest
    assert sorted(manifest.digests) == FILES
    verify_files(built.path, manifest)
    assert manifest.config == built.model.config
    assert manifest.source == {"layout": "made by a test"}
    assert set(manifest.tools) == {"aurora-export", "python", "torch", "onnx", "onnxscript", "onnxruntime", "numpy"}
    assert [path.name for path in built.path.parent.iterdir() if path.name.startswith(".")] == []


def test_production_reader_opens_it(built):
    opened = open_bundle(built.path)
    table = built.model.language.emb.weight.numpy()
    assert opened.embeddings.dtype == np.float32
    np.testing.assert_array_equal(opened.embeddings, table)
    np.testing.assert_array_equal(opened.embed_ids((3, 1)), table[[3, 1]])


def test_report_has_the_time_of_each_phase(built6):
    report = json.loads((built6.path / "reports/build.json").read_text())
    assert list(report["phase_seconds"]) == [
        "export vision",
        "export language",
        "write embeddings",
        "write tokenizer",
        "write self-check",
        "verify against the reference",
    ]
    assert report["phase_seconds"]["export vision"] > 0.1
    assert report["warnings"] == ["a warning"]


@pytest.mark.usefixtures("exported_before")
def test_progress_is_told(built6, tmp_path):
    reporter = Reporter()
    build_bundle(built6.loaded, tmp_path / "new", progress=reporter)
    assert reporter.phases[0] == "export vision"
    assert reporter.phases[-2:] == ["compute digests", "put it in place"]
    assert reporter.details[-1] == "100%"


@pytest.mark.usefixtures("exported_before")
def test_same_checkpoint_gives_the_same_digests_under_any_name(built6, tmp_path):
    manifest = build_bundle(built6.loaded, tmp_path / "another name")
    varying = {"reports/build.json"}
    digests = [{k: v for k, v in m.digests.items() if k not in varying} for m in (manifest, built6.manifest)]
    assert digests[0] == digests[1]
    assert manifest.fingerprint == built6.manifest.fingerprint
    open_bundle(tmp_path / "another name")


@pytest.mark.usefixtures("exported_before")
def test_old_bundle_is_replaced(built6, old_bundle):
    build_bundle(built6.loaded, old_bundle)
    assert sorted(read_manifest(old_bundle).digests) == FILES
    assert not (old_bundle / "weights").exists()
    assert [path.name for path in old_bundle.parent.iterdir()] == [old_bundle.name]


@pytest.mark.usefixtures("exported_before")
def test_link_to_a_bundle_stays_a_link(built6, old_bundle, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(old_bundle)
    build_bundle(built6.loaded, link)
    assert link.is_symlink()
    assert sorted(read_manifest(old_bundle).digests) == FILES


@pytest.mark.parametrize(
    "step", ["export_onnx", "write_selfcheck", "verify_files_of", "digest_files", "write_manifest"]
)
@pytest.mark.usefixtures("exported_before")
def test_interrupt_at_any_step_leaves_nothing(built6, untouched, monkeypatch, step):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle_module, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_bundle(built6.loaded, untouched)


@pytest.mark.parametrize("step", ["export_onnx", "write_selfcheck", "_write_embeddings", "write_manifest"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.usefixtures("exported_before")
def test_disk_that_fills_up_leaves_nothing(built6, untouched, monkeypatch, step, number):
    def fill(*_arguments, **_options):
        raise OSError(number, "No space left on device")

    monkeypatch.setattr(bundle_module, step, fill)
    with pytest.raises(ResourceError) as caught:
        build_bundle(built6.loaded, untouched)
    assert caught.value.exit_code == 6
    assert caught.value.message.startswith(f"{untouched}: the bundle needs about ")
    assert caught.value.message.endswith(" MB are free")


def test_too_little_disk_is_told_before_any_work(built6, untouched, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(0, 0, 5_000_000))
    monkeypatch.setattr(bundle_module, "build_graphs", None)
    with pytest.raises(ResourceError) as caught:
        build_bundle(built6.loaded, untouched)
    needed = bundle_module.estimated_bytes(built6.model, "fp32") / 1e6
    assert caught.value.message == f"{untouched}: the bundle needs about {needed:.0f} MB of disk, 5 MB are free"


def test_estimate_of_the_disk_is_over_the_truth(built):
    written = sum(entry.size for entry in built.manifest.digests.values())
    assert written < bundle_module.estimated_bytes(built.model, "fp32") < written + 2 * bundle_module.SLACK_BYTES


def test_memory_that_runs_out(built6, untouched, monkeypatch):
    def allocate(*_arguments, **_options):
        raise MemoryError

    monkeypatch.setattr(bundle_module, "export_onnx", allocate)
    with pytest.raises(ResourceError, match="memory ran out while building"):
        build_bundle(built6.loaded, untouched)


def test_wrong_weights_fail_the_build(built6, untouched, monkeypatch, exported_before):
    def spoil(graph, path, *arguments, **options):
        exported_before(graph, path, *arguments, **options)
        if graph.name == "language":
            with open(f"{path}.data", "r+b") as file:
                file.seek(-4096, 2)
                numbers = np.frombuffer(file.read(), np.float32) * 1.01
                file.seek(-4096, 2)
                file.write(numbers.tobytes())

    monkeypatch.setattr(bundle_module, "export_onnx", spoil)
    with pytest.raises(AccuracyError, match=r"^(logits|next_\w+): error \S+ against the reference is over"):
        build_bundle(built6.loaded, untouched)


def test_what_is_not_accepted_is_not_written(built6, untouched, exported_before):
    """The last word is the caller's, over the finished bundle."""

    def refuse(folder):
        verify_files(folder, read_manifest(folder))
        raise AccuracyError("loses too much")

    with pytest.raises(AccuracyError, match="loses too much"):
        build_bundle(built6.loaded, untouched, accept=refuse)


def test_graph_that_breaks_a_rule_fails_the_build(built6, untouched, monkeypatch, exported_before):
    def spoil(graph, path, *arguments, **options):
        exported_before(graph, path, *arguments, **options)
        model = onnx.load(path, load_external_data=False)
        model.opset_import[0].version = 23
        onnx.save(model, path)

    monkeypatch.setattr(bundle_module, "export_onnx", spoil)
    with pytest.raises(GraphError, match=r"^vision\.onnx: model: opset 23 of domain '' is newer than 20$"):
        build_bundle(built6.loaded, untouched)


@pytest.mark.parametrize("kind", ["folder with files", "file"])
def test_anything_but_a_bundle_is_never_replaced(built6, tmp_path, kind):
    out = tmp_path / "precious"
    if kind == "file":
        out.write_text("precious")
    else:
        (out / "photos").mkdir(parents=True)
    with pytest.raises(UsageError) as caught:
        build_bundle(built6.loaded, out)
    assert caught.value.message == f"{out}: exists and is not a bundle; it is not overwritten"
    assert caught.value.exit_code == 2
    assert out.exists()


def test_new_and_empty_folders_are_accepted(tmp_path):
    check_destination(tmp_path / "new")
    check_destination(tmp_path)


def test_folder_that_cannot_be_written(built6, untouched, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(bundle_module, "export_onnx", refuse)
    with pytest.raises(UsageError, match="cannot be written: Permission denied"):
        build_bundle(built6.loaded, untouched)
