"""Many videos, the same questions: what is done for one video, and a pool of processes that does it for all.

A video that is damaged, or that takes its process down, costs its own answers and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import signal
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeAlias

from aurora_export.errors import EXIT_RESOURCES, EXIT_UNEXPECTED, AuroraError, UsageError
from aurora_export.manifest import hash_file, read_manifest
from aurora_export.runtime.session import Aurora
from aurora_export.sampling import SamplingOptions

Row: TypeAlias = dict[str, Any]
"""One line of the answers: of a question, or of an error."""

Known: TypeAlias = Mapping[str, frozenset[str]]
"""Digest of a video -> questions that are answered already."""

JOIN_S = 5.0


@dataclass(frozen=True)
class BatchJob:
    """What is asked of every video, and how. Travels to other processes and machines."""

    bundle: str
    questions: tuple[str, ...]
    fps: float | None = None
    num_frames: int | None = None
    is_primed: bool = False
    """each question is also read before the frames, which are then watched once for each"""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    max_tokens: int = 256
    threads: int | None = None
    device: str = "cpu"

    def settings(self) -> str:
        """What answers depend on beside video and question, as a short digest: model, frames, prompt, sampling."""
        decisive = {
            "model": read_manifest(Path(self.bundle)).fingerprint,
            "frames": [self.fps, self.num_frames],
            "is_primed": self.is_primed,
            "sampling": asdict(self.sampling),
            "max_tokens": self.max_tokens,
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class VideoResult:
    """What became of one video."""

    video: str
    digest: str | None
    rows: list[Row]
    """of the questions that were not known, or one row with `error`"""

    @property
    def error(self) -> Row | None:
        """The row of the error, if it failed."""
        return self.rows[0] if self.rows and "error" in self.rows[0] else None


Results: TypeAlias = Generator[VideoResult, None, None]


class Answerer:
    """Answers the questions of a job about one video after the other. Opens the bundle when it is made."""

    def __init__(self, job: BatchJob, known: Known) -> None:
        """The digests of the bundle's files must have been verified. Raises what `Aurora.open` raises."""
        self._job, self._known = job, known
        self._aurora = Aurora.open(job.bundle, device=job.device, threads=job.threads, verify=False)

    def __call__(self, video: str) -> VideoResult:
        """All answers about a video; whatever is wrong with it becomes a row."""
        digest = None
        try:
            digest = _digest_of(video)
            asked = [question for question in self._job.questions if question not in self._known.get(digest, ())]
            return VideoResult(
                video, digest, [{"video": video, "digest": digest, **row} for row in self._answers(video, asked)]
            )
        except AuroraError as error:
            row = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
        except MemoryError:
            row = {"error": "out of memory", "hint": "use fewer workers", "exit_code": EXIT_RESOURCES}
        except Exception as error:  # the next video is another matter
            row = {"error": f"{type(error).__name__}: {error}", "hint": None, "exit_code": EXIT_UNEXPECTED}
        return failed(video, digest, row)

    def _answers(self, video: str, questions: list[str]) -> Iterator[Row]:
        started, watched = time.perf_counter(), None
        for question in questions:
            if watched is None or self._job.is_primed:
                watched = self._aurora.fork()
                report = watched.watch(
                    video,
                    fps=self._job.fps,
                    num_frames=self._job.num_frames,
                    prompt=question if self._job.is_primed else None,
                )
            session = watched.fork()
            answer = "".join(session.ask(question, options=self._job.sampling, max_tokens=self._job.max_tokens)).strip()
            yield {
                "question": question,
                "answer": answer,
                "answer_end": session.stats.answer_end,
                "n_answer_tokens": session.stats.n_answer_tokens,
                "n_frames": report.n_frames,
                "seconds": round(time.perf_counter() - started, 3),
                "warnings": list(report.warnings),
            }
            started = time.perf_counter()


def failed(video: str, digest: str | None, row: Row) -> VideoResult:
    """The result of a video that could not be answered."""
    return VideoResult(video, digest, [{"video": video, "digest": digest, **row}])


def run_pool(job: BatchJob, known: Known, videos: Iterable[str], *, n_workers: int) -> Results:
    """Answer in processes of this machine; results come as they are finished.

    A process that dies takes its video with it, which becomes an error, and is replaced. Raises what opening the bundle
    raises. Closing the iterator ends the processes at once.
    """
    context = multiprocessing.get_context("spawn")
    left = iter(videos)
    busy: dict[Any, tuple[_Worker, str]] = {}
    workers = [_Worker(context, job, known) for _ in range(n_workers)]
    idle = list(workers)
    try:
        while True:
            while idle and (video := next(left, None)) is not None:
                worker = idle.pop()
                worker.connection.send(video)
                busy[worker.connection] = (worker, video)
            if not busy:
                return
            for connection in wait(list(busy)):
                worker, video = busy.pop(connection)
                result = worker.receive(video)
                if worker.is_dead:
                    worker.end()
                    worker = _Worker(context, job, known)
                    workers.append(worker)
                idle.append(worker)
                yield result
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """A process with an Answerer of its own, and the pipe to it."""

    def __init__(self, context: Any, job: BatchJob, known: Known) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, job, known), daemon=True)
        self.process.start()
        theirs.close()
        self.is_dead = False

    def receive(self, video: str) -> VideoResult:
        """What it made of the video; an error if it died over it. Raises what kept it from opening the bundle."""
        try:
            result = self.connection.recv()
        except (EOFError, OSError):
            self.is_dead = True
            self.process.join(JOIN_S)
            row = {
                "error": f"the process that watched it died (exit code {self.process.exitcode})",
                "hint": "out of memory, or a fault in the decoder; try it alone, or with fewer workers",
                "exit_code": EXIT_RESOURCES,
            }
            return failed(video, None, row)
        if isinstance(result, AuroraError):
            raise result
        return result

    def end(self) -> None:
        """End the process, whatever it does; twice is allowed."""
        self.process.terminate()
        self.process.join(JOIN_S)
        self.connection.close()


def _serve(connection: Connection, job: BatchJob, known: Known) -> None:
    """What a worker does: a video in, a result out, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    with contextlib.suppress(EOFError, BrokenPipeError):
        video = connection.recv()
        try:
            answerer = Answerer(job, known)
        except AuroraError as error:
            connection.send(error)
            return
        while True:
            connection.send(answerer(video))
            video = connection.recv()


def _digest_of(video: str) -> str:
    """SHA-256 of the file. Raises UsageError for a missing one, and for what is no file and might never end."""
    if Path(video).exists() and not Path(video).is_file():
        raise UsageError(f"{video}: is no plain file", hint="cameras and streams are watched by `ingest`")
    try:
        return hash_file(Path(video)).sha256
    except OSError as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise UsageError(f"{video}: {what}") from error
