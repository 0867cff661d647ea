"""The scale file: for people to read and edit, and nonsense is refused by name."""

import json

import numpy as np
import onnx_ir as ir
import pytest

from aurora_export.calibration.scales_file import (
    MAX_BYTES,
    check_scales,
    graph_digest,
    read_scales,
    write_scales,
)
from aurora_export.calibration.sites import find_sites
from aurora_export.errors import EXIT_INCOMPATIBLE, EXIT_INTEGRITY, EXIT_USAGE, AuroraError, IncompatibleError
from handmade_bundle import FILES


def edited(scales, path, change):
    write_scales(scales, path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_written_and_read_again(scales, tmp_path):
    path = tmp_path / "scales.json"
    smoothed = scales.tensors["language.head"].model_copy(update={"smoothing": (1.0, 0.123456789), "int8": 1 / 3})
    write_scales(scales.model_copy(update={"tensors": {"language.head": smoothed}, "keep": ("a", "b")}), path)
    found = read_scales(path).tensors["language.head"]
    assert (found.int8, found.smoothing) == (0.33333, (1.0, 0.12346))
    line = '{"int8": 0.33333, "fp8": 3.0, "maximum": 3.0, "dead_channels": 0, "smoothing": [1.0, 0.12346]}'
    assert f'    "language.head": {line}' in path.read_text().splitlines()
    assert [entry.name for entry in tmp_path.iterdir()] == ["scales.json"]


HEAD = "language.head"
NONSENSE = {
    "tensors.language.head.int8: Input should be greater than 0": lambda c: c["tensors"][HEAD].update(int8=0),
    "tensors.language.head.fp8: Input should be a finite number": lambda c: c["tensors"][HEAD].update(fp8=float("nan")),
    "tensors.language.head.maximum: Input should be a valid number": lambda c: c["tensors"][HEAD].update(maximum="big"),
    "tensors.language.head.int8: Field required": lambda c: c["tensors"][HEAD].pop("int8"),
    "tensors.language.head.range: unknown key": lambda c: c["tensors"][HEAD].update(range=3),
    "tensors.language.head: smoothing factors must be above 0": lambda c: c["tensors"][HEAD].update(smoothing=[1, -1]),
    "residual: the divisor must be a power of two": lambda c: c["residual"].update(divisor=3),
    "data.digest: String should match": lambda c: c["data"].update(digest="mine"),
    "keep: Input should be a valid tuple": lambda c: c.update(keep="language.*"),
    "tensors: Field required": lambda c: c.pop("tensors"),
}


@pytest.mark.parametrize("message", NONSENSE)
def test_nonsense_is_named_by_its_key(scales, tmp_path, message):
    path = edited(scales, tmp_path / "s.json", NONSENSE[message])
    with pytest.raises(AuroraError) as caught:
        read_scales(path)
    assert caught.value.message.startswith(f"{path}: {message}"), caught.value.message
    assert caught.value.exit_code == EXIT_INTEGRITY and "calibrate again" in (caught.value.hint or "")


def test_what_is_no_scale_file(scales, tmp_path):
    path = tmp_path / "s.json"

    def refused(text: str) -> tuple[str, int]:
        path.write_text(text)
        with pytest.raises(AuroraError) as caught:
            read_scales(path)
        return caught.value.message.removeprefix(f"{path}: "), caught.value.exit_code

    assert refused("{")[0].startswith("not valid JSON") and refused("[" * 100_000)[1] == EXIT_INTEGRITY
    assert refused("[1]") == ("expected a JSON object, found list", EXIT_INTEGRITY)
    assert refused('{"format": 7}') == ("format is 7; this version reads 1", EXIT_INCOMPATIBLE)
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(AuroraError, match="over the limit"):
        read_scales(path)
    with pytest.raises(AuroraError, match="no such file") as caught:
        read_scales(tmp_path / "none.json")
    assert caught.value.exit_code == EXIT_USAGE


def test_scales_of_another_model_are_refused(scales):
    scales.require_graph("vision", "0" * 64, source="s.json")
    with pytest.raises(
        IncompatibleError, match=r"s.json: is of another model: its vision graph is 0{12}, this one 2{12}"
    ):
        scales.require_graph("vision", "2" * 64, source="s.json")


def test_tensors_and_factors_that_do_not_fit_a_graph(scales, named_bundle):
    sites = find_sites(ir.load(named_bundle / FILES["language"]).graph)
    check_scales(scales, sites, "language", source="s.json")
    entry = scales.tensors[HEAD]
    unknown = scales.model_copy(update={"tensors": {"language.7.att.k": entry}})
    with pytest.raises(AuroraError, match=r"language\.7\.att\.k: the language graph has no such tensor"):
        check_scales(unknown, sites, "language", source="s.json")
    check_scales(unknown, {}, "vision", source="s.json")
    short = scales.model_copy(update={"tensors": {HEAD: entry.model_copy(update={"smoothing": (1.0,)})}})
    with pytest.raises(AuroraError, match="1 factors for 32 channels"):
        check_scales(short, sites, "language", source="s.json")


def test_digest_says_what_a_graph_computes_and_not_how_it_is_stored(named_bundle, tmp_path):
    path = named_bundle / FILES["language"]
    digest = graph_digest(ir.load(path))
    ir.save(ir.load(path), tmp_path / "external.onnx", external_data="weights", size_threshold_bytes=0)
    assert graph_digest(ir.load(tmp_path / "external.onnx")) == digest
    changed = ir.load(path)
    weight = changed.graph.initializers["language.head.weight.transposed"]
    array = weight.const_value.numpy().copy()
    array[0, 0] = np.nextafter(array[0, 0], 9)
    weight.const_value = ir.tensor(array, name=weight.name)
    assert graph_digest(changed) != digest
