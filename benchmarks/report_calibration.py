"""Tables of docs/CALIBRATION.md: what quantization costs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from result_tables import NOT_YET, is_measured, read_result, table

from aurora_export.calibration.calibrate import Method

OURS = "ours, "
"""Begins the names of our own rows of `calibration.json`, before the method."""


def method_text(method: str) -> str:
    """A method as a scale file names it, for a reader: what it does to channels, and whether it is the default.

    What is the default is known here, not in a result file: that says what was measured.
    """
    method = re.sub(r" \(default\)$|, moments of .*", "", method)
    is_default = method == str(Method())
    text = method if "smoothing" in method else f"{method}, no smoothing"
    return f"{text} (default)" if is_default else text


def quantized_table(name: str = "quantized") -> str:
    """What each precision loses against fp32 on the testbed, under noise or by another result file."""
    if not is_measured(name):
        return NOT_YET
    result = read_result(name)
    rows = [["fp32", "", f"{100 * result['accuracy_fp32']:.1f} %", *[""] * 7]]
    for row in result["rows"]:
        loss, drift = row["loss"], row["drift"][-1]
        gate = row["gate"]
        sure = "" if gate["is_decided"] else ", not decided"
        rows.append(
            [
                precision_text(row),
                f"{row['megabytes']:.1f} MB",
                f"{100 * loss['accuracy']:.1f} %",
                f"{0.0 - row['drop']:+.2f} ± {row['drop_error']:.2f}",
                f"{gate['max_drop']:g}: {'holds' if gate['holds'] else 'fails'}{sure}",
                f"{100 * loss['agreement']:.2f} %",
                f"{loss['kl']:.1e}",
                f"{max(drift['states'].values()):.1e}",
                f"{row['errors_of_the_build'].get('visual_tokens.pooled', 0):.2f}",
                f"{max(row['errors_of_the_build'][f'next_{name}'] for name in drift['states']):.2f}",
            ]
        )
    head = ["precision", "bundle", "right answers", "points", "gate", "same token", "KL, nats"]
    head.append(f"state after {result['rows'][0]['drift'][-1]['n_tokens']} tokens")
    return table([*head, "build: pooled", "build: states"], rows)


def precision_text(row: Mapping[str, Any]) -> str:
    """The precision of a bundle, how its activations were calibrated, and what is not by default about it."""
    parts = [row["precision"]]
    if row.get("method") and row["precision"].endswith("-qdq"):
        parts.append(method_text(row["method"]))
    if row.get("error_feedback"):
        parts.append("error feedback")
    return ", ".join(parts)


def rounding_table() -> str:
    """Error of outputs by error feedback over that of rounding each weight by itself."""
    rows = [
        [
            f"`{kind}`",
            str(row["weights"]),
            *(f"{row[name]['mean']:.2f}, {row[name]['worst']:.2f}" for name in ("int8", "int4")),
        ]
        for kind, row in read_result("rounding")["rows"].items()
    ]
    return table(["layers", "weights", "int8: mean, worst", "int4: mean, worst"], rows)


def limits_table() -> str:
    """Errors that a build limits, and what they cost in answers; from the least lost to the most."""
    result = read_result("quantization_limits")
    names = ("visual_tokens.pooled", "visual_tokens.matched", "token_sizes", "logits")
    names = (*names, "next_att_shift", "next_ffn_shift", "next_wkv")
    rows = [["limit", *(f"{result['limits'][name]:.2f}" for name in names), "", ""]]
    for row in sorted(result["rows"], key=lambda row: row["drop"]):
        errors = row["errors"]
        rows.append(
            [
                f"{row['factor']:g}",
                *(f"{errors.get(name, 0):.2f}" for name in names),
                "fails" if is_beyond(errors, result["limits"]) else "passes",
                f"{0.0 - row['drop']:+.1f} ± {row['drop_error']:.1f}",
            ]
        )
    points = f"points, {result['questions']} questions"
    return table(["ends times", *(f"`{name}`" for name in names), "a build", points], rows)


def is_beyond(errors: Mapping[str, float], limits: Mapping[str, float]) -> bool:
    """Whether a build with these errors fails, as `Comparison` decides it."""
    return any(error > limits[name] for name, error in errors.items())


def calibration_table() -> str:
    """Our calibrations of the vision graph at int8 beside those of others."""
    rows = [
        [
            f"{OURS}{method_text(name.removeprefix(OURS))}" if name.startswith(OURS) else name,
            f"{100 * row['error_twin']:.2f} %",
            f"{100 * row['error_planted']:.2f} %",
            f"{100 * row['accuracy']:.1f} %",
            f"{0.0 - row['drop']:+.2f} ± {row['drop_error']:.2f}",
            f"{row['kl']:.3f} ± {row['kl_error']:.3f}",
        ]
        for name, row in read_result("calibration")["rows"].items()
    ]
    head = ["calibration", "error, nothing merged", "… with outliers", "right answers", "points", "KL, nats"]
    return table(head, rows)


def full_size_calibration_table() -> str:
    """What calibrating the 2B model takes."""
    result = read_result("full_size_calibration")
    head = ["method", "clips", "frames", "tokens in runs", "one by one", "tensors", "threads", "time"]
    head += ["peak memory", "… anonymous"]
    row = [str(result[name]) for name in ("clips", "frames", "tokens", "steps", "tensors", "threads")]
    row = [method_text(result["method"]), *row]
    memory = [f"{result[name] * 2**20 / 1e9:.1f} GB" for name in ("peak_rss_mib", "peak_anonymous_mib")]
    return table(head, [[*row, f"{result['minutes']:.0f} min", *memory]])


def planted_table(name: str = "testbed_planted") -> str:
    """Errors of int8 with planted outlier channels, by calibration; of the testbed, or by another result file."""
    if not is_measured(name):
        return NOT_YET
    result = read_result(name)
    rows = []
    for row in result["rows"]:
        visual, drift = row["visual"], row["drift"]
        worst = [max(entry["states"].values()) for entry in drift]
        cells = [f"{visual['pooled']:.4f}", f"{visual['matched']:.4f}"]
        rows.append(
            [method_text(row["method"]), *cells, f"{worst[0]:.3f}", f"{worst[-1]:.3f}", f"{drift[-1]['logits']:.3f}"]
        )
    ends = [entry["n_tokens"] for entry in result["rows"][0]["drift"]]
    head = ["calibration", "pooled cosine", "matched cosine", f"state after {ends[0]} tokens"]
    return table([*head, f"… after {ends[-1]}", "logits there"], rows)
