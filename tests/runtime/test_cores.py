from __future__ import annotations

import platform

import pytest

from aurora_export.runtime import cores


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of `n` hardware threads, two to a core, in the control group a/b."""

    def make(n: int, **quotas: str) -> int:
        monkeypatch.setattr(cores, "SYSTEM", tmp_path)
        monkeypatch.setattr(cores, "_usable_cpus", lambda: list(range(n)))
        for cpu in range(n):
            folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}\n")
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
        for group, content in quotas.items():
            folder = tmp_path / "sys/fs/cgroup" / group.replace("_", "/")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "cpu.max").write_text(content)
        return cores.n_usable_cores()

    return make


def test_one_for_each_physical_core(machine):
    assert machine(8) == 4


def test_a_quota_of_the_group_or_of_one_around_it_counts(machine):
    assert machine(8, a="250000 100000\n", a_b="max 100000\n") == 3


def test_the_lowest_quota_counts_and_it_is_never_none(machine):
    assert machine(8, a="200000 100000", a_b="50000 100000") == 1


@pytest.mark.parametrize("content", ["max 100000", "", "many", "0 0"])
def test_no_quota(machine, content):
    assert machine(4, a_b=content) == 2


def test_a_system_that_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "SYSTEM", tmp_path)
    monkeypatch.setattr(cores, "_usable_cpus", lambda: [0, 3, 5])
    assert cores.n_usable_cores() == 3


def test_the_name_of_the_processor(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "SYSTEM", tmp_path)
    assert cores.cpu_name() == (platform.processor() or platform.machine())
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name: other\n")
    assert cores.cpu_name() == "Some CPU @ 2 GHz"


def test_this_machine():
    assert 1 <= cores.n_usable_cores() <= len(cores._usable_cpus())
