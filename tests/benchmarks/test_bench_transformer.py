"""The arithmetic and the turns of the comparison with a transformer, on one that is played."""

from __future__ import annotations

import json

import bench_transformer
import bench_watching
import environment
import pytest
from click.testing import CliRunner

from aurora_export.manifest import read_manifest

TOKEN = "(0.01 + 1e-6 * depth)"
PLAYED_S = f"0.0 if name in ('clear', 'deepen') else int(n) * {TOKEN}"
PLAYED_DEPTH = "0 if name == 'clear' else int(n) if name == 'deepen' else depth + int(n) * (name == 'read')"


def exact(n_tokens: int) -> float:
    """Of chunks that all cost what their first token does, as the played one's do."""
    whole, rest = divmod(n_tokens, 512)
    return sum(512 * (0.01 + 1e-6 * 512 * i) for i in range(whole)) + rest * (0.01 + 1e-6 * 512 * whole)


@pytest.fixture
def result(bundle, make_peer, tmp_path, monkeypatch):
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(bench_transformer, "ROOT", tmp_path)
    monkeypatch.setattr(bench_transformer, "tower", lambda *_: {"frame_s": 2.0, "peak_rss_mib": 100.0})
    monkeypatch.setattr(bench_transformer, "available_bytes", lambda: 10**10)
    llama = make_peer("llama", PLAYED_S, PLAYED_DEPTH)
    run = CliRunner().invoke(
        bench_transformer.main,
        f"{bundle} --llama-python {llama} --gguf {tmp_path} --frames 1,3 --points 4,8,100 --read 1024 --threads 1"
        " --depths 4096,8192,200000",
        catch_exceptions=False,
    )
    assert run.exit_code == 0, run.output
    return json.loads((tmp_path / "benchmarks/results/transformer.json").read_text())


def test_the_whole_of_it(result):
    assert [[row["n_frames"] for row in run["runs"]] for run in result["ours"]] == [[1, 3]] * 2
    measured = result["measured"]
    assert [n for n, _ in measured["chunks"]] == [512, 512]
    # In the middle of a chunk behind a question of 16 tokens.
    assert measured["rates"] == [[4096 + 16 + 256, 0.01411], [8192 + 16 + 256, 0.01821]]
    assert set(measured["left_out"]) == {"200000"}
    internvl, unmerged, merged = result["curves"].values()
    assert [row["n_frames"] for row in internvl] == [1, 3, 4, 8, 100]
    assert [row["n_tokens"] for row in internvl] == [256, 768, 1024, 2048, 25600]
    assert [row["kind"] for row in internvl] == ["measured"] * 3 + ["integrated", "extrapolated"]
    assert [row["kind"] for row in merged] == ["measured"] * 4 + ["extrapolated"]
    for row in internvl[:3]:
        assert row["read_s"] == pytest.approx(exact(row["n_tokens"]), abs=0.01)
        assert row["vision_s"] == 2.0 * row["n_frames"]
        assert row["latency_s"] == pytest.approx(row["vision_s"] + row["read_s"] + row["first_token_s"], abs=0.02)
    assert unmerged[0]["vision_s"] == 2.0
    assert merged[0]["vision_s"] < 1.0
    mine = [run["runs"][-1] for run in result["ours"]]
    latency = sum(row["watch_s"] + row["first_token_ms"] / 1000 for row in mine) / 2
    ratio = result["time_over_ours"]["Mini-InternVL, 256 tokens a frame"]
    assert ratio == pytest.approx(internvl[1]["latency_s"] / latency, rel=0.01)


def test_memory_grows_by_the_cache_and_what_does_not_fit_says_so(monkeypatch):
    monkeypatch.setattr(
        bench_transformer.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 2**20, "SC_PHYS_PAGES": 3000}[name]
    )
    measured = {
        "chunks": [(512, 1.0), (512, 1.5)],
        "rates": [],
        "first_tokens": [(0, 0.1), (1024, 0.2)],
        "memory": [(0, 2000.0), (1024, 2096.0)],
    }
    rows = bench_transformer.frame_rows(measured, [4, 30], tokens_per_frame=256, frame_s=1.0, tower_mib=100.0)
    assert [row["memory_mib"] for row in rows] == [2196.0, 2820.0]
    assert [row["memory_kind"] for row in rows] == ["measured", "extrapolated"]
    assert [row["fits"] for row in rows] == [True, True]
    assert rows[0]["cache_mib"] == 96.0
    assert rows[0]["first_token_s"] == 0.2
    (beyond,) = bench_transformer.frame_rows(measured, [100], tokens_per_frame=256, frame_s=1.0, tower_mib=100.0)
    assert not beyond["fits"]


def test_watching_stops_its_clock_while_it_asks(bundle, monkeypatch, tmp_path):
    from aurora_export.runtime.synthetic_clip import write_clip

    slow = 0.3
    ask = bench_watching.first_token_s
    monkeypatch.setattr(bench_watching, "first_token_s", lambda aurora: bench_watching.time.sleep(slow) or ask(aurora))
    clip = write_clip(tmp_path / "clip.mp4", 6, fps=2)
    found = bench_watching.watch(bundle, clip, [2, 6], 1)
    assert [row["n_frames"] for row in found["runs"]] == [2, 6]
    assert found["runs"][-1]["watch_s"] < slow
    assert found["runs"][-1]["rss_mib"] <= found["runs"][-1]["peak_rss_mib"] + 1
    assert found["tokens_per_frame"] == read_manifest(bundle).config.tokens_per_frame


def test_a_clip_of_another_length_is_no_result(bundle, tmp_path):
    from aurora_export.runtime.synthetic_clip import write_clip

    clip = write_clip(tmp_path / "clip.mp4", 3, fps=2)
    with pytest.raises(SystemExit, match="3 frames were watched, not 4"):
        bench_watching.watch(bundle, clip, [4], 1)
