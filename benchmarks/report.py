"""The tables of the documents, from the result files: no number is typed by hand.

python benchmarks/report.py           puts them between the markers in the documents
python benchmarks/report.py --check   says which documents are out of date
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from report_calibration import (
    calibration_table,
    full_size_calibration_table,
    limits_table,
    planted_table,
    quantized_table,
    rounding_table,
)
from report_devices import engine_build_table, kernel_code_table, where_run_table
from report_peers import (
    peers_table,
    pipeline_table,
    transformer_plot,
    transformer_ratios,
    transformer_table,
    watching_table,
)
from report_performance import cpp_table, products_table, profile_table, several_frames_table, vision_table
from result_tables import ROOT, ratio_text, read_result, table

KINDS = ("colour", "shape", "count", "order", "direction", "caption")


def accuracy_table() -> str:
    """Accuracy of the testbed through its bundle, by prompt form and by length of the video."""
    result = read_result("testbed_accuracy")
    encoded = read_result("testbed_accuracy_encoded")
    rows = [
        accuracy_row(f"{result['questions']} questions", result["accuracy"]),
        *(accuracy_row(f"… prompt form {form}", row) for form, row in result["accuracy_by_prompt_form"].items()),
        *(accuracy_row(f"… of {n} frames", row) for n, row in result["accuracy_by_frames"].items()),
        accuracy_row(f"{encoded['questions']} questions about H.264 files", encoded["accuracy"]),
        *(
            accuracy_row(f"the first row at {precision}", read_result(f"testbed_accuracy_{precision}")["accuracy"])
            for precision in ("int8", "int4")
        ),
        *(
            accuracy_row(
                f"the first row under noise, {precision}",
                read_result(f"testbed_accuracy_noise_{precision}")["accuracy"],
            )
            for precision in ("fp32", "int8", "int4")
        ),
    ]
    return table(["testbed, greedy, fp32 but for the last rows", *KINDS], rows)


def accuracy_row(name: str, accuracy: Mapping[str, float]) -> list[str]:
    """One row, in per cent."""
    return [name, *(f"{100 * accuracy[kind]:.1f} %" for kind in KINDS)]


def memory_table() -> str:
    """Peak memory of `aurora-export run` by the length of the video."""
    runs = read_result("memory_by_length")["runs"]
    rows = [
        [
            f"{run['video_seconds']} s",
            str(run["n_frames"]),
            str(run["n_visual_tokens"]),
            f"{run['peak_rss_mib']} MiB",
            f"{1000 * sum(run['seconds'][stage] for stage in ('question', 'answer')):.1f} ms",
        ]
        for run in runs
    ]
    return table(
        ["video", "frames watched", "visual tokens", "peak memory of the process", "question and answer"], rows
    )


def ablation_tables() -> str:
    """What another order or kept ratio costs at run time, on scenes like the training's and on noisy ones."""
    result = read_result("testbed_ablation")
    parts = []
    for name, title in (("order", "order"), ("kept_ratio", "kept ratio")):
        head = [title, "tokens a frame"]
        for noise in result[name]:
            head += [f"all, {noise}", "difference"]
        rows = []
        for row, *others in zip(*result[name].values(), strict=True):
            cells = [cell for entry in (row, *others) for cell in ablation_cells(entry, is_baseline=not rows)]
            rows.append([row["setting"], str(row["tokens_per_frame"]), *cells])
        parts.append(table(head, rows))
    return "\n\n".join(parts)


def ablation_cells(row: Mapping[str, Any], *, is_baseline: bool) -> tuple[str, str]:
    """Accuracy and its paired difference to the first row, each with its standard error, in per cent."""
    accuracy = f"{100 * row['accuracy']['all']:.1f} ± {100 * row['standard_error']['all']:.1f}"
    if is_baseline:
        return accuracy, ""
    difference = f"{100 * row['difference']:+.1f} ± {100 * row['difference_standard_error']:.1f}"
    return accuracy, difference if row["measurable"] else f"{difference}, not measurable"


def packing_table() -> str:
    """Size of a packed checkpoint by how it is packed and how far it is from the one before."""
    result = read_result("state_packing")
    periods = sorted({row["frames_between"] for row in result["rows"]})
    shares = {(row["packing"], row["frames_between"]): row["share_of_raw"] for row in result["rows"]}
    times = {row["packing"]: row["time_ratio"] for row in result["rows"] if row["frames_between"] == periods[-1]}
    rows = [
        [packing, *(f"{100 * shares[packing, period]:.1f} %" for period in periods), f"{times[packing]:.2g}"]
        for packing in times
    ]
    head = ["packed", *(f"{period} frame{'s' * (period > 1)} apart" for period in periods), "time, to what is used"]
    return table(head, rows)


def frames_table() -> str:
    """Memory and times by the number of frames watched; times as multiples of those of the first row."""
    runs = read_result("memory_by_frames")["runs"]
    first = runs[0]
    rows = [
        [
            str(run["n_frames"]),
            f"{run['peak_rss_mib']} MiB",
            f"{run['state_bytes']}",
            f"{run['frame_ms_first_tenth'] / first['frame_ms_last_tenth']:.2f}",
            f"{run['frame_ms_last_tenth'] / first['frame_ms_last_tenth']:.2f}",
            f"{run['question_ms'] / first['question_ms']:.2f}",
            "yes" if run["restored_is_uninterrupted"] else "NO",
        ]
        for run in runs
    ]
    head = ["frames watched", "peak memory of the process", "state file, bytes", "time per frame, first tenth"]
    head += ["… last tenth", "question and answer", "restored equals uninterrupted"]
    return table(head, rows)


