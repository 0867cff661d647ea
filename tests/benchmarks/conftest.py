"""A bundle written by hand, and peers that are small programs with times of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from handmade_bundle import write_bundle

PEER = """#!{python}
import json, sys
print(json.dumps({{"version": "1.0"}}), flush=True)
depth = 0
for line in sys.stdin:
    name, n = (line.split() + ["0"])[:2]
    seconds = {seconds}
    depth = {depth}
    print(json.dumps({{"seconds": seconds, "depth": depth, "peak_rss_mib": 7.5}}), flush=True)
"""


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("benchmarks") / "handmade.aurora")


@pytest.fixture
def make_peer(tmp_path):
    """A program in the place of an interpreter; `seconds` and `depth` are expressions of name, n and depth."""

    def make(name: str, seconds: str = "0.5", depth: str = "0") -> Path:
        path = tmp_path / name
        path.write_text(PEER.format(python=sys.executable, seconds=seconds, depth=depth))
        path.chmod(0o755)
        return path

    return make
