r"""What calibrating the 2B model takes: time and peak memory of `aurora-export calibrate`, a process of its own.

    python testbed/full_size.py build/released --layout released --language rwkv6-1b6 --dtype fp16
    aurora-export build build/released --out build/full_size/fp32.aurora
    python testbed/write_questions.py build/clips --questions 150 --noise 60 --seed 3
    python benchmarks/record.py full_size_calibration -- python benchmarks/bench_full_size_calibration.py \
        build/full_size/fp32.aurora --clips build/clips/questions.jsonl --out build/full_size/scales.json

Random weights: only time and memory mean anything. The scale file is kept.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import click
from bench_full_size import aurora_export, measure

from aurora_export.calibration.questions import read_questions
from aurora_export.calibration.scales_file import read_scales
from aurora_export.errors import UsageError


def write_list(path: Path, questions: Path, n_clips: int) -> None:
    """Write the first clips of a file of questions, each once, with its first question."""
    asked = {question.video: question.prompt for question in reversed(read_questions(questions).questions)}
    chosen = sorted(asked.items())[:n_clips]
    if len(chosen) < n_clips:
        raise UsageError(f"{questions}: {len(chosen)} videos; {n_clips} are needed")
    lines = [json.dumps({"video": str(Path(video).resolve()), "prompt": prompt}) for video, prompt in chosen]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--clips", type=click.Path(path_type=Path), required=True, help="Questions, for their videos.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The scale file; must not exist.")
@click.option("--n-clips", type=int, default=32, show_default=True)
@click.option("--num-frames", type=int, default=8, show_default=True)
@click.option("--threads", type=int, default=2, show_default=True)
def main(bundle: Path, clips: Path, out: Path, n_clips: int, num_frames: int, threads: int) -> None:
    """Print one JSON object."""
    if out.exists():
        raise click.ClickException(f"{out}: exists; remove it, or nothing would be measured")
    with tempfile.TemporaryDirectory() as folder:
        chosen = Path(folder) / "clips.jsonl"
        write_list(chosen, clips, n_clips)
        options = ("--data", chosen, "--out", out, "--num-frames", num_frames, "--threads", threads)
        figures, output = measure(aurora_export("calibrate", bundle, *options))
    print(output, file=sys.stderr)
    scales = read_scales(out)
    result = {
        "what": "aurora-export calibrate of the 2B model, random weights",
        "threads": threads,
        **scales.data.model_dump(exclude={"digest"}),
        "tensors": len(scales.tensors),
        "method": scales.method,
        "minutes": round(figures["wall_s"] / 60, 1),
        **figures,
    }
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
