from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from aurora_export.runtime import limits

SMALL = ("-p", "8", "-n", "4", "--frames", "1", "-r", "2")
TESTS = ["tokenizer", "vision", "prefill 8", "step 4", "video of 1"]


@pytest.fixture(autouse=True)
def quick_limits(monkeypatch):
    monkeypatch.setattr(limits, "BUFFER_BYTES", 2**24)
    monkeypatch.setattr(limits, "PRODUCTS_S", 0.002)


@pytest.fixture
def rows(bundle, invoke):
    def run(*flags):
        result = invoke("bench", bundle, *SMALL, *flags, "-o", "json")
        assert result.exit_code == 0
        return json.loads(result.stdout)

    return run


def test_every_stage_has_a_row_with_the_environment(bundle, rows):
    found = rows("--threads", 1)
    assert [row["test"] for row in found] == TESTS
    assert {row["n_ahead"] for row in found} == {0}
    for row in found:
        assert row["bundle"] == bundle.name
        assert row["threads"] == 1
        assert row["repetitions"] == 2
        assert 0 < row["lowest_ms"] <= row["median_ms"] <= row["highest_ms"]
        assert row["per_s"] == pytest.approx(1000 / row["median_ms"], rel=1e-3)
        assert row["cpu"] and row["backend"] and row["date"] and row["onnxruntime"]
        assert row["limit_read_gb_per_s"] > 0
        assert row["limit_fp32_gop_per_s"] > 0


def test_what_is_held_against_which_limit(rows):
    by_test = {row["test"]: row for row in rows()}
    for test in ("vision", "prefill 8"):
        row = by_test[test]
        assert row["share_of_peak"] == pytest.approx(row["gop_per_s"] / row["limit_fp32_gop_per_s"], abs=2e-3)
        assert row["share_of_reads"] is None
    assert by_test["step 4"]["read_gb_per_s"] > 0
    assert by_test["step 4"]["share_of_peak"] is None
    assert all(by_test["video of 1"][f"{stage}_ms"] > 0 for stage in ("decode", "resize", "vision", "prefill"))


def test_lists_and_depths(rows):
    found = rows("-p", "3,300", "-n", "0", "-d", "0,7", "--frames", "0")
    assert [(row["test"], row["depth"]) for row in found] == [
        ("tokenizer", 0),
        *((test, depth) for depth in (0, 7) for test in ("prefill 3", "prefill 300")),
    ]


def test_a_given_clip(rows, clip):
    found = rows("--video", clip, "--frames", "2,5")[-2:]
    assert [(row["test"], row["n"]) for row in found] == [("video of 2", 2), ("video of 5", 5)]


def test_formats_say_the_same(bundle, invoke):
    def out(name):
        return invoke("bench", bundle, *SMALL, "-o", name).stdout

    lines = [json.loads(line) for line in out("jsonl").splitlines()]
    table = list(csv.DictReader(out("csv").splitlines()))
    assert [row["test"] for row in lines] == [row["test"] for row in table] == TESTS
    assert list(table[0]) == list(lines[0])
    markdown = [line for line in out("md").splitlines() if line.startswith("|")]
    assert [line.split(" | ")[3] for line in markdown[2:]] == TESTS
    assert len({line.count("|") for line in markdown}) == 1


def test_without_the_native_library(rows, monkeypatch):
    monkeypatch.setenv("AURORA_CPU_LIBRARY", "off")
    for row in rows():
        assert (row["operators"], row["limits_by"]) == ("functions", "numpy")
        assert row["limit_int8_gop_per_s"] is None
        assert row["limit_read_gb_per_s"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("-p", -1), "n-prompt is -1; it must be from 0 to 1000000"),
        (("--frames", 10**7), "frames is 10000000; it must be from 0 to 1000000"),
        (("-r", 0), "repetitions is 0; it must be from 1 to 1000000"),
        (("-t", 0), "threads is 0; at least 1 is needed"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--video", "nothing.mp4"), "nothing.mp4: no such file"),
        (
            ("-n", "four"),
            "invalid value for '-n' / '--n-gen': 'four' is no whole number, and no list of them such as 64,512",
        ),
        (("-o", "xml"), "invalid value for '-o' / '--output': 'xml' is not one of 'md', 'csv', 'json', 'jsonl'"),
    ],
)
def test_bad_flag_values(flags, message, bundle, refused):
    assert refused("bench", bundle, *flags) == (message, 2)


def test_a_missing_bundle(refused):
    assert refused("bench", "nothing.aurora") == ("nothing.aurora: no such bundle", 2)


def test_a_damaged_bundle(bundle_copy, refused):
    path = bundle_copy / "onnx/language.onnx"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    message, code = refused("bench", bundle_copy)
    assert message.startswith(f"{path}: SHA-256 is ")
    assert code == 4


def test_interrupted(bundle, tmp_path, invoke):
    """Ctrl-C ends with 130 and the rows that were done; no clip is left behind, and it can be run again."""
    command = [sys.executable, "-m", "aurora_export", "bench", str(bundle), "-p", "0", "-n", "0", "--frames", "2000"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, start_new_session=True
    ) as process:
        while process.poll() is None and not list(tmp_path.glob("aurora-bench-*/*.mp4")):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert stdout.count(b"\n| RWKV-6") == 2  # tokenizer and vision were done
    assert process.returncode == 130
    assert stderr.decode().splitlines()[-1] == "interrupted"
    assert "Traceback" not in stderr.decode()
    assert not list(tmp_path.glob("aurora-bench-*"))
    assert invoke("bench", bundle, *SMALL).exit_code == 0
