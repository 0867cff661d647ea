"""Tables of docs/PERFORMANCE.md and docs/EMBEDDING.md: where the time goes on a CPU, and what the C++ runtime costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from result_tables import NOT_YET, is_measured, ratio_text, read_result, table


def vision_table() -> str:
    """Time of a frame on each side, and how many times ours, in turns."""
    rows = [
        [
            name,
            f"{side['seconds']:.3f} s",
            f"{side['lowest_s']:.3f} to {side['highest_s']:.3f} s",
            "" if side["time_over_native"] == 1 else ratio_text(side),
        ]
        for name, side in read_result("vision_speed")["sides"].items()
    ]
    return table(["vision graph", "a frame", "lowest to highest", "ours is faster by (range)"], rows)


def products_table() -> str:
    """The loop of 8-bit products alone: its share of the peak, by size of block, tokens and layer."""
    if not is_measured("products"):
        return NOT_YET
    rows = read_result("products")["rows"]
    cells = {(row["block_size"], row["n_tokens"], row["layer"]): row["share_of_int8_peak"] for row in rows}
    columns = list(dict.fromkeys((row["n_tokens"], row["layer"]) for row in rows))
    lines = [
        [str(size), *(f"{cells[(size, *column)]:.2f}" for column in columns)]
        for size in dict.fromkeys(row["block_size"] for row in rows)
    ]
    head = [f"{n_tokens} tokens, {layer.replace('x', ' × ')}" for n_tokens, layer in columns]
    return table(["inputs of a block", *head], lines)


def several_frames_table() -> str:
    """Time of a frame when several go through the vision graph at once."""
    rows = [
        [str(row["n_frames"]), f"{row['seconds_a_frame']:.3f} s", f"{row['over_one_at_a_time']:.2f}"]
        for row in read_result("vision_speed")["several_frames"]
    ]
    return table(["frames at once", "a frame", "of one at a time"], rows)


def profile_table() -> str:
    """Where the time goes, by operator; what is under a hundredth everywhere is put together."""
    work = read_result("profile")["work"]
    shares: dict[str, dict[str, float]] = {}
    for name, found in work.items():
        for row in found["operators"]:
            shares.setdefault(row["operator"], {})[name] = row["ms"]
    shown = {key: ms for key, ms in shares.items() if any(ms.get(name, 0) > work[name]["ms"] / 100 for name in work)}
    rest = {name: sum(ms.get(name, 0) for key, ms in shares.items() if key not in shown) for name in work}
    order = sorted(shown, key=lambda key: -max(shown[key].get(name, 0) / work[name]["ms"] for name in work))
    rows = [[f"`{key}`", *(profile_cell(shown[key].get(name, 0), work[name]) for name in work)] for key in order]
    rows.append(["all others", *(profile_cell(rest[name], work[name]) for name in work)])
    rows.append(["outside of operators", *(profile_cell(work[name]["outside_ms"], work[name]) for name in work)])
    rows.append(["together", *(f"{work[name]['ms']:.0f} ms" for name in work)])
    return table(["", *work], rows)


def profile_cell(ms: float, work: Mapping[str, Any]) -> str:
    """A time and its share."""
    return f"{ms:.1f} ms, {ms / work['ms']:.0%}" if ms else ""


def cpp_table() -> str:
    """The C++ runtime: beside Python on a full-size bundle, and what it costs by itself."""
    result = read_result("cpp_runtime")
    rows = []
    for row in result["rows"]:
        low, high = row["python_over_cpp_range"]
        name = {"frame": "a frame, full size, int8", "token": "an answer token, full size, int8"}[row["unit"]]
        ratio = f"{row['python_over_cpp']:.2f} times that in Python ({low:.2f} to {high:.2f})"
        rows.append([name, f"{row['cpp_ms']:.1f} ms; {ratio}"])
    return table(
        ["", "measured"],
        [
            *rows,
            ["frames one by one, by those of one call for four", f"{result['frame_over_together']:.2f}"],
            ["a token beside the engine, 65536 ids", f"{result['token_us']:.0f} µs"],
            ["allocations of a token", f"{result['allocations_a_token']:g}"],
            ["opening the testbed's bundle, digests included", f"{result['open_testbed_ms']:.0f} ms"],
            ["libaurora.so, stripped, operators included", f"{result['library_bytes'] / 1000:.0f} kB"],
        ],
    )
