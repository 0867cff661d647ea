"""Measured errors as lines of text, the same in every command that shows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aurora_export.manifest import Verification


def lines_of(verification: Verification) -> Iterator[str]:
    """One line for each output that was compared, then what the comparison ran over."""
    for name, output in verification.outputs.items():
        if output.metric.startswith("share") and output.limit >= 1:  # which no share can be over
            yield f"     {name}: {output.error:.2g}, no limit ({output.metric})"
            continue
        mark = "ok  " if output.error <= output.limit else "OVER"
        yield f"{mark} {name}: {output.error:.2g}, limit {output.limit:.2g} ({output.metric})"
    yield (
        f"over {verification.n_frames} frames and {verification.n_tokens} text tokens; "
        f"{verification.merge_flips} patches went to another token than in the reference"
    )
