from __future__ import annotations

import hashlib
import itertools
import shutil

import numpy as np
import pytest

from aurora_export.contract import MAX_CHUNK_TOKENS, STATE_NAMES
from aurora_export.errors import IncompatibleError, UsageError
from aurora_export.frames import resize_frame
from aurora_export.prompt import prefix_ids, suffix_ids, turn_ids
from aurora_export.runtime.engine_onnx import OnnxLoop
from aurora_export.runtime.session import Aurora
from aurora_export.runtime.video import Frame
from aurora_export.sampling import SamplingOptions
from handmade_bundle import handmade_config, write_bundle

QUESTION = "What moves?"


def same_state(left, right):
    return all(np.array_equal(left.state.arrays[name], right.state.arrays[name]) for name in STATE_NAMES)


def answer(session, question=QUESTION, **options):
    return "".join(session.ask(question, max_tokens=12, **options))


@pytest.fixture
def chunks(monkeypatch):
    """The embeddings of every run of the language graph."""
    seen = []
    advance = OnnxLoop.advance

    def spy(self, embeddings):
        seen.append(np.array(embeddings))
        return advance(self, embeddings)

    monkeypatch.setattr(OnnxLoop, "advance", spy)
    return seen


def test_what_the_language_model_reads(aurora, frames, chunks):
    """Prefix, frames in order, suffix: exactly these embeddings."""
    config, tokenizer, table = aurora.manifest.config, aurora._model.tokenizer, aurora._model.embeddings
    report = aurora.watch(frames, prompt=QUESTION)
    next(aurora.ask(QUESTION))
    tokens = [
        aurora._model.vision.run({"frames": resize_frame(frame, size=16, mode="crop", pad_value=(127,) * 3)[None]})
        for frame in frames
    ]
    expected = [
        table[list(prefix_ids(config.prompt, tokenizer, QUESTION))],
        *(output["visual_tokens"][0] for output in tokens),
        table[list(suffix_ids(config.prompt, tokenizer, QUESTION))],
    ]
    read = np.concatenate(chunks)
    np.testing.assert_array_equal(read[: sum(map(len, expected))], np.concatenate(expected))
    assert (report.n_frames, report.n_visual_tokens) == (8, 8 * config.tokens_per_frame)
    assert set(report.seconds) == {"decode", "resize", "vision", "prefill"}
    assert all(seconds > 0 for seconds in report.seconds.values())


def test_without_a_prompt_the_instruction_stands_first(aurora, frames, chunks):
    ids = prefix_ids(aurora.manifest.config.prompt, aurora._model.tokenizer)
    aurora.watch(frames[:1])
    np.testing.assert_array_equal(chunks[0][: len(ids)], aurora._model.embeddings[list(ids)])
    assert aurora.stats.n_text_tokens == len(ids)


def test_separators_stand_between_frames_only(tmp_path, frames, chunks):
    config = handmade_config(prompt={"frame_separator": "\n", "bos": True})
    with Aurora.open(write_bundle(tmp_path / "b.aurora", config), threads=1) as aurora:
        newline, start = aurora._model.embeddings[11], aurora._model.embeddings[0]
        aurora.watch(frames[:2])
        aurora.watch(frames[2:3])
        n_kept = config.tokens_per_frame
        np.testing.assert_array_equal(chunks[0][0], start)
        assert [len(chunk) for chunk in chunks[1:]] == [n_kept + 1, n_kept + 1]
        for chunk in chunks[1:]:
            np.testing.assert_array_equal(chunk[0], newline)
        answer(aurora)
        chunks.clear()
        aurora.watch(frames[:1], prompt=QUESTION)
    # A second video is a new turn: the end of the turn, then the prefix without a second start of text.
    ids = [11, 11, *prefix_ids(config.prompt, aurora_tokenizer(config), QUESTION)[1:]]
    np.testing.assert_array_equal(chunks[0][0], newline)
    assert len(chunks[0]) == len(ids) + n_kept
    assert not (chunks[0] == start).all(axis=1).any()


