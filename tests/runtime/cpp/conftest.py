"""The library of `make cpp`, and the testbed's model on it and on Python, side by side."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import av
import pytest

import aurora_library
from aurora_export.runtime.session import Aurora


def pytest_collection_modifyitems(items):
    """All tests in this folder need the library."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("cpp")


@pytest.fixture(scope="session")
def build(root) -> Path:
    """What `make cpp` compiled."""
    return Path(os.environ.get("AURORA_CPP_BUILD", root / "build/cpp"))


@pytest.fixture(scope="session")
def onnxruntime_library() -> Path:
    """Of the installed wheel."""
    return next(Path(find_spec("onnxruntime").submodule_search_locations[0], "capi").glob("libonnxruntime.so.*"))


@pytest.fixture(scope="session")
def library(build, onnxruntime_library):
    os.environ["AURORA_ONNXRUNTIME"] = str(onnxruntime_library)  # what the library reads, and programs it starts
    path = build / "libaurora.so"
    assert path.exists(), f"{path} is missing: run these tests by `make cpp`"
    return aurora_library.load(path)


@pytest.fixture(scope="session")
def testbed_bundle(root) -> Path:
    path = root / "build/testbed.aurora"
    assert path.exists(), f"{path} is missing: run these tests by `make cpp`"
    return path


@pytest.fixture(scope="session")
def model(library, testbed_bundle):
    with aurora_library.Model(library, testbed_bundle, n_threads=1) as model:
        yield model


@pytest.fixture
def session(model):
    with aurora_library.Session(model) as session:
        yield session


@pytest.fixture(scope="session")
def opened(testbed_bundle):
    with Aurora.open(testbed_bundle, threads=1) as aurora:
        yield aurora


@pytest.fixture
def aurora(opened):
    """The same model in Python, having seen nothing."""
    return opened.fork()


@pytest.fixture(scope="session")
def clip_frames(root):
    """Name of a clip -> its frames, uint8 (height, width, 3)."""

    def frames(name: str):
        with av.open(str(root / "testbed/clips" / name)) as container:
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]

    return frames
