from __future__ import annotations

import os
import subprocess
import sys

import pytest

from aurora_export.export.replace_folder import replaced_folder


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "thing.aurora"
    folder.mkdir()
    (folder / "old").write_text("old")
    return folder


@pytest.fixture(scope="module")
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_new_folder_appears_at_the_end(tmp_path):
    target = tmp_path / "a" / "b"
    with replaced_folder(target) as folder:
        (folder / "file").write_text("new")
        assert not target.exists()
        assert folder.name.startswith(".b.partial-")
    assert names(target.parent) == ["b"]
    assert (target / "file").read_text() == "new"


def test_old_folder_is_replaced(target):
    with replaced_folder(target) as folder:
        (folder / "new").write_text("new")
        assert names(target) == ["old"]
    assert names(target.parent) == ["thing.aurora"]
    assert names(target) == ["new"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, SystemExit])
def test_after_any_exception_nothing_has_changed(target, error):
    def write_and_fail(folder):
        (folder / "new").write_text("new")
        raise error

    with pytest.raises(error), replaced_folder(target) as folder:
        write_and_fail(folder)
    assert names(target.parent) == ["thing.aurora"]
    assert names(target) == ["old"]


@pytest.mark.parametrize("which", [1, 2])
def test_interrupted_between_the_two_renames(target, monkeypatch, which):
    calls = []
    rename = type(target).rename

    def interrupted(self, other):
        calls.append(self)
        if len(calls) == which:
            raise KeyboardInterrupt
        return rename(self, other)

    monkeypatch.setattr(type(target), "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), replaced_folder(target) as folder:
        (folder / "new").write_text("new")
    assert names(target.parent) == ["thing.aurora"]
    assert names(target) == ["old"]


def test_leftovers_of_dead_processes_are_removed(target, dead_pid):
    for kind in ("partial", "old"):
        (target.parent / f".thing.aurora.{kind}-{dead_pid}" / "inside").mkdir(parents=True)
    with replaced_folder(target):
        pass
    assert names(target.parent) == ["thing.aurora"]


def test_what_belongs_to_others_is_left_alone(target, dead_pid, tmp_path):
    others = [
        f".thing.aurora.partial-{os.getppid()}",  # is being written
        f".thing.aurora.partial-{dead_pid}x",
        f".other.aurora.partial-{dead_pid}",
        f"thing.aurora.partial-{dead_pid}",
    ]
    for name in others:
        (target.parent / name).mkdir()
    linked = tmp_path / "linked"
    linked.mkdir()
    (target.parent / f".thing.aurora.old-{dead_pid}").symlink_to(linked)
    with replaced_folder(target):
        pass
    assert set(others) <= set(names(target.parent))
    assert linked.is_dir()


def test_process_that_died_between_the_renames_is_undone(target, dead_pid):
    target.rename(target.parent / f".thing.aurora.old-{dead_pid}")
    with replaced_folder(target):
        assert names(target) == ["old"]