def aurora_tokenizer(_config):
    from aurora_export.tokenizer import Tokenizer

    return Tokenizer({byte + 1: bytes([byte]) for byte in range(256)})


def test_a_further_question_is_a_turn(aurora, frames, chunks):
    aurora.watch(frames)
    answer(aurora)
    chunks.clear()
    answer(aurora, "And then?")
    ids = turn_ids(aurora.manifest.config.prompt, aurora._model.tokenizer, "And then?")
    np.testing.assert_array_equal(chunks[0], aurora._model.embeddings[list(ids)])


def test_long_prompts_are_read_in_chunks(aurora, frames, chunks):
    aurora.watch(frames[:1], prompt="x" * 700)
    assert [len(chunk) for chunk in chunks] == [MAX_CHUNK_TOKENS, MAX_CHUNK_TOKENS, sum(map(len, chunks)) - 512]


def test_pieces_of_a_video_are_the_video(bundle, frames):
    whole, parts = Aurora.open(bundle, threads=1), Aurora.open(bundle, threads=1)
    whole.watch(frames)
    for frame in frames:
        parts.watch([frame])
    assert same_state(whole, parts)
    assert whole.state.header == parts.state.header


def test_any_iterable_of_frames(bundle, frames):
    sessions = [Aurora.open(bundle, threads=1) for _ in range(3)]
    same = [frame[:18, :18] for frame in frames]
    sessions[0].watch(same)
    sessions[1].watch(iter(same))
    sessions[2].watch(np.stack(same))
    assert same_state(sessions[0], sessions[1])
    assert same_state(sessions[0], sessions[2])


def test_the_header_says_what_was_seen(aurora, frames):
    aurora.watch([Frame(frames[0], 0.0), Frame(frames[1], 0.5)])
    header = aurora.state.header
    prefix = prefix_ids(aurora.manifest.config.prompt, aurora._model.tokenizer)
    assert header.tokens_seen == len(prefix) + 2 * aurora.manifest.config.tokens_per_frame
    assert (header.frames_seen, header.position_s, header.phase) == (2, 0.5, "watching")
    digest = bytes(32)
    for frame in frames[:2]:
        resized = resize_frame(frame, size=16, mode="crop", pad_value=(127,) * 3)
        digest = hashlib.sha256(digest + resized.tobytes()).digest()
    assert header.video_digest == digest.hex()
    seen = header.tokens_seen
    n_ids = len(list(aurora.generate_ids(QUESTION, max_tokens=4)))
    header = aurora.state.header
    suffix = suffix_ids(aurora.manifest.config.prompt, aurora._model.tokenizer, QUESTION)
    assert (header.phase, header.tokens_seen) == ("answered", seen + len(suffix) + n_ids)


def test_saved_and_loaded_equals_uninterrupted(bundle, frames, tmp_path):
    """In another process it would be another session: nothing but the file goes from one to the other."""
    whole = Aurora.open(bundle, threads=1)
    whole.watch(frames[:5])
    whole.save(tmp_path / "s.aurstate")
    whole.watch(frames[5:])
    restored = Aurora.open(bundle, threads=1)
    restored.load(tmp_path / "s.aurstate")
    restored.watch(frames[5:])
    assert restored.state.header == whole.state.header
    assert list(restored.generate_ids(QUESTION, max_tokens=20)) == list(whole.generate_ids(QUESTION, max_tokens=20))
    assert same_state(restored, whole)


def test_forks_do_not_mix(aurora, frames):
    """Interleaved token by token, each gives what it gives alone."""
    aurora.watch(frames)
    before = aurora.state
    questions = ["What moves?", "Which colour?", "How many?"]
    alone = [list(aurora.fork().generate_ids(question, max_tokens=9)) for question in questions]
    generators = [aurora.fork().generate_ids(question, max_tokens=9) for question in questions]
    interleaved = list(itertools.zip_longest(*generators))
    assert [[token for token in column if token is not None] for column in zip(*interleaved, strict=True)] == alone
    assert aurora.state.header == before.header
    assert all(np.array_equal(aurora.state.arrays[name], before.arrays[name]) for name in STATE_NAMES)


