"""From a bundle and clips to a scale file: what is measured, and what is made of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import onnx_ir as ir

from aurora_export.calibration.clips import Clip, Showing, data_digest
from aurora_export.calibration.error_feedback import save_moments
from aurora_export.calibration.ranges import DEFAULT_PERCENTILE, METHODS, choose_range
from aurora_export.calibration.scales_file import (
    FORMAT,
    Data,
    Residual,
    Scales,
    TensorRange,
    graph_digest,
    read_scales,
    write_scales,
)
from aurora_export.calibration.sites import Site, find_sites
from aurora_export.calibration.smoothing import divided_parameters, smoothing_factors, weight_maxima
from aurora_export.calibration.smoothing_choice import chosen_factors
from aurora_export.calibration.streaming_pass import Pass, Seen, working_folder
from aurora_export.calibration.tensor_statistics import TensorStatistics
from aurora_export.errors import IncompatibleError, ResourceError, UsageError
from aurora_export.manifest import Manifest, read_manifest, resolve, verify_files

HALF_HEADROOM = 65504 / 4
"""What float16 holds, less two powers of two for what the clips did not show."""

MAX_DIVISOR = 64
MAX_MOMENT_BYTES = 2 * 2**30

_log = logging.getLogger(__name__)


class ProgressReporter(Protocol):
    """What shows how far a calibration is."""

    def phase(self, name: str) -> None:
        """Begin a phase; the one before is finished."""

    def detail(self, text: str) -> None:
        """Say how far the phase is; cheap enough to be called often."""


@dataclass(frozen=True)
class Method:
    """How ranges are chosen from what was seen."""

    name: str = "mse"
    percentile: float = DEFAULT_PERCENTILE
    smoothing: float | Literal["auto"] | None = "auto"
    """alpha of SmoothQuant, 0 to 1; auto: 0.5, only where it is expected to help; None: no smoothing"""
    moments_of: tuple[str, ...] = ()
    """patterns of sites whose second moments are kept, for error feedback"""

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise UsageError(f"method {self.name}: unknown", hint=f"one of {', '.join(METHODS)}")
        if isinstance(self.smoothing, float | int) and not 0 <= self.smoothing <= 1:
            raise UsageError(f"smoothing is {self.smoothing:g}; from 0 to 1 is possible")
        if not 50 <= self.percentile <= 100:
            raise UsageError(f"percentile is {self.percentile:g}; from 50 to 100 is possible")

    def __str__(self) -> str:
        """As the scale file names it; smoothing is named where there is some."""
        name = f"percentile {self.percentile:g}" if self.name == "percentile" else self.name
        alpha = self.smoothing
        smoothing = "" if alpha is None else f", smoothing {alpha if isinstance(alpha, str) else format(alpha, 'g')}"
        return name + smoothing + (f", moments of {' '.join(self.moments_of)}" if self.moments_of else "")

    def wants_moments(self, site: str) -> bool:
        """Whether the second moments of a site are kept."""
        return any(fnmatchcase(site, pattern) for pattern in self.moments_of)


def calibrate(
    bundle: Path,
    clips: Sequence[Clip],
    out: Path,
    *,
    progress: ProgressReporter,
    showing: Showing | None = None,
    method: Method | None = None,
    threads: int | None = None,
) -> tuple[Scales, bool]:
    """Measure the activations of a float32 bundle on clips, and write the scale file; returns it, and if it is new.

    A file that is there already is used as it is, if it is of this model, these clips and this method; else it is
    refused (IncompatibleError). Raises IncompatibleError for a bundle of another precision, IntegrityError for an
    activation that is not finite, UsageError for a tensor that is zero in all clips, and what reading videos raises.
    """
    showing, method = showing or Showing(), method or Method()
    manifest = read_manifest(bundle)
    if manifest.precision != "fp32":
        raise IncompatibleError(
            f"{bundle}: is {manifest.precision}; ranges are measured on the float32 graphs",
            hint="build the bundle with --precision fp32",
        )
    progress.phase("verify the bundle")
    verify_files(bundle, manifest, lambda path, _: progress.detail(path))
    progress.phase("read the clips")
    data = data_digest(clips, showing)
    models = {name: ir.load(resolve(bundle, manifest, name)) for name in manifest.contract}
    graphs = {name: graph_digest(model) for name, model in models.items()}
    if out.exists():
        return _reused(out, graphs, data, method), False
    sites = {name: find_sites(model.graph) for name, model in models.items()}
    with_moments = _with_moments(sites, method)
    key = {"graphs": graphs, "data": data, "moments": sorted(with_moments), "showing": asdict(showing)}
    with working_folder(out, key) as folder:
        run = Pass(
            bundle=bundle,
            manifest=manifest,
            clips=clips,
            showing=showing,
            taps={name: _taps(sites[name], _residuals(manifest, name)) for name in sites},
            with_moments=with_moments,
            folder=folder,
            threads=threads,
        )
        progress.phase("vision")
        seen = {"vision": run.run_vision(progress.detail)}
        progress.phase("language")
        seen["language"] = run.run_language(progress.detail)
        progress.phase("choose the ranges")
        scales = _scales(models, sites, seen, manifest, method, graphs, data, len(clips))
        if with_moments:
            save_moments(_moments(sites, seen), out, of=scales)
        write_scales(scales, out)
    return read_scales(out), True


def _reused(out: Path, graphs: Mapping[str, str], data: str, method: Method) -> Scales:
    """The scales that are there. Raises IncompatibleError, with the reason, if they are of something else."""
    found, hint = read_scales(out), "give another --out, or remove the file to calibrate anew"
    for name, digest in graphs.items():
        if found.graphs.get(name) != digest:
            raise IncompatibleError(f"{out}: exists, and is of another model: its {name} graph differs", hint=hint)
    if found.data.digest != data:
        raise IncompatibleError(f"{out}: exists, and is of other clips, or of clips shown otherwise", hint=hint)
    if found.method != str(method):
        raise IncompatibleError(f"{out}: exists, and its method is {found.method!r}, not {str(method)!r}", hint=hint)
    return found


def _taps(sites: Mapping[str, Site], residuals: Sequence[str]) -> dict[str, str]:
    """Name of a value -> the site that it is of, or its own name."""
    return {site.activation.name or "": site.name for site in sites.values()} | {name: name for name in residuals}


def _residuals(manifest: Manifest, graph: str) -> list[str]:
    return manifest.layer_outputs[graph] if graph == "language" else []


def _with_moments(sites: Mapping[str, Mapping[str, Site]], method: Method) -> frozenset[str]:
    """Values of the graphs whose second moments are wanted. Raises ResourceError if they are too many."""
    wanted = {
        site.activation.name or "": site.n_channels
        for of_graph in sites.values()
        for name, site in of_graph.items()
        if method.wants_moments(name)
    }
    if method.moments_of and not wanted:
        raise UsageError(f"no site is called {' or '.join(method.moments_of)}", hint="as in language.*.att.k")
    n_bytes = sum(4 * n_channels**2 for n_channels in wanted.values())
    if n_bytes > MAX_MOMENT_BYTES:
        raise ResourceError(
            f"second moments of {len(wanted)} tensors take {n_bytes / 1e9:.1f} GB, over {MAX_MOMENT_BYTES / 1e9:.1f}",
            hint="name fewer, as language.[0-7].*, and calibrate several times",
        )
    return frozenset(wanted)


def _scales(
    models: Mapping[str, ir.Model],
    sites: Mapping[str, Mapping[str, Site]],
    seen: Mapping[str, Seen],
    manifest: Manifest,
    method: Method,
    graphs: Mapping[str, str],
    data: str,
    n_clips: int,
) -> Scales:
    tensors = {}
    for graph, of_graph in sites.items():
        for name, site in of_graph.items():
            statistics = seen[graph].tensors[site.activation.name or ""]
            tensors[name] = _range_of(name, site, statistics, models[graph].graph, method)
    maximum = max(seen["language"].tensors[name].maximum for name in manifest.layer_outputs["language"])
    return Scales(
        format=FORMAT,
        graphs=dict(graphs),
        data=Data(
            digest=data,
            clips=n_clips,
            frames=seen["vision"].n_frames,
            tokens=seen["language"].n_tokens,
            steps=seen["language"].n_steps,
        ),
        method=str(method),
        residual=Residual(maximum=maximum, divisor=divisor_for(maximum)),
        tensors=tensors,
    )


def divisor_for(maximum: float) -> int:
    """The power of two that brings a residual stream of this maximum into float16, at most MAX_DIVISOR."""
    divisor = 1
    while maximum / divisor > HALF_HEADROOM and divisor < MAX_DIVISOR:
        divisor *= 2
    return divisor


def _range_of(name: str, site: Site, statistics: TensorStatistics, graph: ir.Graph, method: Method) -> TensorRange:
    if statistics.maximum == 0:
        raise UsageError(
            f"{name}: is zero throughout all clips: there is no range to choose",
            hint="give more clips, and others: what is never active cannot be calibrated",
        )
    n_dead = statistics.n_dead_channels
    if n_dead:
        _log.debug("%s: %d of %d channels are zero throughout", name, n_dead, len(statistics.channel_maxima))
    ends = {
        kind: choose_range(statistics, kind, method=method.name, percentile=method.percentile)
        for kind in ("int8", "fp8")
    }
    factors = None
    if method.smoothing is not None and divided_parameters(name, graph) is not None:
        if method.smoothing == "auto":
            factors = chosen_factors(site, statistics, ends["int8"])
        else:
            factors = smoothing_factors(statistics.channel_maxima, weight_maxima(site), method.smoothing)
    if factors is not None:
        # Of smoothed channels only the maxima are known; outliers, which the other methods clip, are gone.
        ends = dict.fromkeys(ends, float((statistics.channel_maxima / factors).max()))
    smoothing = None if factors is None else tuple(float(factor) for factor in factors)
    return TensorRange(**ends, maximum=statistics.maximum, dead_channels=n_dead, smoothing=smoothing)


def _moments(sites: Mapping[str, Mapping[str, Site]], seen: Mapping[str, Seen]) -> dict[str, np.ndarray]:
    """Site -> X^T X / rows."""
    found = {}
    for graph, of_graph in sites.items():
        for name, site in of_graph.items():
            statistics = seen[graph].tensors[site.activation.name or ""]
            if statistics.moments is not None:
                found[name] = statistics.moments / max(statistics.n_rows, 1)
    return found
