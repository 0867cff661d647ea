"""A conversation about a video: frames and text go into one recurrent state, an answer comes out.

    prefix ids ─ embeddings table ────────────┐
    frame ─ resize ─ vision ─ visual tokens ──┤─ language, in chunks ─► state
    question ids ─ embeddings table ──────────┘                          │
    answer ids ◄─ sampling ◄─ logits ◄─ language, token by token ◄───────┘

Memory does not depend on how much was watched or said: a frame lives until it is in the state.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from aurora_export.config import PromptConfig
from aurora_export.contract import MAX_CHUNK_TOKENS
from aurora_export.errors import IncompatibleError, UsageError
from aurora_export.manifest import Manifest
from aurora_export.prompt import prefix_ids, separator_ids, suffix_ids, turn_ids
from aurora_export.runtime.engine import Loop
from aurora_export.runtime.opened_bundle import OpenedBundle, open_bundle
from aurora_export.runtime.seeing import SeenFrame, is_full, see_frame
from aurora_export.runtime.stages import WATCH_STAGES, Clock, Stats, WatchedFrame, WatchReport, timed
from aurora_export.runtime.state import MAX_PRIMED_FOR, Phase, State, StateHeader
from aurora_export.runtime.stop_texts import StopTexts
from aurora_export.runtime.video import FrameSource, open_source
from aurora_export.sampling import Sampler, SamplingOptions
from aurora_export.tokenizer import StreamDecoder

DEFAULT_MAX_TOKENS = 256
TURN_END = "\n\n"
"""Ends a turn in the World format; `prompt.turn_ids` has it in front of a question."""


class Aurora:
    """A model that watches and answers. Open it with `Aurora.open`; not for several threads at once: fork it.

    A session has read nothing, or is watching (frames may follow), or has answered (a further question may follow,
    or a new video as a new turn). `ask` moves the state on: to ask many questions about one video, ask forks.
    """

    def __init__(self, opened: OpenedBundle) -> None:
        """See `open`."""
        self._open: tuple[OpenedBundle, Loop] | None = (opened, opened.language.open_loop())
        self._header = opened.zero_state().header
        self._loaded: tuple[str, int] | None = None
        """Digest and tokens seen of the state file that this session continues."""
        self._turn = 0
        """Counts what changes the state from outside an answer, which must not go on after that."""
        self.stats = Stats()

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        n_ahead: int | None = None,
        verify: bool = True,
        progress: Callable[[str, int], None] | None = None,
    ) -> Aurora:
        """Open a bundle.

        threads: of one operator; None is one for each core that this process may use. n_ahead: frames of a video file
        that are decoded and resized before they are wanted, in one more thread, 0 to 64; None is 2, or 0 where
        threads is 1. No result depends on either. verify: compare the digest of every file with the manifest before
        any is opened; leave it out only where that was done. progress: called with a file's path and the bytes of it
        that were verified since the last call.
        Raises IntegrityError, IncompatibleError, DependencyError, ResourceError or UsageError; see errors.py.
        """
        started = time.perf_counter()
        opened = open_bundle(
            Path(bundle), device=device, threads=threads, n_ahead=n_ahead, verify=verify, progress=progress
        )
        aurora = cls(opened)
        aurora.stats.seconds["open"] = time.perf_counter() - started
        return aurora

    def __enter__(self) -> Aurora:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the model; forks keep it. Closing twice is allowed, any other use after it is a UsageError."""
        self._open = None
        self._turn += 1

    @property
    def manifest(self) -> Manifest:
        """The manifest of the bundle."""
        return self._model.manifest

    @property
    def phase(self) -> Phase:
        """`empty`, `watching` or `answered`."""
        return self._header.phase

    @property
    def header(self) -> StateHeader:
        """The header of `state`, without a copy of the arrays."""
        return self._header

    def watch(
        self,
        source: FrameSource,
        *,
        prompt: str | None = None,
        fps: float | None = None,
        num_frames: int | None = None,
        on_frame: Callable[[WatchedFrame], None] | None = None,
        together: bool | None = None,
    ) -> WatchReport:
        """Read a video into the state, frame by frame; while watching, more frames continue the same video.

        prompt: the question, if it is known before the first frame; the answer then profits from knowing what to
        look for. None puts the profile's general instruction there, and any question may follow.
        fps, num_frames: which frames of a file are used, see `open_video`; by default one a second. Not for
        iterables, which are used whole. on_frame: called for each frame once it is in the state.
        together: whether frames of a file that are made ahead may be read into the state in one run, as many as fit,
        where that gives the same bits (see OpenedBundle.joins_runs): it takes less time, but at `on_frame` the state
        may hold later frames too. None: unless there is an `on_frame`.
        Raises UsageError (options, no such file, no frames), IntegrityError (not a video) or DependencyError.
        """
        if prompt is not None and self.phase == "watching":
            raise UsageError(
                "the prompt must come before the first frame, and this session is watching already",
                hint="call reset() first, or pass the question to ask()",
            )
        before = self._ids_before_frames(prompt)
        about = self._about_video(prompt)
        self._turn += 1
        seconds = dict.fromkeys(WATCH_STAGES, 0.0)
        n_frames = n_visual_tokens = 0
        with open_source(source, fps=fps, num_frames=num_frames) as frames:
            about["sampling"] = self._sampling_with(frames.sampling)
            is_ahead = self._model.n_ahead > 0 and frames.read_ahead(self._model.n_ahead, self._model.resize)
            may_wait = is_ahead and self._model.joins_runs and (on_frame is None if together is None else together)
            waiting: list[SeenFrame] = []
            try:
                for index, frame in enumerate(timed(iter(frames), seconds, self.stats.seconds)):
                    seen = see_frame(
                        self._model, index, frame, before, is_resized=is_ahead, clock=Clock(seconds, self.stats.seconds)
                    )
                    waiting.append(seen)
                    before = separator_ids(self._prompt_config, self._model.tokenizer)
                    n_frames += 1
                    n_visual_tokens += len(seen.watched.visual_tokens)
                    if not may_wait or is_full(waiting):
                        self._read_frames(waiting, about, seconds, on_frame)
            finally:
                self._read_frames(waiting, about, seconds, on_frame)
        if not n_frames:
            raise UsageError("there are no frames to watch", hint="pass at least one picture")
        return WatchReport(n_frames, n_visual_tokens, seconds, tuple(frames.warnings))

    def ask(
        self,
        question: str,
        *,
        options: SamplingOptions | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """Read a question about what was watched, and answer it in pieces of text, as they come.

        options: greedy if None. The answer ends at a stop id or stop text of the profile, at one of `stop`, or
        after max_tokens; stop texts are not part of it. The question is read at once, tokens are made as the
        iterator is advanced: the state has seen what was made, stop texts too, and an answer that is left unfinished
        can be followed by a further question.
        Raises UsageError (nothing watched, empty question, bad options).
        """
        stops = StopTexts((*self._prompt_config.stop_texts, *((stop,) if isinstance(stop, str) else stop)))
        return self._text_of(self.generate_ids(question, options=options, max_tokens=max_tokens), stops)

    def generate_ids(
        self, question: str, *, options: SamplingOptions | None = None, max_tokens: int = DEFAULT_MAX_TOKENS
    ) -> Iterator[int]:
        """As `ask`, but token ids, without the stop id; stop texts are not looked for."""
        if max_tokens < 1:
            raise UsageError(f"max_tokens is {max_tokens}; at least 1 is needed")
        sampler = Sampler(options)
        return self._generate(self._read_question(question), sampler, max_tokens, self._turn)

    def score_ids(self, question: str, ids: Sequence[int]) -> np.ndarray:
        """Read a question and an answer that is given; the logits before each id of the answer and after the last.

        Returns float32, shape (len(ids) + 1, V). Raises UsageError as `ask` does, and for an id outside the vocabulary.
        """
        if bad := [token for token in ids if not 0 <= token < self.manifest.config.language.vocabulary_size]:
            raise UsageError(f"{bad[0]} is no token id of this model")
        rows = [self._read_question(question).copy()]
        for token in ids:
            rows.append(self._feed(self._model.embed_ids((token,))).copy())
            self._move(phase="answered", n_tokens=1)
        return np.stack(rows)

    @property
    def state(self) -> State:
        """A copy of where this session stands; assign one to continue from there."""
        return State(self._loop.read_state(), self._header)

    @state.setter
    def state(self, state: State) -> None:
        if state.header.fingerprint != self._model.fingerprint:
            raise IncompatibleError(
                f"state of the model {state.header.fingerprint}; this bundle is {self._model.fingerprint}",
                hint="open the bundle that made it, or watch the video again with this one",
            )
        self._turn += 1
        self._loop.write_state(state.arrays)
        self._header, self._loaded = state.header, None

    def fork(self) -> Aurora:
        """Another session over the same engines that continues from here, apart from this one."""
        other = Aurora(self._model)
        other.state = self.state
        other._loaded = self._loaded
        return other

    def reset(self) -> None:
        """Forget everything that was watched and said."""
        self.state = self._model.zero_state()

    def save(self, path: str | Path, *, packed: bool = False) -> int:
        """Write the state to a `.aurstate` file, and return its size; see `State.save`."""
        state = self.state
        if self._loaded is not None and state.header.tokens_seen > self._loaded[1]:
            state.header = state.header.model_copy(update={"parent_digest": self._loaded[0]})
        return state.save(path, packed=packed)

    def load(self, path: str | Path) -> None:
        """Continue from a `.aurstate` file that the same model wrote; see `State.load`."""
        state = State.load(path, self.manifest.config, fingerprint=self._model.fingerprint)
        self.state = state
        self._loaded = (state.digest, state.header.tokens_seen)

    @property
    def _model(self) -> OpenedBundle:
        return self._parts[0]

    @property
    def _loop(self) -> Loop:
        return self._parts[1]

    @property
    def _parts(self) -> tuple[OpenedBundle, Loop]:
        if self._open is None:
            raise UsageError("this session is closed", hint="open the bundle again with Aurora.open()")
        return self._open

    @property
    def _prompt_config(self) -> PromptConfig:
        return self.manifest.config.prompt

    def _ids_before_frames(self, prompt: str | None) -> tuple[int, ...]:
        """What stands before the next frame."""
        tokenizer = self._model.tokenizer
        if self.phase == "watching":
            return separator_ids(self._prompt_config, tokenizer)
        if self.phase == "empty":
            return prefix_ids(self._prompt_config, tokenizer, prompt)
        # A new video after an answer is a new turn of the same sequence: an empty line, and no second start of text.
        without_start = self._prompt_config.model_copy(update={"bos": False})
        return (*tokenizer.encode(TURN_END), *prefix_ids(without_start, tokenizer, prompt))

    def _about_video(self, prompt: str | None) -> dict[str, object]:
        """Fields of the header that the first frame of a video sets."""
        if self.phase == "watching":
            return {}
        # Only this sandwich reads the question before the frames.
        if prompt is None or self._prompt_config.sandwich != "duplicate":
            return {"prompt_form": "generic", "primed_for": None}
        return {"prompt_form": "primed", "primed_for": prompt[:MAX_PRIMED_FOR]}

    def _sampling_with(self, sampling: str) -> str:
        """The rule by which frames are chosen, once these have come too."""
        before = self._header.sampling
        return sampling if not self._header.frames_seen or before == sampling else "mixed"

    def _read_frames(
        self,
        waiting: list[SeenFrame],
        about: dict[str, object],
        seconds: dict[str, float],
        on_frame: Callable[[WatchedFrame], None] | None,
    ) -> None:
        """Read frames, and the text before each, into the state; none waits any more, whatever comes of it."""
        if not waiting:
            return
        frames = tuple(waiting)
        waiting.clear()
        clock = Clock(seconds, self.stats.seconds)
        self._read(np.concatenate([seen.embeddings(self._model) for seen in frames]))
        for seen in frames:
            previous = bytes.fromhex(self._header.video_digest or "00" * 32)
            self._move(
                phase="watching",
                n_tokens=seen.n_tokens,
                frames_seen=self._header.frames_seen + 1,
                position_s=seen.watched.time_s,
                video_digest=hashlib.sha256(previous + seen.resized.tobytes()).hexdigest(),
                **about,
            )
            self.stats.n_frames += 1
            self.stats.n_visual_tokens += len(seen.watched.visual_tokens)
            self.stats.n_text_tokens += len(seen.ids_before)
        clock.lap("prefill")
        for seen in frames:
            if on_frame is not None:
                on_frame(seen.watched)

    def _feed(self, embeddings: np.ndarray) -> np.ndarray:
        """Read embeddings, shape (T, E) for any T >= 1; the logits after the last one, valid until the next call."""
        last = (len(embeddings) - 1) // MAX_CHUNK_TOKENS * MAX_CHUNK_TOKENS
        self._read(embeddings[:last])
        return self._loop.advance(embeddings[last:])

    def _read(self, embeddings: np.ndarray) -> None:
        """Read embeddings where nobody needs the logits: a GPU may still be at it when the next frame is encoded."""
        for start in range(0, len(embeddings), MAX_CHUNK_TOKENS):
            self._loop.feed(embeddings[start : start + MAX_CHUNK_TOKENS])

    def _move(self, *, phase: Phase, n_tokens: int, **fields: object) -> None:
        """Note in the header what the state has just seen."""
        tokens_seen = self._header.tokens_seen + n_tokens
        self._header = self._header.model_copy(update={"phase": phase, "tokens_seen": tokens_seen, **fields})

    def _read_question(self, question: str) -> np.ndarray:
        """Read a question into the state; the logits after it, valid until the next run."""
        if self.phase == "empty":
            raise UsageError("nothing was watched yet", hint="call watch() with a video or pictures before ask()")
        ids_of = suffix_ids if self.phase == "watching" else turn_ids
        ids = ids_of(self._prompt_config, self._model.tokenizer, question)
        self._turn += 1
        started = time.perf_counter()
        logits = self._feed(self._model.embed_ids(ids))
        self._move(phase="answered", n_tokens=len(ids))
        self.stats.n_text_tokens += len(ids)
        self.stats.seconds["question"] += time.perf_counter() - started
        self.stats.answer_end = "unfinished"
        return logits

    def _generate(self, logits: np.ndarray, sampler: Sampler, max_tokens: int, turn: int) -> Iterator[int]:
        """Draw ids and feed them back. An id is in the state before it is yielded: nobody need come back for more."""
        for _ in range(max_tokens):
            if self._turn != turn:
                raise UsageError(
                    "this answer cannot go on: its session has moved on", hint="use a fork() for each parallel answer"
                )
            started = time.perf_counter()
            token = sampler.next(logits)
            stopped = token in self._prompt_config.stop_ids
            if not stopped:
                logits = self._feed(self._model.embed_ids((token,)))
                self._move(phase="answered", n_tokens=1)
                self.stats.n_answer_tokens += 1
            self.stats.seconds["answer"] += time.perf_counter() - started
            if stopped:
                self.stats.answer_end = "stop"
                return
            yield token
        self.stats.answer_end = "length"

    def _text_of(self, ids: Iterator[int], stops: StopTexts) -> Iterator[str]:
        """The text of ids in pieces that are never empty, up to a stop text."""
        decoder = StreamDecoder(self._model.tokenizer)
        for token in ids:
            text, stopped = stops.push(decoder.push(token))
            if text:
                yield text
            if stopped:
                self.stats.answer_end = "stop"
                return
        text, stopped = stops.push(decoder.flush())
        if rest := text if stopped else text + stops.flush():
            yield rest
