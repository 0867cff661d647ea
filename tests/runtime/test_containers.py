from __future__ import annotations

import pytest

from aurora_export.runtime.containers import container_errors, open_container


def test_no_protocol_that_was_not_named(make_video):
    """Not even a file by its name: files are read through file objects."""
    path = str(make_video("clip.mp4"))
    open_container(path, protocols=("file",)).close()
    for protocols in ((), ("http", "tcp")):
        with pytest.raises(container_errors()):
            open_container(path, protocols=protocols)


def test_no_container_that_was_not_named(make_video):
    path = make_video("clip.mp4")
    with path.open("rb") as file, pytest.raises(container_errors()):
        open_container(file, formats=("matroska",))
