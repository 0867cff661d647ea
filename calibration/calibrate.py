"""From a bundle and clips to a scale file: what is measured, and what is made of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import onnx_ir as ir

from aurora_export.calibration.clips import Clip, Showing, data_digest
from aurora_export.calibration.moments import MomentsFile, moment_bytes, moments_path
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
from aurora_export.calibration.streaming_pass import SEEN_FILES, Pass, Seen, working_folder
from aurora_export.calibration.tensor_statistics import TensorStatistics
from aurora_export.errors import IncompatibleError, ResourceError, UsageError
from aurora_export.manifest import Manifest, read_manifest, resolve, verify_files

HALF_HEADROOM = 65504 / 4
"""What float16 holds, less two powers of two for what the clips did not show."""

MAX_DIVISOR = 64
MAX_MOMENT_BYTES = 2 * 2**30
"""Of second moments in memory at once: where there are more, the clips are seen once for each group that fits."""

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
    groups = _moment_groups(sites, method)
    key = {"graphs": graphs, "data": data, "moments": groups, "showing": asdict(showing)}
    with working_folder(out, key) as folder:
        moments = _moments_file(folder, sites, groups, graphs, data)
        seen = {}
        for graph in sites:
            first = Pass(
                bundle=bundle,
                manifest=manifest,
                clips=clips,
                showing=showing,
                graph=graph,
                taps=_taps(sites[graph].values(), _residuals(manifest, graph)),
                folder=folder,
                threads=threads,
            )
            seen[graph] = _run_passes(first, sites[graph], groups[graph], moments, progress)
        progress.phase("choose the ranges")
        scales = _scales(models, sites, seen, manifest, method, graphs, data, len(clips))
        if moments is not None:
            moments.path.replace(moments_path(out))
        write_scales(scales, out)
    return read_scales(out), True


def _run_passes(
    first: Pass,
    sites: Mapping[str, Site],
    groups: Sequence[Sequence[str]],
    moments: MomentsFile | None,
    progress: ProgressReporter,
) -> Seen:
    """All statistics of a graph by a first pass, and the moments of one group of sites by each; returns the first's."""
    n_passes = max(len(groups), 1)
    found = None
    for part in range(n_passes):
        wanted = {name: sites[name] for name in (groups[part] if groups else ())}
        of_group = _taps(wanted.values())
        run = replace(first, part=part, with_moments=frozenset(of_group), taps=of_group if part else first.taps)
        progress.phase(first.graph if n_passes == 1 else f"{first.graph}, pass {part + 1} of {n_passes}")
        seen = run.run(progress.detail)
        if moments is not None and run.has_moments(seen):
            for name, site in wanted.items():
                statistics = seen.tensors[site.activation.name or ""]
                moments.put(name, statistics.take_moments() / np.float32(statistics.n_rows))
            run.save(seen)  # without the moments: the file has them
        found = found or seen
    assert found is not None
    return found


def _moments_file(
    folder: Path,
    sites: Mapping[str, Mapping[str, Site]],
    groups: Mapping[str, Sequence[Sequence[str]]],
    graphs: Mapping[str, str],
    data: str,
) -> MomentsFile | None:
    """Where the moments go meanwhile; None if none are wanted."""
    names = [(graph, name) for graph, of_graph in groups.items() for group in of_graph for name in group]
    if not names:
        return None
    path = folder / "moments"
    if not path.exists():
        # Passes whose moments were in it are to be run again.
        for seen in folder.glob(SEEN_FILES):
            seen.unlink()
    widths = {name: sites[graph][name].n_channels for graph, name in names}
    return MomentsFile(path, widths, graphs=graphs, data=data)


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


def _taps(sites: Iterable[Site], residuals: Sequence[str] = ()) -> dict[str, str]:
    """Name of a value -> the site that it is of, or its own name."""
    return {site.activation.name or "": site.name for site in sites} | {name: name for name in residuals}


def _residuals(manifest: Manifest, graph: str) -> list[str]:
    return manifest.layer_outputs[graph] if graph == "language" else []


def _moment_groups(sites: Mapping[str, Mapping[str, Site]], method: Method) -> dict[str, list[list[str]]]:
    """Graph -> groups of sites whose second moments fit in memory together, in their order; none where none are wanted.

    Raises UsageError if the method names sites and there are none, ResourceError if those of one site do not fit.
    """
    groups: dict[str, list[list[str]]] = {graph: [] for graph in sites}
    for graph, of_graph in sites.items():
        n_bytes = MAX_MOMENT_BYTES + 1
        for name, site in of_graph.items():
            if not method.wants_moments(name):
                continue
            size = moment_bytes(site.n_channels)
            if size > MAX_MOMENT_BYTES:
                raise ResourceError(
                    f"second moments of {name} take {size / 1e9:.1f} GB, over {MAX_MOMENT_BYTES / 1e9:.1f}",
                    hint="name other layers, as language.*.att.*",
                )
            if n_bytes + size > MAX_MOMENT_BYTES:
                groups[graph].append([])
                n_bytes = 0
            groups[graph][-1].append(name)
            n_bytes += size
    if method.moments_of and not any(groups.values()):
        raise UsageError(f"no site is called {' or '.join(method.moments_of)}", hint="as in language.*.att.k")
    return groups


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
