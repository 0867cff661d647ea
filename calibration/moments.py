"""The second moments of what layers read, in a file beside the scale file: `<scales>.moments`, for error feedback.

Of a large model they are more than fits in memory: a calibration sees them in groups, a pass over the clips for each,
and puts them into the file one by one. It is a safetensors file, whose header comes first: what is in it and how large
is known from the graphs.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from aurora_export.calibration.error_feedback import round_with_factor, upper_factor_of_inverse
from aurora_export.calibration.recipes import WeightType
from aurora_export.calibration.scales_file import Scales
from aurora_export.calibration.weight_scales import Rounding
from aurora_export.errors import IncompatibleError, IntegrityError, ResourceError, UsageError

ALIGNMENT = 8
"""Of the header, in bytes: what safetensors pads it to."""


def moments_path(scales: Path) -> Path:
    """Where the moments of a scale file are."""
    return scales.with_name(f"{scales.name}.moments")


def moment_bytes(n_channels: int) -> int:
    """What the moments of a site take, in memory and in the file."""
    return 4 * n_channels**2


class MomentsFile:
    """Moments on their way into a file: made at its full size, filled site after site."""

    def __init__(self, path: Path, widths: Mapping[str, int], *, graphs: Mapping[str, str], data: str) -> None:
        """Begin a file, or go on with the one at `path`, which must be of the same sites and the same calibration.

        widths: site -> channels.  graphs, data: digests, as in the scale file.
        Raises ResourceError if the disk has no room for it.
        """
        self.path, self._widths, self._offsets = path, dict(widths), dict[str, int]()
        entries: dict[str, object] = {"__metadata__": _of(graphs, data)}
        n_bytes = 0
        for site, width in widths.items():
            self._offsets[site] = n_bytes
            end = n_bytes + moment_bytes(width)
            entries[site] = {"dtype": "F32", "shape": [width, width], "data_offsets": [n_bytes, end]}
            n_bytes = end
        header = json.dumps(entries).encode()
        header += b" " * (-len(header) % ALIGNMENT)
        self._start = 8 + len(header)
        if path.exists():
            return
        if (free := shutil.disk_usage(path.parent).free) < n_bytes:
            raise ResourceError(
                f"{path.parent}: {free / 1e9:.1f} GB are free; second moments of {len(widths)} tensors take "
                f"{n_bytes / 1e9:.1f} GB",
                hint="name fewer, as language.[0-7].*, or give --out on another disk",
            )
        partial = path.with_name(f"{path.name}.new")
        with partial.open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(self._start + n_bytes)
        partial.replace(path)

    def put(self, site: str, moments: np.ndarray) -> None:
        """Write X^T X / rows of a site, shape (K, K), K as it was given."""
        width = self._widths[site]
        if moments.shape != (width, width):
            raise ValueError(f"{site}: moments of shape {moments.shape}, not of {width} channels")
        with self.path.open("r+b") as file:
            file.seek(self._start + self._offsets[site])
            file.write(np.ascontiguousarray(moments, "<f4").data)


def save_moments(moments: Mapping[str, np.ndarray], scales: Path, *, of: Scales) -> None:
    """Write site -> X^T X / rows, float32 (K, K), beside a scale file; whole or not at all."""
    path = moments_path(scales)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    file = MomentsFile(
        partial, {site: len(array) for site, array in moments.items()}, graphs=of.graphs, data=of.data.digest
    )
    for site, array in moments.items():
        file.put(site, array)
    partial.replace(path)


def _of(graphs: Mapping[str, str], data: str) -> dict[str, str]:
    return {"graphs": json.dumps(dict(graphs), sort_keys=True), "data": data}


class Moments:
    """The second moments beside a scale file, read one by one."""

    def __init__(self, path: Path, scales: Scales, *, is_smoothed: bool = True) -> None:
        """path: of the scale file.  is_smoothed: whether the smoothing of the scales is folded into the weights.

        Raises UsageError if there are none, IncompatibleError if they are of others.
        """
        self._path, self._scales, self._is_smoothed = moments_path(path), scales, is_smoothed
        self._factor: tuple[str, np.ndarray] | None = None
        hint = "calibrate with --second-moments PATTERN, as language.*"
        if not self._path.is_file():
            raise UsageError(f"{self._path}: no such file; error feedback needs second moments", hint=hint)
        try:
            with safe_open(self._path, "numpy") as file:
                self.sites, metadata = frozenset(file.keys()), file.metadata()
        except SafetensorError as error:
            raise IntegrityError(f"{self._path}: no safetensors file: {error}", hint=hint) from error
        if metadata != _of(scales.graphs, scales.data.digest):
            raise IncompatibleError(f"{self._path}: is not of the calibration that {path.name} is of", hint=hint)

    def rounding_of(self, site: str, kind: WeightType) -> Rounding | None:
        """How the weights of a site are rounded; None, to the nearest, where its moments are not known."""
        if site not in self.sites:
            return None

        def rounding(weight: np.ndarray, scales: np.ndarray) -> np.ndarray:
            return round_with_factor(weight, scales, kind, self.factor_of(site, len(weight)))

        return rounding

    def factor_of(self, site: str, n_inputs: int) -> np.ndarray:
        """`upper_factor_of_inverse` of the moments of a site; see `of`.

        The last one is kept: weights are rounded in parts, and several read the same site.
        """
        if self._factor is None or self._factor[0] != site or len(self._factor[1]) != n_inputs:
            self._factor = None  # or both are in memory
            self._factor = (site, upper_factor_of_inverse(self.of(site, n_inputs)))
        return self._factor[1]

    def of(self, site: str, n_inputs: int) -> np.ndarray:
        """X^T X of what the weights of a site read, to a factor: float32, shape (K, K).

        Raises IntegrityError if the file has them for another number of inputs.
        """
        with safe_open(self._path, "numpy") as file:
            if file.get_slice(site).get_shape() != [n_inputs, n_inputs]:
                raise IntegrityError(f"{self._path}: {site}: is not of {n_inputs} inputs", hint="calibrate again")
            moments: np.ndarray = file.get_tensor(site)
        smoothing = self._scales.tensors[site].smoothing if self._is_smoothed else None
        if smoothing is None:
            return moments
        factors = np.asarray(smoothing, np.float32)
        return moments / np.outer(factors, factors)
