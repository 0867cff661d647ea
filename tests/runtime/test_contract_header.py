"""The header of the C++ runtime says what core/contract.py says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "runtime/cpp/contract_header.py"


def test_header_is_current():
    spec = importlib.util.spec_from_file_location("contract_header", SCRIPT)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.HEADER.read_text(encoding="utf-8") == module.header_text(), (
        "run `python runtime/cpp/contract_header.py`"
    )
