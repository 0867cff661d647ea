"""Makes this repository importable where it is not installed: a machine without network has torch, and little else."""

from __future__ import annotations

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def make_importable() -> None:
    """Put `aurora_export`, as links to the folders of the tree, and `benchmarks/` on the module search path."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    if find_spec("aurora_export") is not None:
        return
    package = Path(tempfile.mkdtemp(prefix="aurora-source-")) / "aurora_export"
    package.mkdir()
    subpackages = [path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name != "core"]
    for path in (*(ROOT / "core").iterdir(), *subpackages):
        (package / path.name).symlink_to(path)
    sys.path.insert(0, str(package.parent))
