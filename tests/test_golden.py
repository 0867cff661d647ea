"""The golden files that both languages read are what Python makes today."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent / "golden"
sys.path.insert(0, str(FOLDER))

import golden_states  # noqa: E402
import golden_tokenizer  # noqa: E402
import make_golden  # noqa: E402

from aurora_export.runtime.state import State, read_state_header  # noqa: E402

HOW = "run `python tests/golden/make_golden.py`"


def test_each_file_has_a_maker():
    assert {path.name for path in FOLDER.iterdir() if path.suffix in (".json", ".txt")} == set(make_golden.MAKERS)


@pytest.mark.parametrize("name", sorted(set(make_golden.MAKERS) - {"tokenizer.json"}))
def test_file_is_current(name):
    assert (FOLDER / name).read_bytes() == make_golden.content_of(name).encode(), HOW


@pytest.mark.parametrize("n_batches", [2, pytest.param(golden_tokenizer.N_BATCHES, marks=pytest.mark.slow)])
def test_tokenizer_file_is_current(n_batches):
    recorded = json.loads((FOLDER / "tokenizer.json").read_bytes())
    for entry in recorded["batches"]:
        assert len(entry["sha256"]) == golden_tokenizer.N_BATCHES
        del entry["sha256"][n_batches:]
    assert recorded == json.loads(json.dumps(golden_tokenizer.cases(n_batches))), HOW


def assert_holds(path: Path, header: str) -> None:
    expected = golden_states.state(header)
    loaded = State.load(path, golden_states.small_config(), fingerprint=golden_states.MODEL)
    assert loaded.header == expected.header
    assert {name: array.tobytes() for name, array in loaded.arrays.items()} == {
        name: array.tobytes() for name, array in expected.arrays.items()
    }


@pytest.mark.parametrize("name", golden_states.FILES)
def test_state_file_of_python_is_current(name):
    assert_holds(FOLDER / "states" / f"{name}.aurstate", "full" if name.startswith("full") else "bare")


@pytest.mark.parametrize("name", ["cpp_raw", "cpp_packed"])
def test_state_file_of_the_cpp_runtime_opens_here(name):
    """Its tests make sure that the files are what it writes."""
    path = FOLDER / "states" / f"{name}.aurstate"
    assert read_state_header(path).encoding == name.removeprefix("cpp_")
    assert_holds(path, "full")
