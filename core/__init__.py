"""AuroraLong, exported: from a checkpoint to a bundle that answers questions about videos anywhere."""

from __future__ import annotations

__version__ = "0.1.0"
