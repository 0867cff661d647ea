"""What is kept of an activation while clips stream by: a histogram that grows, maxima of channels, second moments.

Memory does not depend on how much is seen. Nothing is sampled: every value counts.
"""

from __future__ import annotations

import numpy as np

N_BINS = 4096

ROWS_AT_ONCE = 512
"""That go into the second moments together: one by one each would move all of them through memory."""


class TensorStatistics:
    """Of one tensor, all values so far. Bins are equal, begin at 0, and double in width when a value is beyond them."""

    def __init__(self, n_channels: int, *, with_moments: bool = False) -> None:
        """with_moments: also sum X^T X over the rows, (n_channels, n_channels), for error feedback."""
        self.counts = np.zeros(N_BINS, np.int64)
        self.bin_width = 0.0
        """0 while nothing but zeros was seen: they are in the first bin"""
        self.channel_maxima = np.zeros(n_channels, np.float32)
        self.channel_squares = np.zeros(n_channels, np.float64)
        """sums of squares"""
        self.n_rows = self.n_zeros = 0
        """n_zeros: values, in the first bin, that every code has exactly"""
        self._moments = np.zeros((n_channels, n_channels), np.float32) if with_moments else None
        self._pending: list[np.ndarray] = []
        """rows that are not yet in the moments"""

    @property
    def maximum(self) -> float:
        """The largest absolute value."""
        return float(self.channel_maxima.max(initial=0))

    @property
    def n_dead_channels(self) -> int:
        """Channels that were zero throughout."""
        return int((self.channel_maxima == 0).sum())

    @property
    def bin_centres(self) -> np.ndarray:
        """float64, shape (N_BINS)."""
        return (np.arange(N_BINS) + 0.5) * self.bin_width

    def add(self, values: np.ndarray) -> None:
        """Count values, float32 of any shape whose last axis is the channels.

        Raises ValueError if one is not finite; nothing is counted then.
        """
        rows = values.reshape(-1, values.shape[-1])
        absolute = np.abs(rows)
        maxima = absolute.max(axis=0)
        if not np.isfinite(maxima).all():
            raise ValueError("a value is not finite")
        np.maximum(self.channel_maxima, maxima, out=self.channel_maxima)
        self.channel_squares += np.einsum("rc,rc->c", rows, rows)
        self._widen(float(maxima.max()))
        self.n_rows += len(rows)
        self.n_zeros += absolute.size - int(np.count_nonzero(absolute))
        if self.bin_width == 0:
            self.counts[0] += absolute.size
        else:
            indices = (absolute.reshape(-1) * np.float32(1 / self.bin_width)).astype(np.int32)
            np.minimum(indices, N_BINS - 1, out=indices)
            self.counts += np.bincount(indices, minlength=N_BINS)
        if self._moments is not None:
            self._pending.append(rows.astype(np.float32))
            if sum(map(len, self._pending)) >= ROWS_AT_ONCE:
                self._add_pending()

    @property
    def has_moments(self) -> bool:
        """Whether second moments are summed, and were not taken."""
        return self._moments is not None

    def take_moments(self) -> np.ndarray:
        """X^T X over the rows, float32 (n_channels, n_channels), kept no longer. Only where `has_moments`."""
        assert self._moments is not None
        self._add_pending()
        found, self._moments = self._moments, None
        return found

    def _add_pending(self) -> None:
        if self._moments is not None and self._pending:
            rows = np.concatenate(self._pending)
            self._moments += rows.T @ rows
            self._pending = []

    def _widen(self, maximum: float) -> None:
        """Make the bins reach `maximum`; two neighbours become one, so no count is in a wrong bin."""
        if maximum == 0:
            return
        if self.bin_width == 0:
            # A power of two, and never so small that its inverse is infinite.
            self.bin_width = max(2.0 ** np.ceil(np.log2(maximum)) / N_BINS, 2.0**-120)
        while maximum > N_BINS * self.bin_width:
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([pairs, np.zeros_like(pairs)])
            self.bin_width *= 2

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, to be saved."""
        arrays = {
            "counts": self.counts,
            "bin_width": np.array(self.bin_width),
            "channel_maxima": self.channel_maxima,
            "channel_squares": self.channel_squares,
            "n_rows": np.array(self.n_rows),
            "n_zeros": np.array(self.n_zeros),
        }
        # Rows that wait are kept as such: sums must not depend on when they were saved.
        if self._moments is not None:
            arrays["moments"] = self._moments
            arrays["pending"] = np.concatenate([np.empty((0, len(self.channel_maxima)), np.float32), *self._pending])
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> TensorStatistics:
        """What `arrays` gave."""
        found = cls(len(arrays["channel_maxima"]))
        found.counts, found.channel_maxima = arrays["counts"].copy(), arrays["channel_maxima"].copy()
        found.channel_squares = arrays["channel_squares"].copy()
        found.bin_width, found.n_rows = float(arrays["bin_width"]), int(arrays["n_rows"])
        found.n_zeros = int(arrays["n_zeros"])
        if "moments" in arrays:
            found._moments = arrays["moments"]
            found._pending = [arrays["pending"]] if len(arrays["pending"]) else []
        return found
