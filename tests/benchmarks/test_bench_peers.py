from __future__ import annotations

import json
import sys
from contextlib import ExitStack

import pytest
from bench_peers import LLAMA_FILES, TESTS, Candidate, candidates, compare, main, start
from click.testing import CliRunner
from peer_process import PeerProcess

from aurora_export.runtime import limits


class Played:
    """A side whose times are known: the warm-up, then one for each round."""

    peak_rss_mib = 0.0

    def __init__(self, *seconds: float) -> None:
        self.asked: list[tuple[str, int]] = []
        self._seconds = iter((99.0, *seconds))

    def run(self, test: str, n_tokens: int) -> float:
        self.asked.append((test, n_tokens))
        return next(self._seconds)


def test_ratios_are_of_two_times_within_a_round():
    ours, other = Played(1.0, 2.0, 4.0), Played(3.0, 8.0, 4.0)
    row = compare({"ours": ours, "other": other}, "step", 8, rounds=3)
    found = row["sides"]["other"]
    assert found["time_over_ours_by_round"] == [3.0, 4.0, 1.0]
    assert found["time_over_ours"] == 3.0
    assert (found["tokens_per_s"], found["lowest"], found["highest"]) == (2.0, 1.0, 2.67)
    assert row["sides"]["ours"]["time_over_ours_by_round"] == [1.0, 1.0, 1.0]
    assert ours.asked == [("step", 4), *[("step", 8)] * 3]


def test_sides_take_turns():
    order = []

    class Noted(Played):
        def __init__(self, name: str) -> None:
            super().__init__(*[1.0] * 3)
            self.name = name

        def run(self, test: str, n_tokens: int) -> float:
            order.append(self.name)
            return super().run(test, n_tokens)

    compare({"a": Noted("a"), "b": Noted("b")}, "prefill", 64, rounds=3)
    assert order == ["a", "b"] * 4


def options(tmp_path, **given):
    return {"llama_python": None, "gguf": None, "rwkv": None, "rwkv_python": sys.executable, "plain": False} | given


def test_a_peer_that_is_not_there_is_reported_with_the_reason(bundle, tmp_path, make_peer):
    (tmp_path / "q8_0.gguf").touch()
    peers = options(tmp_path, llama_python=make_peer("llama"), gguf=tmp_path, rwkv=tmp_path / "rwkv.pth")
    found = {side.name: side.missing for side in candidates((bundle,), threads=1, logs=tmp_path, **peers)}
    assert found == {
        "ours, fp32": "",
        "ONNX Runtime, MatMulNBits": "--plain was not given",
        "ONNX Runtime, DynamicQuantizeMatMul": "--plain was not given",
        "llama.cpp Q8_0": "",
        "llama.cpp Q4_0": "no q4_0.gguf; see random_gguf.py",
        "rwkv package, bfloat16": f"no {tmp_path / 'rwkv.pth'}; see peer_rwkv.py",
        "rwkv.cpp": "its packages are of 2023, older than RWKV-6",
    }
    assert set(LLAMA_FILES) < set(found)
    plain = [
        side
        for side in candidates((bundle,), threads=1, logs=tmp_path, **peers | {"plain": True})
        if side.tests != TESTS
    ]
    assert [(side.tests, side.missing) for side in plain] == [
        (("step",), ""),
        (("prefill",), "the first bundle is not int8"),
    ]


def test_a_peer_that_does_not_start_is_left_out_with_its_last_words(tmp_path, make_peer):
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no such library')")
    sides = [
        Candidate("good", (str(make_peer("good")),), tmp_path / "good.log"),
        Candidate("broken", (sys.executable, str(broken)), tmp_path / "broken.log"),
        Candidate("absent", (str(tmp_path / "nothing"),), tmp_path / "absent.log"),
    ]
    with ExitStack() as stack:
        running, states = start(sides, stack)
    assert list(running) == ["good"]
    assert states["good"] == "1.0"
    assert states["broken"] == "skipped: no such library"
    assert states["absent"].startswith("skipped: ")


def test_a_peer_that_ends_in_the_middle_is_an_error(tmp_path, make_peer):
    peer = PeerProcess([str(make_peer("short", seconds="sys.exit('out of memory')"))], tmp_path / "log")
    with peer, pytest.raises(ValueError, match="out of memory"):
        peer.run("step", 1)


def test_the_whole_of_it(bundle, tmp_path, make_peer, monkeypatch):
    monkeypatch.setattr(limits, "BUFFER_BYTES", 2**24)
    monkeypatch.setattr(limits, "PRODUCTS_S", 0.002)
    (tmp_path / "q8_0.gguf").touch()
    llama = make_peer("llama", seconds="100.0 * int(n)")
    result = CliRunner().invoke(
        main,
        f"{bundle} --llama-python {llama} --gguf {tmp_path} --steps 4 --prefill 8 --rounds 2 --threads 1",
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["sides"]["llama.cpp Q8_0"] == "1.0"
    assert found["sides"]["rwkv.cpp"] == "skipped: its packages are of 2023, older than RWKV-6"
    assert found["peak_rss_mib"]["llama.cpp Q8_0"] == 7.5
    assert found["peak_rss_mib"]["ours, fp32"] > 10
    step, _ = found["runs"]
    assert [list(run["sides"]) for run in found["runs"]] == [["ours, fp32", "llama.cpp Q8_0"]] * 2
    assert step["sides"]["llama.cpp Q8_0"]["tokens_per_s"] == 0.01
    assert step["sides"]["llama.cpp Q8_0"]["time_over_ours"] > 100
