"""Tables of ours beside its peers: language models, a transformer of the same size, ways to watch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from result_tables import NOT_YET, ROOT, is_measured, read_result, table

PLOT = "transformer.svg"


def peers_table() -> str:
    """Tokens a second of ours and of each peer, and the peer's time over that of each of ours within a round."""
    result = read_result("peers")
    ours = [name for name in result["runs"][0]["sides"] if name.startswith("ours")]
    rows = []
    for run in result["runs"]:
        for side, found in run["sides"].items():
            rates = [f"{found['tokens_per_s']:.1f}", f"{found['lowest']:.1f} to {found['highest']:.1f}"]
            ratios = [
                over_text(run["sides"], side, mine) if side not in ours and mine in run["sides"] else ""
                for mine in ours
            ]
            memory = f"{result['peak_rss_mib'][side] / 1024:.2f} GiB"
            name = f"{run['test']}, {run['n_tokens']} tokens"
            rows.append([name, side.replace("ours", "this"), *rates, *ratios, memory])
    faster = [f"{name.replace('ours', 'this')} is faster by (range)" for name in ours]
    return table(["language model", "by", "tokens/s", "lowest to highest", *faster, "peak memory"], rows)


def over_text(sides: Mapping[str, Any], other: str, mine: str) -> str:
    """Median and range, over the rounds, of one side's time by another's."""
    pairs = zip(sides[other]["time_over_ours_by_round"], sides[mine]["time_over_ours_by_round"], strict=True)
    ratios = [theirs / own for theirs, own in pairs]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def watched_rows() -> list[dict[str, Any]]:
    """Of watching at full size: the long run's, and those of the comparison where it has none."""
    rows = {row["n_frames"]: row for run in read_result("transformer")["ours"] for row in run["runs"]}
    if is_measured("watching"):
        rows |= {row["n_frames"]: row for row in read_result("watching")["runs"]}
    return [rows[n_frames] for n_frames in sorted(rows)]


def watching_table() -> str:
    """Time and memory of watching at full size, by the number of frames."""
    if not is_measured("watching"):
        return NOT_YET
    rows = [
        [
            str(row["n_frames"]),
            f"{row['watch_s']:.1f} s",
            f"{row['frame_ms']:.0f} ms",
            f"{row['first_token_ms']:.0f} ms",
            f"{row['rss_mib'] / 1024:.2f} GiB",
            f"{row['anonymous_mib'] / 1024:.2f} GiB",
        ]
        for row in read_result("watching")["runs"]
    ]
    head = ["frames", "watched in", "a frame, since the row above", "question to first token", "resident"]
    return table([*head, "not of files"], rows)


def transformer_table() -> str:
    """Until an answer begins, and memory, by the number of frames: ours and the three that a transformer reads."""
    if not is_measured("transformer"):
        return NOT_YET
    result = read_result("transformer")
    ours = {row["n_frames"]: row for row in watched_rows()}
    points = sorted({row["n_frames"] for rows in result["curves"].values() for row in rows})
    head, table_rows = ["frames", "this", "memory"], []
    for title in result["curves"]:
        head += [title, "memory"]
    for n_frames in points:
        mine = ours.get(n_frames)
        cells = [str(n_frames)]
        cells += [seconds_text(mine["watch_s"] + mine["first_token_ms"] / 1000) if mine else "", gib_text(mine)]
        for rows in result["curves"].values():
            row = next(row for row in rows if row["n_frames"] == n_frames)
            mark = {"measured": "", "integrated": " *", "extrapolated": " **"}[row["kind"]]
            fits = "" if row["fits"] else ", does not fit"
            cells += [f"{seconds_text(row['latency_s'])}{mark}", f"{row['memory_mib'] / 1024:.1f} GiB{fits}"]
        table_rows.append(cells)
    return table(head, table_rows)


def transformer_ratios() -> str:
    """How many times as long each takes, in one run with ours."""
    if not is_measured("transformer"):
        return NOT_YET
    result = read_result("transformer")
    rows = [[title, f"{ratio:.1f}"] for title, ratio in result["time_over_ours"].items()]
    return table([f"transformer, {result['compared_at_frames']} frames", "time over this, int8"], rows)


def transformer_plot() -> str:
    """The picture of plot_transformer.py, as a link of a document in docs/."""
    if not (ROOT / "docs" / PLOT).is_file():
        return NOT_YET
    return f"![Seconds until an answer begins, and peak memory, over frames]({PLOT})"


def seconds_text(seconds: float) -> str:
    """Three digits, at most."""
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"


def gib_text(row: Mapping[str, Any] | None) -> str:
    """Peak memory of a row of ours."""
    return f"{row['peak_rss_mib'] / 1024:.1f} GiB" if row else ""


def pipeline_table() -> str:
    """Ways to watch, and their time by that of the sequential one within a round."""
    if not is_measured("pipeline"):
        return NOT_YET
    rows = [
        [
            way["way"],
            f"{1000 * way['frame_s']:.0f} ms",
            f"{way['time_over_sequential']:.2f} ({way['range'][0]:.2f} to {way['range'][1]:.2f})",
            "yes" if way["same_state"] else "NO",
        ]
        for way in read_result("pipeline")["ways"]
    ]
    return table(["way", "a frame", "by sequential (range)", "same state"], rows)
