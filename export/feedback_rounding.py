"""Weight-only integers by error feedback: each input's error made good by the inputs that follow, block by block.

The moments are those of a calibration (calibration/moments.py), the codes and scales those of rounding.py. The
scale of a block is chosen when its turn comes, for the weights as the errors before it have left them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from aurora_export.calibration.error_feedback import INPUTS_AT_ONCE, feed_errors_on, upper_factor_of_inverse
from aurora_export.calibration.moments import Moments
from aurora_export.calibration.scales_file import Scales, graph_digest, read_scales
from aurora_export.calibration.sites import find_sites, groups_of, site_of_weight
from aurora_export.export.rounding import round_weight, scale_blocks
from aurora_export.manifest import Quantization

ROWS_AT_ONCE = 2048
"""Outputs of a weight that are rounded together: their temporaries are some 100 MB."""

LEVELS = {8: (-127, 127), 4: (-8, 7)}
"""Bits -> the ends of the codes, less the zero code."""


@dataclass
class FeedbackRounding:
    """The rounding of one build, graph after graph; a `Rounding` of rounding.py."""

    scales: Scales
    source: Path
    """of the scales"""
    moments: Moments
    groups: list[str] = field(default_factory=list)
    """that have weights of few bits so far"""
    kept: list[str] = field(default_factory=list)

    def require_graph(self, model: ir.Model, name: str) -> None:
        """Raise IncompatibleError unless the moments were measured on this float32 graph."""
        self.scales.require_graph(name, graph_digest(model), source=str(self.source))
        self.kept += groups_of(find_sites(model.graph))

    def note(self, weights: tuple[str, ...]) -> None:
        """Say which weights were stored with few bits."""
        done = groups_of(site for weight in weights if (site := site_of_weight(weight)) is not None)
        self.groups += done
        self.kept = [group for group in self.kept if group not in done]

    def __call__(self, name: str, weight: np.ndarray, bits: int, block_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Round a weight as `round_weight` does; one whose moments are not known, by `round_weight` itself."""
        site = site_of_weight(name)
        if site is None or site not in self.moments.sites:
            return round_weight(name, weight, bits, block_size)
        return round_blocks_with_feedback(name, weight, bits, block_size, self.moments.of(site, weight.shape[1]))

    def description(self) -> Quantization:
        """What the manifest says of it, once all graphs are done."""
        return Quantization(
            rest="fp32",
            method=self.scales.method,
            groups=tuple(self.groups),
            kept=tuple(self.kept),
            error_feedback=True,
            residual_maximum=self.scales.residual.maximum,
        )


def round_blocks_with_feedback(
    name: str, weight: np.ndarray, bits: int, block_size: int, moments: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales as of `round_weight`, with the errors of outputs on the clips made small.

    name: for errors.  weight: float32, shape (N, K).  moments: X^T X to a factor, shape (K, K).
    Raises ValueError if a weight is not finite.
    """
    n_rows, n_columns = weight.shape
    n_blocks = -(-n_columns // block_size)
    zero = 1 << (bits - 1)
    codes = np.full((n_rows, n_blocks * block_size), zero, np.uint8)
    scales = np.empty((n_rows, n_blocks), np.float32)
    factor = upper_factor_of_inverse(moments)
    for start in range(0, n_rows, ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, n_rows))
        rest = np.array(weight[rows].T, np.float32, order="C")

        def round_input(i: int, rest: np.ndarray = rest, rows: slice = rows) -> np.ndarray:
            block, place = divmod(i, block_size)
            if place == 0:
                of_block = np.ascontiguousarray(rest[i : i + block_size].T)
                scales[rows, block] = scale_blocks(name, of_block, bits, block_size)[:, 0]
            scale = scales[rows, block]
            found = np.clip(np.rint(rest[i] / scale), *LEVELS[bits])
            codes[rows, i] = (found + zero).astype(np.uint8)
            return np.asarray(found * scale)

        feed_errors_on(rest, factor, round_input, inputs_at_once=max(block_size, INPUTS_AT_ONCE))
    return codes.reshape(n_rows, n_blocks, block_size), scales.reshape(-1)


def open_feedback_rounding(scales: Path) -> FeedbackRounding:
    """The second moments beside a scale file, for a build of weight-only integers.

    Its smoothing is of no use there, and left out. Raises what reading scales and moments raises.
    """
    read = read_scales(scales)
    return FeedbackRounding(read, scales, Moments(scales, read, is_smoothed=False))
