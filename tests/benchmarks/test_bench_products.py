from __future__ import annotations

import ctypes
import json

import bench_products
import pytest
from click.testing import CliRunner

from aurora_export.plugins.cpu import SWITCH, chosen_level, library_path

pytestmark = pytest.mark.skipif(library_path() is None, reason="the native library was not built")


def test_the_library_counts_the_operations_of_a_layer():
    _, layer = bench_products.works(ctypes.CDLL(str(library_path())))
    assert layer(5, 96, 300, 32)(3) == 3 * 2 * 5 * 96 * 300
    assert layer(70, 1088, 9, 64)(1) == 2 * 70 * 1088 * 9
    assert layer(5, 96, 300, 32)(0) == 0
    for sizes in ((5, 100, 8, 32), (5, 96, 8, 48), (5, 512, 8, 512), (5, 96, 8, 0)):
        assert layer(*sizes)(1) == 0


def invoke(*arguments: str):
    return CliRunner().invoke(bench_products.main, [*arguments, "--rounds", "1"])


def test_a_line_of_json(monkeypatch):
    if chosen_level(library_path()) == "portable":
        pytest.skip("no 8-bit products on this machine")
    monkeypatch.setattr(bench_products, "SECONDS", 0.002)
    monkeypatch.setattr(bench_products, "N_CALIBRATION", 1000)
    result = invoke("--layers", "256x128,512x64", "--tokens", "5,33", "--block-sizes", "128", "--threads", "2")
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert [(row["n_tokens"], row["block_size"], row["layer"]) for row in found["rows"]] == [
        (n, 128, layer) for n in (5, 33) for layer in ("256x128", "512x64")
    ]
    for row in found["rows"]:
        assert 0 < row["lowest_share"] <= row["share_of_int8_peak"] <= row["highest_share"]


def test_what_cannot_be_measured_is_said(monkeypatch):
    assert "'2048' is no layer" in invoke("--layers", "2048").output
    assert "no 8-bit products" in invoke("--layers", "100x8", "--block-sizes", "32").output
    monkeypatch.setenv(SWITCH, "off")
    result = invoke()
    assert result.exit_code == 2
    assert "native library is needed" in result.output
