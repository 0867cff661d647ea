"""The pass over clips: what it sees, that it goes on where it was, and what it refuses."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file

from aurora_export.calibration import calibrate as module
from aurora_export.calibration import streaming_pass, taps
from aurora_export.calibration.calibrate import Method, calibrate, divisor_for
from aurora_export.calibration.clips import Showing, read_clips
from aurora_export.calibration.moments import Moments, moment_bytes
from aurora_export.calibration.scales_file import read_scales
from aurora_export.calibration.tensor_statistics import TensorStatistics
from aurora_export.errors import IncompatibleError, IntegrityError, ResourceError, UsageError
from handmade_bundle import FILES, rewrite_manifest
from named_bundle import SITES, write_named_bundle


class Silent:
    """Progress that keeps what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def phase(self, name: str) -> None:
        self.said.append(name)

    def detail(self, text: str) -> None:
        self.said.append(text)


SHOWING = Showing(num_frames=4, answer_tokens=5, clips_per_sequence=4)


def run(bundle, clips, out, **options):
    return calibrate(bundle, clips, out, progress=Silent(), showing=SHOWING, threads=1, **options)


def test_every_site_has_a_range(named_bundle, clip_folder, tmp_path):
    scales, is_new = run(named_bundle, read_clips(clip_folder), tmp_path / "s.json")
    assert is_new and list(scales.tensors) == [*SITES["vision"], *SITES["language"]]
    assert (scales.data.clips, scales.data.frames) == (6, 4 + 4 + 3 + 3 * 4)
    assert scales.data.steps == 6 * 5 and scales.data.tokens > 23 * 10
    assert all(entry.int8 <= entry.maximum and entry.fp8 <= entry.maximum for entry in scales.tensors.values())
    assert scales.residual.maximum > 0 and scales == read_scales(tmp_path / "s.json")
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"], "no working folder is left"


def test_maxima_are_those_of_the_layers_themselves(named_bundle, clip_folder, tmp_path):
    """A tap that is another value, or a run that is not counted, shows here."""
    clips = read_clips(clip_folder)
    scales, _ = run(named_bundle, clips, tmp_path / "s.json", method=Method("max"))
    from aurora_export.runtime.session import Aurora

    largest = 0.0
    with Aurora.open(named_bundle, threads=1) as aurora:
        for index, clip in enumerate(clips):
            if SHOWING.is_first(index):
                aurora.reset()
            aurora.watch(clip.video, num_frames=4, prompt=clip.prompt if SHOWING.is_primed(index) else None)
            for _ in aurora.generate_ids(clip.prompt, max_tokens=5):
                largest = max(largest, float(np.abs(aurora.state.arrays["ffn_shift"][0]).max()))
    assert scales.tensors["language.0.ffn.k"].maximum >= largest * 0.99999
    assert scales.tensors["language.0.ffn.k"].int8 == scales.tensors["language.0.ffn.k"].maximum


