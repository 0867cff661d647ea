r"""Our calibration beside those of onnxruntime.quantization and nvidia-modelopt: the vision graph, the same clips.

    python testbed/write_questions.py build/clips --questions 150 --noise 60 --seed 3
    python testbed/write_questions.py build/noisy --questions 1000 --noise 60
    python benchmarks/record.py calibration -- python benchmarks/bench_calibration.py testbed/checkpoint \
        --clips build/clips/questions.jsonl --questions build/noisy/questions.jsonl --modelopt PYTHON

Each quantizes the linear layers of the testbed's tower and projector to 8 bits, weights for each output channel and
activations for the whole tensor, and leaves merging alone. Three measures: the relative error of the tokens position by
position in a twin that merges nothing; the same after four channels of what the layers read were made sixty times as
large and the weights that read them as much smaller, which changes only what quantization makes of it; the answers.

PYTHON is that of an environment with nvidia-modelopt; without it its rows are left out, and the result says so.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnx_ir as ir

from aurora_export.calibration.calibrate import Method, calibrate
from aurora_export.calibration.clips import Clip
from aurora_export.calibration.gate import loss_of
from aurora_export.calibration.measures import Yardstick, remembering
from aurora_export.calibration.questions import read_questions
from aurora_export.calibration.recipes import RECIPES
from aurora_export.calibration.sites import find_sites, site_of_weight
from aurora_export.calibration.smoothing import divided_parameters, fold_smoothing
from aurora_export.calibration.variants import Variants
from aurora_export.calibration.visual_measures import compare_visual, frames_of
from aurora_export.export.bundle import build_bundle
from aurora_export.manifest import digest_files, read_manifest, write_manifest
from aurora_export.model.checkpoint import CheckpointSource, open_checkpoint
from aurora_export.runtime.engine_onnx import OnnxEngine
from aurora_export.runtime.opened_bundle import OpenedBundle, open_bundle

N_CLIPS = 32
N_HELD_OUT = 64
N_OUTLIERS, OUTLIER_FACTOR = 4, 60.0
THREADS = 1
OURS = "ours, "
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Setting:
    """One bundle to quantize, and frames that no calibration sees."""

    opened: OpenedBundle
    calibration: np.ndarray
    """uint8, shape (F, S, S, 3)"""
    clips: tuple[str, ...]
    held_out: np.ndarray

    @property
    def graph(self) -> Path:
        """The float32 vision graph."""
        return self.opened.path / self.opened.manifest.files["vision"]


Quantizer = Callable[[Setting, ExitStack], OpenedBundle]


def ours(method: Method, precision: str = "int8") -> Quantizer:
    """Our scales, and the recipe of a precision on the vision graph."""

    def quantize(setting: Setting, stack: ExitStack) -> OpenedBundle:
        scales_path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "scales.json"
        clips = [Clip(Path(video)) for video in setting.clips]
        scales, _ = calibrate(setting.opened.path, clips, scales_path, progress=Quiet(), method=method, threads=THREADS)
        variants = Variants.of(setting.opened, scales, RECIPES[precision], threads=THREADS)
        groups = frozenset(group for group, graph in variants.graph_of.items() if graph == "vision")
        return stack.enter_context(variants.opened(groups))

    return quantize


def onnxruntime_static(method: str) -> Quantizer:
    """`quantize_static` of ONNX Runtime; method: a name of CalibrationMethod."""

    def quantize(setting: Setting, stack: ExitStack) -> OpenedBundle:
        from onnxruntime import quantization

        out = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "vision.onnx"

        class Reader(quantization.CalibrationDataReader):
            """Each frame once."""

            def __init__(self) -> None:
                self._frames = iter(setting.calibration)

            def get_next(self) -> dict[str, np.ndarray] | None:
                frame = next(self._frames, None)
                return None if frame is None else {"frames": frame[None]}

        quantization.quantize_static(
            str(setting.graph),
            str(out),
            Reader(),
            calibrate_method=quantization.CalibrationMethod[method],
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_quantize=linear_nodes(setting.graph),
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )
        return with_vision(setting, out)

    return quantize


def modelopt(python: str, method: str) -> Quantizer:
    """nvidia-modelopt's ONNX quantization, in its own environment."""

    def quantize(setting: Setting, stack: ExitStack) -> OpenedBundle:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        np.save(folder / "frames.npy", setting.calibration)
        for part in setting.graph.parent.glob("vision.onnx*"):
            shutil.copyfile(part, folder / part.name)
        job = {
            "graph": str(folder / "vision.onnx"),
            "out": str(folder / "quantized.onnx"),
            "frames": str(folder / "frames.npy"),
            "nodes": linear_nodes(setting.graph),
            "mode": "int8",
            "method": method,
        }
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        command = [python, str(HERE / "peer_modelopt.py"), str(folder / "job.json")]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode:
            raise RuntimeError(f"modelopt: {process.stderr.strip().splitlines()[-1]}")
        return with_vision(setting, Path(job["out"]))

    return quantize


