"""libaurora.so as a file: what it shows of itself, and how large it is."""

from __future__ import annotations

import re
import subprocess

MOST_BYTES = 1_000_000
"""Without symbols; the operators of all instruction sets in it, and no backend."""


def test_only_the_functions_of_the_header_are_shown(root, build):
    header = (root / "runtime/cpp/include/aurora.h").read_text()
    declared = set(re.findall(r"^AURORA_API .*?(aurora_\w+)\(", header, re.M))
    shown = subprocess.check_output(["nm", "-D", "--defined-only", build / "libaurora.so"], text=True)
    assert {line.split()[-1] for line in shown.splitlines()} == declared
    assert len(declared) == 22


def test_it_is_small(build, tmp_path):
    stripped = tmp_path / "libaurora.so"
    subprocess.run(["strip", "-o", stripped, build / "libaurora.so"], check=True)
    assert stripped.stat().st_size <= MOST_BYTES