def remembering_table() -> str:
    """What is right about a scene by how much was watched since."""
    result = read_result("remembering")
    kinds = ("colour", "shape", "count", "order", "direction")
    rows = []
    for of, title in (("nothing", "empty scenes"), ("objects", "scenes of other objects")):
        for row in result[of]:
            cells = [f"{100 * row[kind]:.0f} %" if kind in row else "" for kind in kinds]
            error = f"{100 * row['all']:.1f} ± {100 * row['standard_error']:.1f} %"
            rows.append([title, str(row["frames_since"]), error, *cells])
    return table(["since then", "frames", "right", *kinds], rows)


def full_size_build_table() -> str:
    """What a build and a check with layers take at full size: time, memory, errors."""
    builds, checks = read_result("full_size_build"), read_result("full_size_check")
    checked = {row["precision"]: row for row in checks["checks"]}
    rows = [
        [
            row["precision"],
            f"{row['bundle_bytes'] / 1e9:.2f} GB",
            f"{row['wall_s']:.0f} s",
            f"{gigabytes(row):.2f} GB",
            f"{checked[row['precision']]['wall_s']:.0f} s",
            f"{gigabytes(checked[row['precision']]):.2f} GB",
            f"{row['verification']['outputs']['logits']['error']:.1e}",
            f"{row['verification']['outputs']['next_wkv']['error']:.1e}",
        ]
        for row in builds["builds"]
    ]
    head = ["precision", "bundle", "build", "its peak memory", "check with layers", "its peak memory"]
    return table([*head, "error of logits", "of the state"], rows)


def full_size_run_table() -> str:
    """Memory and time of the int8 bundle at full size, by the number of frames."""
    result = read_result("full_size_run")
    rows = []
    for run in result["runs"]:
        seconds, n_frames = run["seconds"], run["n_frames"]
        watching = sum(seconds[stage] for stage in ("decode", "resize", "vision", "prefill"))
        rows.append(
            [
                str(n_frames),
                str(run["n_visual_tokens"]),
                f"{gigabytes(run):.2f} GB",
                f"{seconds['open']:.1f} s",
                f"{watching / n_frames:.2f} s",
                f"{seconds['question']:.2f} s",
                f"{1000 * seconds['answer'] / run['n_answer_tokens']:.0f} ms",
            ]
        )
    head = ["frames watched", "visual tokens", "peak memory of the process", "open", "a frame", "question"]
    return table([*head, "an answer token"], rows)


def language_table() -> str:
    """Speed of the int8 language graph, and by how much it is faster than the same weights in plain ONNX Runtime."""
    result = read_result("language_speed")
    rows = []
    for run in result["runs"]:
        native = run["native"]
        if run["n_tokens"] == 1:
            share = f"{native['share_of_plain_reads']:.0%} of plain reads"
        else:
            share = f"{native['share_of_int8_peak']:.0%} of 8-bit products"
        others = [ratio_text(run[name]) if name in run else "" for name in ("plain", "dynamic")]
        rows.append([str(run["n_tokens"]), f"{native['tokens_per_s']:.0f}", share, *others])
    head = [
        "tokens in a run",
        "tokens/s",
        "of what the machine can do",
        "faster than MatMulNBits",
        "than DynamicQuantizeMatMul",
    ]
    return table(head, rows)


def gigabytes(row: Mapping[str, Any]) -> float:
    """Peak resident memory of a whole process."""
    return row["peak_rss_mib"] * 2**20 / 1e9


TABLES = {
    "README.md": {
        "accuracy": accuracy_table,
        "memory": memory_table,
        "full size": full_size_run_table,
        "language": language_table,
        "peers": peers_table,
    },
    "docs/CALIBRATION.md": {
        "full size": full_size_calibration_table,
        "rounding": rounding_table,
        "quantized": quantized_table,
        "quantized without noise": lambda: quantized_table("quantized_without_noise"),
        "limits": limits_table,
        "calibration": calibration_table,
        "planted": planted_table,
        "planted at full size": lambda: planted_table("full_size_planted"),
    },
    "docs/CHECKPOINTS.md": {"full size": full_size_build_table},
    "docs/DEVICES.md": {"engine_build": engine_build_table, "where": where_run_table},
    "docs/PEERS.md": {
        "pipeline": pipeline_table,
        "transformer ratios": transformer_ratios,
        "transformer plot": transformer_plot,
        "transformer": transformer_table,
        "watching": watching_table,
    },
    "docs/EMBEDDING.md": {"cpp": cpp_table},
    "docs/PERFORMANCE.md": {
        "profile": profile_table,
        "products": products_table,
        "vision": vision_table,
        "several frames": several_frames_table,
    },
    "docs/STATES.md": {"frames": frames_table, "remembering": remembering_table, "packing": packing_table},
    "plugins/wkv/README.md": {"kernel code": kernel_code_table},
    "testbed/README.md": {"ablation": ablation_tables},
}
"""Document -> marker in it -> what stands there."""


def with_tables(document: str) -> str:
    """A document's text, its tables made anew. Raises ValueError if a marker is missing."""
    text = (ROOT / document).read_text(encoding="utf-8")
    for name, make in TABLES[document].items():
        begin, end = f"<!-- table: {name} -->", f"<!-- end of {name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"{document} has no {begin} ... {end}")
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{make()}\n{end}{rest.partition(end)[2]}"
    return text


def main() -> int:
    """Write or check the tables; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="say which documents are out of date; exit code 1 if any")
    stale = [document for document in TABLES if with_tables(document) != (ROOT / document).read_text(encoding="utf-8")]
    if parser.parse_args().check:
        print("\n".join(f"{document} is not what the result files say" for document in stale), end="")
        return int(bool(stale))
    for document in stale:
        (ROOT / document).write_text(with_tables(document), encoding="utf-8")
        print(f"{document}: tables written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