def with_vision(setting: Setting, path: Path) -> OpenedBundle:
    """The bundle with another vision graph; its other engines are float32."""
    spec = setting.opened.manifest.contract["vision"]
    return replace(setting.opened, vision=OnnxEngine(path, spec, threads=THREADS))


def linear_nodes(path: Path) -> list[str]:
    """Names of the nodes that ours quantizes too: products with a weight that is a site, pixels excepted."""
    model = onnx.load(path, load_external_data=False)
    found = [(node.name, site_of_weight(node.input[1])) for node in model.graph.node if len(node.input) > 1]
    return [name for name, site in found if site is not None and site != "vision.patch"]


class Quiet:
    """Progress that nobody watches."""

    def phase(self, name: str) -> None:
        """Nothing."""

    def detail(self, text: str) -> None:
        """Nothing."""


def plant_outliers(bundle: Path, sites: str = "vision.*") -> list[str]:
    """Enlarge channels of what layers read, and shrink the weights that read them, in place; returns the sites.

    sites: pattern of those after which to plant, as far as what computes them can carry the factor.  The model
    computes what it did, but for rounding. Weights are read and written one by one.
    """
    manifest = read_manifest(bundle)
    rng = np.random.default_rng(0)
    planted: list[str] = []
    for graph in ("vision", "language"):
        path = bundle / manifest.files[graph]
        model = ir.load(path)
        factors = {}
        for name, site in find_sites(model.graph).items():
            n_channels = site.n_channels
            if fnmatchcase(name, sites) and n_channels and divided_parameters(name, model.graph) is not None:
                factors[name] = np.ones(n_channels, np.float32)
                factors[name][rng.choice(n_channels, N_OUTLIERS, replace=False)] = 1 / OUTLIER_FACTOR
        if factors:
            fold_smoothing(model, factors)
            partial = path.parent / f"planted-{graph}.onnx"
            ir.save(model, partial, external_data=f"{path.name}.data.planted", size_threshold_bytes=2**16)
            del model
            (path.parent / f"{path.name}.data.planted").replace(path.parent / f"{path.name}.data")
            rename_data(partial, f"{path.name}.data").replace(path)
            planted += factors
    write_manifest(bundle, manifest.model_copy(update={"digests": dict(digest_files(bundle))}))
    return planted


