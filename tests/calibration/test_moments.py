"""The file of second moments: what was put is read back, by who it is of, and what is made of it is made once."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aurora_export.calibration import moments as module
from aurora_export.calibration.error_feedback import round_with_feedback
from aurora_export.calibration.moments import Moments, MomentsFile, moments_path, save_moments
from aurora_export.calibration.scales_file import Scales
from aurora_export.calibration.weight_scales import quantize_weight
from aurora_export.errors import IncompatibleError, IntegrityError, ResourceError, UsageError

RNG = np.random.default_rng(0)
WIDTHS = {"vision.0.qkv": 3, "language.head": 5, "language.0.att.k": 1}


def begin(path, **changes):
    return MomentsFile(path, **{"widths": WIDTHS, "graphs": {"vision": "a"}, "data": "b", **changes})


def test_sites_are_put_in_any_order_by_who_goes_on(tmp_path):
    given = {name: RNG.normal(size=(width, width)).astype(np.float32) for name, width in WIDTHS.items()}
    begin(tmp_path / "m").put("language.head", given["language.head"])
    going_on = begin(tmp_path / "m")
    for name in ("language.0.att.k", "vision.0.qkv"):
        going_on.put(name, given[name].astype(np.float64))
    found = load_file(tmp_path / "m")
    assert found.keys() == given.keys() and [path.name for path in tmp_path.iterdir()] == ["m"]
    for name, array in given.items():
        np.testing.assert_array_equal(found[name], array)
    with pytest.raises(ValueError, match=r"language\.head: moments of shape \(4, 4\), not of 5 channels"):
        going_on.put("language.head", np.ones((4, 4)))


def test_a_disk_without_room_is_said_first(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(ResourceError, match=r"0\.0 GB are free; second moments of 3 tensors take"):
        begin(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_the_factor_of_a_site_is_made_once(tmp_path, scales: Scales, monkeypatch):
    made = []
    monkeypatch.setattr(module, "upper_factor_of_inverse", lambda moments: (made.append(moments[0, 0]), moments)[1])
    save_moments({"language.head": np.eye(4), "language.0.att.k": 2 * np.eye(4)}, tmp_path / "s.json", of=scales)
    entry = scales.tensors["language.head"]
    known = scales.model_copy(update={"tensors": {"language.head": entry, "language.0.att.k": entry}})
    moments = Moments(tmp_path / "s.json", known)
    for site, value in (("language.head", 1), ("language.head", 1), ("language.0.att.k", 2), ("language.head", 1)):
        assert moments.factor_of(site, 4)[0, 0] == value
    assert made == [1, 2, 1], "one is kept, not all"


def test_moments_belong_to_a_calibration(tmp_path, scales: Scales):
    path = tmp_path / "scales.json"
    with pytest.raises(UsageError, match=r"scales.json.moments: no such file"):
        Moments(path, scales)
    save_moments({"language.head": np.eye(4, dtype=np.float32)}, path, of=scales)
    assert Moments(path, scales).sites == {"language.head"}
    assert Moments(path, scales).rounding_of("language.0.att.k", "int8") is None
    other = scales.model_copy(update={"data": scales.data.model_copy(update={"digest": "1" * 64})})
    with pytest.raises(IncompatibleError, match="is not of the calibration"):
        Moments(path, other)
    rounding = Moments(path, scales).rounding_of("language.head", "int8")
    assert rounding is not None
    with pytest.raises(IntegrityError, match="is not of 5 inputs"):
        rounding(np.ones((5, 2), np.float32), np.ones((1, 2), np.float32))
    moments_path(path).write_bytes(b"nonsense")
    with pytest.raises(IntegrityError, match="no safetensors file"):
        Moments(path, scales)


def test_moments_of_smoothed_channels_are_those_of_what_the_weights_read(tmp_path, scales: Scales):
    factors = (1.0, 2.0, 4.0, 8.0)
    smoothed = scales.model_copy(
        update={"tensors": {"language.head": scales.tensors["language.head"].model_copy(update={"smoothing": factors})}}
    )
    x, weight = RNG.normal(size=(50, 4)).astype(np.float32), RNG.normal(size=(4, 3)).astype(np.float32)
    save_moments({"language.head": x.T @ x}, tmp_path / "s.json", of=smoothed)
    rounding = Moments(tmp_path / "s.json", smoothed).rounding_of("language.head", "int4")
    assert rounding is not None
    _, steps = quantize_weight(weight, "int4")
    y = x / np.array(factors, np.float32)
    expected = round_with_feedback(weight, steps, "int4", y.T @ y)
    np.testing.assert_array_equal(rounding(weight, steps).astype(int), expected.astype(int))
    save_file({"x": x}, tmp_path / "other.json.moments")
    with pytest.raises(IncompatibleError):
        Moments(tmp_path / "other.json", smoothed)