def test_reset_forgets_everything(aurora, frames):
    fresh = aurora.fork()
    aurora.watch(frames)
    answer(aurora)
    aurora.reset()
    assert same_state(aurora, fresh)
    assert aurora.phase == "empty"


def test_state_is_a_copy(aurora, frames):
    aurora.watch(frames[:2])
    kept = aurora.state
    aurora.watch(frames[2:])
    assert kept.header.frames_seen == 2
    other = aurora.fork()
    other.state = kept
    other.watch(frames[2:])
    assert same_state(aurora, other)


def test_an_unfinished_answer_has_been_seen(aurora, frames):
    """What was yielded is in the state, also if nobody asks for the rest."""
    aurora.watch(frames)
    other = aurora.fork()
    stream = aurora.generate_ids(QUESTION, max_tokens=9)
    first = [next(stream) for _ in range(3)]
    assert list(other.generate_ids(QUESTION, max_tokens=3)) == first
    assert same_state(aurora, other)
    assert aurora.stats.answer_end == "unfinished"
    answer(aurora, "And then?")
    with pytest.raises(UsageError, match="this answer cannot go on"):
        next(stream)


def test_stop_ids_end_an_answer(tmp_path, bundle, frames):
    with Aurora.open(bundle, threads=1) as aurora:
        aurora.watch(frames)
        ids = list(aurora.generate_ids(QUESTION, max_tokens=12))
    last = next(token for token in ids if token != ids[0])
    config = handmade_config(prompt={"stop_ids": (0, last)})
    with Aurora.open(write_bundle(tmp_path / "b.aurora", config), threads=1) as aurora:
        aurora.watch(frames)
        seen = list(aurora.generate_ids(QUESTION, max_tokens=12))
        assert seen == ids[: ids.index(last)]
        assert aurora.stats.answer_end == "stop"
        assert aurora.stats.n_answer_tokens == len(seen)


def test_stop_texts_never_show(aurora, frames):
    """The vocabulary has only bytes, so every stop text comes in several pieces."""
    aurora.watch(frames)
    whole = answer(aurora.fork())
    assert len(whole) > 6
    stop = whole[3:6]
    other = aurora.fork()
    assert answer(other, stop=[stop]) == whole[: whole.index(stop)]
    assert other.stats.answer_end == "stop"
    assert answer(aurora.fork(), stop=stop) == whole[: whole.index(stop)]
    assert answer(aurora.fork(), stop=["never said"]) == whole


def test_stop_texts_of_the_profile(tmp_path, bundle, frames):
    with Aurora.open(bundle, threads=1) as aurora:
        aurora.watch(frames)
        whole = answer(aurora)
    config = handmade_config(prompt={"stop_texts": (whole[2:4],)})
    with Aurora.open(write_bundle(tmp_path / "b.aurora", config), threads=1) as aurora:
        aurora.watch(frames)
        assert answer(aurora) == whole[: whole.index(whole[2:4])]


def test_max_tokens(aurora, frames):
    aurora.watch(frames)
    assert len(list(aurora.generate_ids(QUESTION, max_tokens=3))) == 3
    assert aurora.stats.answer_end == "length"
    assert aurora.stats.n_answer_tokens == 3


def test_sampling_options_are_used(aurora, frames):
    aurora.watch(frames)
    hot = [answer(aurora.fork(), options=SamplingOptions(temperature=50.0, seed=seed)) for seed in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2]


def test_stages_are_timed(aurora, frames):
    aurora.watch(frames)
    answer(aurora)
    stats = aurora.stats
    assert all(seconds > 0 for seconds in stats.seconds.values())
    assert (stats.n_frames, stats.n_answer_tokens) == (8, 12)


