from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import threading

import pytest

from aurora_export.errors import IncompatibleError, IntegrityError, ResourceError, UsageError
from aurora_export.runtime.answer_file import AnswerFile, opened
from aurora_export.runtime.batch import Answerer, BatchJob, VideoResult, run_pool
from aurora_export.runtime.session import Aurora
from aurora_export.sampling import SamplingOptions
from endless_file import make_endless, wait_until_read

QUESTIONS = ("What moves?", "How many?")


@pytest.fixture
def job(bundle):
    return BatchJob(str(bundle), QUESTIONS, max_tokens=6, threads=1)


@pytest.fixture
def video(make_video):
    return str(make_video("clip.mp4"))


def answers(result):
    return [(row["question"], row["answer"]) for row in result.rows]


@pytest.mark.parametrize("is_primed", [False, True])
def test_the_answers_are_those_of_the_api(is_primed, bundle, video):
    job = BatchJob(str(bundle), QUESTIONS, fps=2, is_primed=is_primed, max_tokens=6, threads=1)
    expected = []
    for question in QUESTIONS:
        with Aurora.open(bundle, threads=1) as aurora:
            aurora.watch(video, fps=2, prompt=question if is_primed else None)
            expected.append((question, "".join(aurora.ask(question, max_tokens=6)).strip()))
    result = Answerer(job, {})(video)
    assert answers(result) == expected
    assert result.error is None
    assert {row["n_frames"] for row in result.rows} == {5}
    assert {row["digest"] for row in result.rows} == {result.digest}


def test_what_is_known_is_not_asked(job, video):
    digest = Answerer(job, {})(video).digest
    assert answers(Answerer(job, {digest: frozenset(QUESTIONS[:1])})(video)) == answers(Answerer(job, {})(video))[1:]
    assert Answerer(job, {digest: frozenset(QUESTIONS)})(video).rows == []


def test_whatever_is_wrong_is_a_row(job, tmp_path, monkeypatch):
    (tmp_path / "bad.mp4").write_text("dear all")
    os.mkfifo(tmp_path / "pipe")
    answerer = Answerer(job, {})
    errors = {"bad.mp4": ("not a video", 4), "no.mp4": ("no such file", 2), "pipe": ("is no plain file", 2)}
    for name, (error, code) in errors.items():
        row = answerer(str(tmp_path / name)).error
        assert (row["error"], row["exit_code"]) == (f"{tmp_path / name}: {error}", code)
    monkeypatch.setattr(Answerer, "_answers", lambda *_: (_ for _ in ()).throw(ZeroDivisionError("a bug")))
    assert answerer(str(tmp_path / "bad.mp4")).error["error"] == "ZeroDivisionError: a bug"
    monkeypatch.setattr(Answerer, "_answers", lambda *_: (_ for _ in ()).throw(MemoryError()))
    assert answerer(str(tmp_path / "bad.mp4")).error["exit_code"] == 6


def test_settings_are_all_that_decides(bundle, job):
    same = BatchJob(str(bundle), QUESTIONS[:1], max_tokens=6, threads=2)
    others = [
        BatchJob(str(bundle), QUESTIONS, max_tokens=7),
        BatchJob(str(bundle), QUESTIONS, max_tokens=6, fps=2),
        BatchJob(str(bundle), QUESTIONS, max_tokens=6, num_frames=2),
        BatchJob(str(bundle), QUESTIONS, max_tokens=6, is_primed=True),
        BatchJob(str(bundle), QUESTIONS, max_tokens=6, sampling=SamplingOptions(temperature=1.0)),
    ]
    assert same.settings() == job.settings()
    assert len({job.settings(), *(other.settings() for other in others)}) == 6


def test_a_pool(job, video, make_video, tmp_path):
    (tmp_path / "bad.mp4").write_text("dear all")
    videos = [video, str(tmp_path / "bad.mp4"), str(make_video("other.mp4", 40))]
    results = {result.video: result for result in run_pool(job, {}, videos, n_workers=2)}
    assert set(results) == set(videos)
    assert answers(results[video]) == answers(Answerer(job, {})(video))
    assert results[videos[1]].error["exit_code"] == 4
    assert not multiprocessing.active_children()


def test_a_video_that_kills_its_process_costs_itself_only(job, video, tmp_path):
    """The process is killed while it reads the first one; a new process answers the second."""
    deadly = make_endless(tmp_path / "deadly.mp4")
    killer = threading.Thread(target=lambda: os.kill(wait_until_read(deadly), signal.SIGKILL))
    killer.start()
    first, second = run_pool(job, {}, [str(deadly), video], n_workers=1)
    killer.join()
    assert first.error["error"] == "the process that watched it died (exit code -9)"
    assert second.error is None
    assert answers(second) == answers(Answerer(job, {})(video))