@pytest.mark.parametrize("stop_at", [(0, 3), (1, 2), (1, 5)], ids=["in vision", "in a sequence", "between sequences"])
def test_an_interrupted_pass_goes_on_and_ends_alike(named_bundle, clip_folder, tmp_path, monkeypatch, stop_at):
    clips, path = read_clips(clip_folder), tmp_path / "s.json"
    expected, _ = run(named_bundle, clips, tmp_path / "whole.json", method=Method(moments_of=("*",)))
    monkeypatch.setattr(streaming_pass, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(streaming_pass, "SAVING_SHARE", 0.0)
    add, n_shown = streaming_pass.Pass._clips_from, 0

    def interrupted(self, first, seen, *rest):
        for index in add(self, first, seen, *rest):
            if (["vision", "language"].index(self.graph), index) == stop_at:
                # In the middle of a clip: what was seen of it must not count twice.
                seen.n_frames += 99
                for entry in seen.tensors.values():
                    entry.counts += 1
                raise KeyboardInterrupt
            yield index

    with monkeypatch.context() as patch:
        patch.setattr(streaming_pass.Pass, "_clips_from", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(named_bundle, clips, path, method=Method(moments_of=("*",)))
    assert not path.exists() and (tmp_path / ".s.json.calibration").is_dir()

    def counted(self, *rest):
        nonlocal n_shown
        for index in add(self, *rest):
            n_shown += 1
            yield index

    monkeypatch.setattr(streaming_pass.Pass, "_clips_from", counted)
    found, _ = run(named_bundle, clips, path, method=Method(moments_of=("*",)))
    assert found == expected and n_shown == 12 - (6 * stop_at[0] + stop_at[1])
    moments = [load_file(path.with_name(f"{name}.json.moments")) for name in ("s", "whole")]
    assert all(np.array_equal(array, moments[1][name]) for name, array in moments[0].items())
    assert Moments(path, found).sites == {*SITES["vision"], *SITES["language"]}


def test_a_working_folder_of_other_clips_is_not_used(named_bundle, clip_folder, tmp_path, caplog):
    clips, folder = read_clips(clip_folder), tmp_path / ".s.json.calibration"
    folder.mkdir()
    (folder / "of.json").write_text("{}")
    (folder / "seen-vision-0.npz").write_text("nonsense")
    run(named_bundle, clips, tmp_path / "s.json")
    assert "is of another calibration that did not end; begins anew" in caplog.text and not folder.exists()


def test_scales_are_used_again_or_refused_with_the_reason(named_bundle, clip_folder, tmp_path, monkeypatch):
    clips, path = read_clips(clip_folder), tmp_path / "s.json"
    first, _ = run(named_bundle, clips, path)
    text = path.read_text().replace('"keep": []', '"keep": ["language.head"]')
    path.write_text(text)
    with monkeypatch.context() as patch:
        patch.setattr(module, "Pass", None)
        again, is_new = run(named_bundle, clips, path)
    assert not is_new and again == first.model_copy(update={"keep": ("language.head",)})
    other = write_named_bundle(tmp_path / "other.aurora", seed=1)
    for changes, reason in (
        ({"bundle": other}, "is of another model: its vision graph differs"),
        ({"clips": clips[:5]}, "is of other clips, or of clips shown otherwise"),
        ({"method": Method("max")}, "its method is 'mse, smoothing auto', not 'max, smoothing auto'"),
        ({"method": Method(smoothing=None)}, "its method is 'mse, smoothing auto', not 'mse'"),
    ):
        given = {"bundle": named_bundle, "clips": clips, "out": path, **changes}
        with pytest.raises(IncompatibleError, match=f"exists, and {reason}"):
            run(**given)
    assert path.read_text() == text


@pytest.mark.parametrize("graph", ["vision", "language"])
def test_what_is_not_finite_is_named_with_clip_and_step(clip_folder, tmp_path, graph):
    bundle = write_named_bundle(tmp_path / "bad.aurora")
    model = onnx.load(bundle / FILES[graph])
    for tensor in model.graph.initializer:
        if graph == "vision" and tensor.name == "scale":
            tensor.CopyFrom(numpy_helper.from_array(np.float32(np.inf), tensor.name))
        if graph == "language" and tensor.name == "most":
            tensor.CopyFrom(numpy_helper.from_array(np.float32(1e30), tensor.name))
    onnx.save(model, bundle / FILES[graph])
    rewrite_manifest(bundle)
    with pytest.raises(IntegrityError) as caught:
        run(bundle, read_clips(clip_folder), tmp_path / "s.json")
    names = {"vision": "projector.fc1", "language": "language.0.ffn.k"}
    assert caught.value.message.startswith(f"{names[graph]}: ") and "clip 0.mp4, " in caught.value.message
    assert ("frame 0" if graph == "vision" else "token ") in caught.value.message
    assert not (tmp_path / "s.json").exists()


def test_a_tensor_that_is_always_zero_has_no_range(clip_folder, tmp_path):
    bundle = write_named_bundle(tmp_path / "dead.aurora")
    model = onnx.load(bundle / FILES["vision"])
    for tensor in model.graph.initializer:
        if tensor.name == "scale":
            tensor.CopyFrom(numpy_helper.from_array(np.float32(0), tensor.name))
    onnx.save(model, bundle / FILES["vision"])
    rewrite_manifest(bundle)
    with pytest.raises(UsageError, match=r"projector\.fc1: is zero throughout all clips"):
        run(bundle, read_clips(clip_folder), tmp_path / "s.json")


def test_bundles_of_another_precision_are_refused(clip_folder, tmp_path):
    bundle = write_named_bundle(tmp_path / "half.aurora")
    rewrite_manifest(bundle, precision="fp16")
    with pytest.raises(IncompatibleError, match="is fp16; ranges are measured on the float32 graphs"):
        run(bundle, read_clips(clip_folder), tmp_path / "s.json")


def test_taps_that_do_not_fit_are_seen_in_turn(named_bundle, clip_folder, tmp_path, monkeypatch):
    clips = read_clips(clip_folder)
    expected, _ = run(named_bundle, clips, tmp_path / "a.json")
    monkeypatch.setattr(taps, "MAX_TAP_BYTES", 1)
    found, _ = run(named_bundle, clips, tmp_path / "b.json")
    assert found == expected


class Bounded:
    """Statistics that count how many bytes of second moments there are at once."""

    now = most = 0

    def __init__(self, monkeypatch, bound: int) -> None:
        monkeypatch.setattr(module, "MAX_MOMENT_BYTES", bound)
        init, take = TensorStatistics.__init__, TensorStatistics.take_moments

        def initialized(statistics, n_channels, *, with_moments=False):
            init(statistics, n_channels, with_moments=with_moments)
            self.now += with_moments * moment_bytes(n_channels)
            self.most = max(self.most, self.now)

        def taken(statistics):
            found = take(statistics)
            self.now -= found.nbytes
            return found

        monkeypatch.setattr(TensorStatistics, "__init__", initialized)
        monkeypatch.setattr(TensorStatistics, "take_moments", taken)


def test_second_moments_that_do_not_fit_are_summed_in_several_passes(named_bundle, clip_folder, tmp_path, monkeypatch):
    clips, method, progress = read_clips(clip_folder), Method(moments_of=("language.*",)), Silent()
    expected, _ = run(named_bundle, clips, tmp_path / "whole.json", method=method)
    whole = load_file(tmp_path / "whole.json.moments")
    sizes = {name: whole[name].nbytes for name in sorted(whole)}
    assert list(sizes) == SITES["language"]
    bounded = Bounded(monkeypatch, max(sizes.values()))
    found, _ = calibrate(
        named_bundle, clips, tmp_path / "s.json", progress=progress, showing=SHOWING, threads=1, method=method
    )
    assert {"vision", "language, pass 1 of 2", "language, pass 2 of 2"} <= set(progress.said)
    assert found == expected and bounded.most == max(sizes.values()) and bounded.now == 0
    parts = load_file(tmp_path / "s.json.moments")
    assert parts.keys() == whole.keys() and all(np.array_equal(parts[name], whole[name]) for name in whole)
    assert all((np.diag(array) > 0).all() for array in parts.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}.json{end}" for name in ("s", "whole") for end in ("", ".moments")
    )


@pytest.mark.parametrize("lost", [False, True], ids=["file is there", "file is lost"])
def test_passes_that_are_done_are_not_run_again(named_bundle, clip_folder, tmp_path, monkeypatch, lost):
    clips, path, n_shown = read_clips(clip_folder), tmp_path / "s.json", 0
    expected, _ = run(named_bundle, clips, tmp_path / "whole.json", method=Method(moments_of=("language.*",)))
    whole = load_file(tmp_path / "whole.json.moments")
    monkeypatch.setattr(module, "MAX_MOMENT_BYTES", max(array.nbytes for array in whole.values()))
    clips_from = streaming_pass.Pass._clips_from

    def counted(self, *rest):
        nonlocal n_shown
        for index in clips_from(self, *rest):
            n_shown += 1
            if (self.graph, self.part, index) == stop_at:
                raise KeyboardInterrupt
            yield index

    monkeypatch.setattr(streaming_pass.Pass, "_clips_from", counted)
    stop_at = ("language", 1, 0)
    with pytest.raises(KeyboardInterrupt):
        run(named_bundle, clips, path, method=Method(moments_of=("language.*",)))
    folder = tmp_path / ".s.json.calibration"
    with np.load(folder / "seen-language-0.npz") as seen:
        assert not [name for name in seen if name.endswith("moments")], "they are in their file, and nowhere else"
    if lost:
        (folder / "moments").unlink()
    n_shown, stop_at = 0, None
    found, _ = run(named_bundle, clips, path, method=Method(moments_of=("language.*",)))
    parts = load_file(tmp_path / "s.json.moments")
    assert found == expected and all(np.array_equal(parts[name], whole[name]) for name in whole)
    assert n_shown == len(clips) * (3 if lost else 1)


def test_second_moments_have_a_bound(named_bundle, clip_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_MOMENT_BYTES", 100)
    with pytest.raises(ResourceError, match=r"second moments of language\.0\.ffn\.k take"):
        run(named_bundle, read_clips(clip_folder), tmp_path / "s.json", method=Method(moments_of=("language.*",)))
    with pytest.raises(UsageError, match=r"no site is called language\.9"):
        run(named_bundle, read_clips(clip_folder), tmp_path / "s.json", method=Method(moments_of=("language.9",)))


def test_smoothing_evens_out_what_can_be_smoothed(named_bundle, clip_folder, tmp_path):
    scales, _ = run(named_bundle, read_clips(clip_folder), tmp_path / "s.json", method=Method(smoothing=0.5))
    # Nothing of this graph computes in a way that a factor could be put into.
    assert all(entry.smoothing is None for entry in scales.tensors.values())
    assert scales.method == "mse, smoothing 0.5"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "best"}, "method best: unknown"),
        ({"smoothing": 1.5}, "smoothing is 1.5"),
        ({"percentile": 5}, "percentile is 5"),
    ],
)
def test_methods_that_are_none(options, message):
    with pytest.raises(UsageError, match=message):
        Method(**options)


def test_divisor_brings_the_residual_stream_into_float16():
    assert [divisor_for(maximum) for maximum in (0, 16000, 17000, 180000, 1e9)] == [1, 1, 2, 16, 64]
