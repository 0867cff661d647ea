"""The driver's own library, as a few lines of C stand in for it."""

from __future__ import annotations

import pytest

from aurora_export import nvidia_driver
from aurora_export.errors import DependencyError, UsageError
from aurora_export.nvidia_driver import Gpu, gpu, gpus
from driver_stand_in import write_driver


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Compile a driver that answers like this, and put it in the real one's place."""

    def make(**answers: int) -> None:
        folder = tmp_path / "_".join(f"{name}{value}" for name, value in answers.items() or [("sound", 1)])
        folder.mkdir()
        monkeypatch.setattr(nvidia_driver, "LIBRARY", str(write_driver(folder, **answers)))

    return make


def test_gpus_as_the_driver_describes_them(driver):
    driver()
    assert gpus() == (Gpu(0, "Orin", "8.7", 2**33, "13.1"), Gpu(1, "Thor", "11.0", 2**34, "13.1"))
    assert gpu(1).name == "Thor"
    with pytest.raises(UsageError, match="there is no GPU 2") as caught:
        gpu(2)
    assert caught.value.hint == "there are: 0 (Orin), 1 (Thor)"


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"init": 100}, "sees no GPU"),
        ({"count": 0}, "sees no GPU"),
        ({"init": 999}, "does not start: CUDA_ERROR_UNKNOWN"),
        ({"init": 3}, "does not start: error 3"),
        ({"attribute": 999}, "GPU 0 does not answer: CUDA_ERROR_UNKNOWN"),
    ],
)
def test_what_is_wrong_is_named(driver, answers, message):
    driver(**answers)
    with pytest.raises(DependencyError, match=message):
        gpus()


def test_no_driver(monkeypatch):
    monkeypatch.setattr(nvidia_driver, "LIBRARY", "libno_such_driver.so.1")
    with pytest.raises(DependencyError, match="no NVIDIA driver: libno_such_driver"):
        gpus()