def rename_data(path: Path, name: str) -> Path:
    """Let the tensors of a graph file be in a data file of another name."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name
    onnx.save(model, path)
    return path


@contextmanager
def settings(checkpoint: Path, clips: list[str], held_out: list[str]) -> Iterator[dict[str, Setting]]:
    """The bundle as it is, a twin that merges nothing, and that with planted outliers."""
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name, overrides in (("as it is", {}), ("twin", {"merge": {"kept_ratio": 1.0}})):
            loaded = open_checkpoint(CheckpointSource(path=checkpoint), profile=None, overrides=overrides)
            build_bundle(loaded, Path(folder) / name)
            found[name] = setting_of(Path(folder) / name, clips, held_out)
        planted = Path(shutil.copytree(Path(folder) / "twin", Path(folder) / "planted"))
        plant_outliers(planted)
        found["planted"] = setting_of(planted, clips, held_out)
        yield found


def setting_of(bundle: Path, clips: list[str], held_out: list[str]) -> Setting:
    """Open a bundle and read the frames."""
    opened = open_bundle(bundle, threads=THREADS)
    frames = [np.stack(list(frames_of(opened, videos))) for videos in (clips, held_out)]
    return Setting(opened, frames[0], tuple(clips), frames[1][:N_HELD_OUT])


def visual_error(setting: Setting, candidate: OpenedBundle) -> Any:
    """What the tokens of frames that were not calibrated on lose."""
    outputs = [
        {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}
        for side in (candidate, setting.opened)
        for runs in [[side.vision.run({"frames": frame[None]}) for frame in setting.held_out]]
    ]
    return compare_visual(*outputs)


def difference_of_planting(found: dict[str, Setting]) -> float | None:
    """What planting does in float32: rounding, no more."""
    return visual_error(found["twin"], found["planted"].opened).positional


def measure(quantizer: Quantizer, found: dict[str, Setting], yardstick: Yardstick) -> dict[str, Any]:
    """One row of the table."""
    row: dict[str, Any] = {}
    for name, setting in found.items():
        with ExitStack() as stack:
            start = time.perf_counter()
            candidate = quantizer(setting, stack)
            seconds = time.perf_counter() - start
            visual = visual_error(setting, candidate)
            if name == "as it is":
                loss = loss_of(yardstick.measure(candidate), yardstick.outcomes)
                row |= {
                    "accuracy": loss.accuracy,
                    "drop": loss.drop,
                    "drop_error": loss.drop_error,
                    "agreement": loss.agreement,
                    "kl": loss.kl,
                    "kl_error": loss.kl_error,
                    "pooled": visual.pooled,
                    "matched": visual.matched,
                    "seconds": seconds,
                }
            else:
                row[f"error_{name}"] = visual.positional
    return row


def quantizers(modelopt_python: str | None) -> dict[str, Quantizer]:
    """Name of a row -> who quantizes. Ours are named by what they are; which is the default is for the table to say."""
    methods = [
        Method(smoothing="auto"),
        Method(smoothing=0.5),
        *(Method(name=name, smoothing=None) for name in ("mse", "entropy", "percentile", "max")),
    ]
    rows: dict[str, Quantizer] = {
        **{f"{OURS}{method}": ours(method) for method in methods},
        **{f"onnxruntime {method}": onnxruntime_static(method) for method in ("MinMax", "Percentile", "Entropy")},
    }
    if modelopt_python is not None:
        rows |= {f"modelopt {method}": modelopt(modelopt_python, method) for method in ("max", "entropy")}
    return rows


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--clips", type=click.Path(path_type=Path), required=True, help="Questions whose videos calibrate.")
@click.option("--questions", type=click.Path(path_type=Path), required=True, help="What accuracy is measured on.")
@click.option("--modelopt", "modelopt_python", metavar="PYTHON", help="Of an environment with nvidia-modelopt.")
@click.option("--only", metavar="WORD", default="", help="Rows whose names hold it.")
def main(checkpoint: Path, clips: Path, questions: Path, modelopt_python: str | None, only: str) -> None:
    """Print one JSON object."""
    logging.getLogger().setLevel(logging.ERROR)
    asked = read_questions(questions)
    calibrated_on = list(read_questions(clips).videos)[:N_CLIPS]
    if set(calibrated_on) & set(asked.videos):
        raise click.ClickException("a clip is both calibrated on and asked about")
    with settings(checkpoint, calibrated_on, list(asked.videos)[: N_HELD_OUT // 8]) as found:
        yardstick = Yardstick.of(remembering(found["as it is"].opened), asked.questions)
        rounding = difference_of_planting(found)
        rows = {}
        for name, quantizer in quantizers(modelopt_python).items():
            if only in name:
                print(f"{name} ...", file=sys.stderr, flush=True)
                with redirect_stdout(sys.stderr):  # the peers print what they do
                    rows[name] = measure(quantizer, found, yardstick)
    base = loss_of(yardstick.outcomes, yardstick.outcomes)
    result = {
        "what": "the vision graph of the testbed at int8 by several calibrations on the same clips; the rest float32",
        "clips": len(calibrated_on),
        "frames": 8 * len(calibrated_on),
        "questions": len(asked.questions),
        "accuracy_fp32": base.accuracy,
        "planted": f"{N_OUTLIERS} channels after every LayerNorm and attention of the tower, {OUTLIER_FACTOR:g} times",
        "planting_in_float32": rounding,
        "modelopt": "measured" if modelopt_python is not None else "not installed here",
        "rows": rows,
    }
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
