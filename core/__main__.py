"""python -m aurora_export."""

from __future__ import annotations

from aurora_export.cli import main

if __name__ == "__main__":
    main()