def test_callback_for_each_frame(aurora, frames):
    seen = []
    aurora.watch([Frame(frame, float(i)) for i, frame in enumerate(frames)], on_frame=seen.append)
    assert [(watched.index, watched.time_s) for watched in seen] == [(i, float(i)) for i in range(8)]
    assert seen[0].visual_tokens.shape == (9, 8)
    assert seen[0].token_of_patch.shape == (16,)
    assert seen[0].token_sizes.sum() == 16


def test_a_video_file(aurora, make_video, tmp_path):
    report = aurora.watch(make_video("clip.mp4"), fps=2)
    assert report.n_frames == 5
    assert aurora.state.header.position_s == pytest.approx(2.0)
    data = make_video("clip.mp4", 100, options={"movflags": "faststart"}).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    report = aurora.watch(str(tmp_path / "cut.mp4"), num_frames=6)
    assert 1 <= report.n_frames < 6
    assert "the" in report.warnings[0]
    assert "decoded frames are used" in report.warnings[0]


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda a, f: a.ask(QUESTION), "nothing was watched yet"),
        (lambda a, f: a.watch([]), "there are no frames to watch"),
        (lambda a, f: a.watch(f, fps=2), "fps and num_frames choose frames of a file; pictures are used as given"),
        (lambda a, f: (a.watch(f), a.watch(f, prompt="x")), "the prompt must come before the first frame, and this"),
        (lambda a, f: (a.watch(f), a.ask(" ")), "the question is empty"),
        (lambda a, f: (a.watch(f), a.ask(QUESTION, max_tokens=0)), "max_tokens is 0; at least 1 is needed"),
        (lambda a, f: (a.watch(f), a.ask(QUESTION, stop=[""])), "a stop text is empty"),
        (lambda a, f: a.watch([np.zeros((4, 4), np.uint8)]), "a frame must have shape (height, width, 3)"),
        (lambda a, f: a.watch([np.zeros((4, 4, 3), np.float32)]), "a frame must be a numpy array of uint8"),
        (lambda a, f: (a.close(), a.watch(f)), "this session is closed"),
        (lambda a, f: (a.close(), a.close(), a.state), "this session is closed"),
    ],
)
def test_misuse(misuse, message, bundle, frames):
    aurora = Aurora.open(bundle, threads=1)
    with pytest.raises(UsageError) as caught:
        misuse(aurora, frames)
    assert caught.value.message.startswith(message)


def test_a_failed_call_leaves_the_session_usable(aurora, frames):
    other = aurora.fork()
    with pytest.raises(UsageError):
        aurora.watch([])
    assert aurora.phase == "empty"
    with pytest.raises(UsageError):
        aurora.watch([frames[0], frames[1][..., 0]])
    aurora.watch(frames[1:])
    other.watch(frames)
    assert same_state(aurora, other)


def test_forks_outlive_the_session_they_came_from(bundle, frames):
    with Aurora.open(bundle, threads=1) as aurora:
        aurora.watch(frames)
        fork = aurora.fork()
    assert answer(fork)


def test_state_of_another_model(aurora, frames, tmp_path):
    other = Aurora.open(write_bundle(tmp_path / "other.aurora", seed=1), threads=1)
    other.watch(frames)
    other.save(tmp_path / "s.aurstate")
    with pytest.raises(IncompatibleError, match=f"this bundle is {aurora.manifest.fingerprint}"):
        aurora.load(tmp_path / "s.aurstate")
    with pytest.raises(IncompatibleError, match=f"state of the model {other.manifest.fingerprint}"):
        aurora.state = other.state


def test_a_renamed_bundle_is_the_same_model(bundle, frames, tmp_path):
    with Aurora.open(bundle, threads=1) as aurora:
        aurora.watch(frames)
        aurora.save(tmp_path / "s.aurstate")
    moved = shutil.copytree(bundle, tmp_path / "entirely different")
    with Aurora.open(moved, threads=1) as aurora:
        aurora.load(tmp_path / "s.aurstate")
