"""What the processor is, and how many threads suit it: one for each core that this process is given time on.

A container limits its processes in two ways: to some cores (affinity), or to a share of time (a quota). Libraries see
the first one at most, and start a thread for every core of the host under the second.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

SYSTEM = Path("/")
"""Where the files of the system are; for tests."""


def n_usable_cores() -> int:
    """Physical cores of this process, at most its quota of time rounded up; at least 1."""
    cpus = _usable_cpus()
    cores = {_core_of(cpu) for cpu in cpus}
    quota = _quota()
    return max(1, len(cores) if quota is None else min(len(cores), quota))


def cpu_name() -> str:
    """As Linux has it; the kind of processor where the system does not say more."""
    try:
        lines = (SYSTEM / "proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine() or "unknown"


def _usable_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _core_of(cpu: int) -> str:
    """What the hardware threads of one core have in common; where the system does not say, each is its own."""
    try:
        path = SYSTEM / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        return str(cpu)


def _quota() -> int | None:
    """Cores' worth of time that the control group allows, rounded up; None without a limit."""
    limits = [_quota_in(SYSTEM / "sys/fs/cgroup" / group) for group in _groups()]
    return min((limit for limit in limits if limit is not None), default=None)


def _groups() -> list[str]:
    """The control group of this process and those that it is in, from the root on; version 2."""
    try:
        lines = (SYSTEM / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):
        return [""]
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return ["/".join(parts[:n]) for n in range(len(parts) + 1)]


def _quota_in(group: Path) -> int | None:
    """cpu.max: microseconds of each period, or `max`."""
    try:
        allowed, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return None if allowed == "max" else max(1, -(-int(allowed) // int(period)))
    except (OSError, UnicodeError, ValueError, ZeroDivisionError):
        return None