def test_a_bundle_that_does_not_open_ends_it(bundle_copy, video):
    (bundle_copy / "onnx" / "vision.onnx").write_bytes(b"no graph")
    job = BatchJob(str(bundle_copy), QUESTIONS, threads=1)
    with pytest.raises((IntegrityError, IncompatibleError)):
        list(run_pool(job, {}, [video] * 3, n_workers=2))
    assert not multiprocessing.active_children()


def test_leaving_early_ends_the_processes(job, video):
    results = run_pool(job, {}, [video] * 5, n_workers=2)
    next(results)
    results.close()
    assert not multiprocessing.active_children()


def result(video="a.mp4", digest="d" * 64, questions=QUESTIONS):
    rows = [{"video": video, "digest": digest, "question": question, "answer": "x"} for question in questions]
    return VideoResult(video, digest, rows)


def error(video="a.mp4"):
    return VideoResult(video, None, [{"video": video, "digest": None, "error": "bad", "exit_code": 4}])


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_are_found_again(tmp_path):
    path = tmp_path / "a.jsonl"
    with opened(path, "s1") as file:
        assert file.known == {}
        assert file.add(result(), QUESTIONS) == 0
        assert file.add(error("b.mp4"), QUESTIONS) == 0
    assert [row["settings"] for row in read(path)] == ["s1"] * 3
    assert AnswerFile(path, "s1").known == {"d" * 64: frozenset(QUESTIONS)}
    assert AnswerFile(path, "s2").known == {}
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_another_name_gets_its_rows(tmp_path):
    """Whether it was known from an earlier run or is found twice in one."""
    path = tmp_path / "a.jsonl"
    for _ in range(2):
        file = AnswerFile(path, "s")
        file.add(result(), QUESTIONS)
        assert file.add(VideoResult("copy.mp4", "d" * 64, []), QUESTIONS) == 2
        file.add(result("twice.mp4"), QUESTIONS)
    assert [row["video"] for row in read(path)] == ["a.mp4"] * 2 + ["copy.mp4"] * 2 + ["twice.mp4"] * 2


def test_a_last_line_that_is_not_whole(tmp_path, caplog):
    path = tmp_path / "a.jsonl"
    AnswerFile(path, "s").add(result(), QUESTIONS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    file = AnswerFile(path, "s")
    assert file.known == {"d" * 64: frozenset(QUESTIONS[:1])}
    assert "its last line is not whole" in caplog.text
    file.add(result(questions=QUESTIONS[1:]), QUESTIONS)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", ["dear all", "[1]", "{}", '{"video": "a", "digest": 3, "settings": "s"}', "[" * 9999])
def test_another_kind_of_file_is_left_alone(line, tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text(f"{line}\n")
    with pytest.raises(IntegrityError, match=r"letter.txt, line 1: is no answer of a batch"), opened(path, "s"):
        pass
    assert path.read_text() == f"{line}\n"


def test_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    file = AnswerFile(path, "s")
    file.add(result(), QUESTIONS)
    before = path.read_bytes()

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="cannot be written: No space left on device"):
        file.add(result("b.mp4", "e" * 64), QUESTIONS)
    assert path.read_bytes() == before


def test_no_file(tmp_path):
    with pytest.raises(UsageError, match="is a folder"), opened(tmp_path, "s"):
        pass
    with pytest.raises(UsageError, match="cannot be written"), opened(tmp_path / "no" / "a.jsonl", "s"):
        pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_ray_gives_the_same(job, video, make_video, tmp_path):
    """A real Ray of two workers on this machine; one video is bad, and one is not there."""
    from aurora_export.runtime.batch_ray import run_ray

    (tmp_path / "bad.mp4").write_text("dear all")
    videos = [video, str(tmp_path / "bad.mp4"), str(make_video("other.mp4", 40)), "no.mp4"]
    on_ray = {result.video: result for result in run_ray(job, {}, videos, n_workers=2)}
    in_pool = {result.video: result for result in run_pool(job, {}, videos, n_workers=2)}
    assert set(on_ray) == set(videos)
    for name in videos:
        found, expected = on_ray[name], in_pool[name]
        for row in (*found.rows, *expected.rows):
            row.pop("seconds", None)
        assert found == expected
