"""What a bundle answers and how sure it is, beside a yardstick: another bundle of the same model, usually fp32.

Both are asked the same questions through the product's own runtime, greedy. The candidate is also led along the
yardstick's answers token by token, so that its next-token distributions stand at the same places:

    agreement   the share of those places where both would say the same token
    KL          sum p log(p / q) over the vocabulary, p the yardstick's, in nats, mean over those places

Visual tokens are never compared by position here: see visual_measures.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aurora_export.calibration.questions import Question, by_video
from aurora_export.contract import GraphSpec
from aurora_export.errors import AccuracyError, IncompatibleError
from aurora_export.runtime.engine import Engine, Loop
from aurora_export.runtime.opened_bundle import OpenedBundle
from aurora_export.runtime.session import Aurora
from aurora_export.runtime.stop_texts import StopTexts
from aurora_export.tokenizer import StreamDecoder

MAX_ANSWER_TOKENS = 32
MAX_TRACE_BYTES = 256 * 2**20
"""What the yardstick's distributions may take; questions past it are compared by their tokens alone."""

MAX_CACHE_BYTES = 512 * 2**20
"""What remembered visual tokens may take."""

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Outcome:
    """One question, asked of one bundle."""

    question: Question
    answer: str
    n_places: int
    """where the yardstick chose a token, the end of its answer included"""
    n_agreed: int
    kl: float | None
    """summed over the places; None where the yardstick's distributions were not kept"""

    @property
    def is_right(self) -> bool | None:
        """Whether it is the right answer, if that is known; case and white space do not count."""
        expected = self.question.answer
        return None if expected is None else normalised(self.answer) == normalised(expected)


def normalised(answer: str) -> str:
    """An answer as it is compared: lower case, one space between words."""
    return " ".join(answer.casefold().split())


@dataclass(frozen=True)
class _Trace:
    """What the yardstick said to one question."""

    ids: tuple[int, ...]
    """tokens of the answer, without the stop id"""
    chosen: tuple[int, ...]
    """the most likely id before each of them, and at the end if the answer was not cut off"""
    log_probabilities: np.ndarray | None
    """float32, shape (len(chosen), V)"""
    answer: str


@dataclass
class Yardstick:
    """The answers and distributions of one bundle to a list of questions: made once, compared with often."""

    questions: tuple[Question, ...]
    max_tokens: int
    outcomes: list[Outcome] = field(default_factory=list)
    traces: list[_Trace] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        opened: OpenedBundle,
        questions: Sequence[Question],
        *,
        max_tokens: int = MAX_ANSWER_TOKENS,
        progress: Progress | None = None,
    ) -> Yardstick:
        """Ask every question. progress: called with the share that is done."""
        yardstick = cls(tuple(q for same in by_video(questions).values() for q in same), max_tokens)
        n_bytes = 0
        for question, session in _sessions(opened, yardstick.questions, progress):
            trace = _trace(opened, session, question.prompt, max_tokens)
            n_bytes += trace.log_probabilities.nbytes if trace.log_probabilities is not None else 0
            if n_bytes > MAX_TRACE_BYTES:
                trace = replace(trace, log_probabilities=None)
            n = len(trace.chosen)
            kl = None if trace.log_probabilities is None else 0.0
            yardstick.traces.append(trace)
            yardstick.outcomes.append(Outcome(question, trace.answer, n, n, kl))
        return yardstick

    def measure(self, opened: OpenedBundle, progress: Progress | None = None) -> list[Outcome]:
        """Ask another bundle of the same model the same questions.

        Raises AccuracyError if its outputs are not finite, IncompatibleError for another vocabulary.
        """
        outcomes = []
        for (question, session), trace in zip(_sessions(opened, self.questions, progress), self.traces, strict=True):
            logits = session.fork().score_ids(question.prompt, trace.ids)[: len(trace.chosen)]
            if not np.isfinite(logits).all():
                raise AccuracyError(
                    f"the logits for {question.prompt!r} about {question.video} are not finite",
                    hint="the scales do not fit this model: calibrate again",
                )
            chosen = tuple(int(row.argmax()) for row in logits)
            n_agreed = sum(mine == theirs for mine, theirs in zip(chosen, trace.chosen, strict=True))
            # Greedy: where every choice is the same, so is the answer.
            is_same = n_agreed == len(chosen)
            answer = trace.answer if is_same else _answer(opened, session, question.prompt, self.max_tokens)[1]
            outcomes.append(Outcome(question, answer, len(chosen), n_agreed, _kl(trace.log_probabilities, logits)))
        return outcomes


def require_same_model(yardstick: OpenedBundle, candidate: OpenedBundle) -> None:
    """Raise IncompatibleError unless two bundles are of one model: precision and merging may differ."""
    ours, theirs = (
        {key: value for key, value in side.manifest.config.model_dump().items() if key not in ("merge", "profile")}
        for side in (yardstick, candidate)
    )
    if different := [key for key in ours if ours[key] != theirs[key]]:
        raise IncompatibleError(
            f"{candidate.path} and {yardstick.path} are of different models: {', '.join(different)} differ",
            hint="compare bundles that were built from one checkpoint",
        )
    if yardstick.tokenizer.file_bytes != candidate.tokenizer.file_bytes:
        raise IncompatibleError(f"{candidate.path} and {yardstick.path} have different vocabularies")


def _sessions(
    opened: OpenedBundle, questions: Sequence[Question], progress: Progress | None
) -> Iterator[tuple[Question, Aurora]]:
    """Each question with a session that has watched its video; fork it to ask more than once."""
    done = 0
    for video, same in by_video(questions).items():
        watched = Aurora(opened)
        watched.watch(video)
        for question in same:
            yield question, watched.fork()
            done += 1
            if progress is not None:
                progress(done / len(questions))


def _trace(opened: OpenedBundle, session: Aurora, prompt: str, max_tokens: int) -> _Trace:
    scored = session.fork()
    ids, answer = _answer(opened, session, prompt, max_tokens)
    logits = scored.score_ids(prompt, ids)
    # An answer that was cut off has no end that could be compared.
    logits = logits if session.stats.answer_end == "stop" else logits[: max(1, len(ids))]
    log_probabilities = log_softmax(logits).astype(np.float32)
    return _Trace(ids, tuple(int(row.argmax()) for row in logits), log_probabilities, answer)


def _answer(opened: OpenedBundle, session: Aurora, prompt: str, max_tokens: int) -> tuple[tuple[int, ...], str]:
    """A greedy answer, as ids and as the text that `Aurora.ask` gives."""
    decoder, stops = StreamDecoder(opened.tokenizer), StopTexts(opened.manifest.config.prompt.stop_texts)
    ids, text, is_stopped = [], "", False
    for token in session.generate_ids(prompt, max_tokens=max_tokens):
        ids.append(token)
        piece, is_stopped = stops.push(decoder.push(token))
        text += piece
        if is_stopped:
            break
    if not is_stopped:
        piece, is_stopped = stops.push(decoder.flush())
        text += piece if is_stopped else piece + stops.flush()
    return tuple(ids), text.strip()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities in float64. logits: shape (..., V)."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def kl_divergence(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """KL(p || q) in nats, shape (...), never negative by rounding. log_p, log_q: log-probabilities, shape (..., V)."""
    return np.maximum(0.0, (np.exp(log_p) * (log_p - log_q)).sum(axis=-1))


def _kl(log_p: np.ndarray | None, logits: np.ndarray) -> float | None:
    return None if log_p is None else float(kl_divergence(log_p.astype(np.float64), log_softmax(logits)).sum())


class RememberingVision:
    """A vision engine that runs each frame once; what differs in the language graph alone is then asked quickly."""

    def __init__(self, engine: Engine) -> None:
        """engine: run for frames that are new."""
        self._engine, self._known, self._n_bytes = engine, dict[bytes, dict[str, np.ndarray]](), 0
        self.spec: GraphSpec = engine.spec
        self.backend = engine.backend

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As `Engine.run`."""
        key = hashlib.sha256(np.ascontiguousarray(inputs["frames"]).data).digest()
        if key in self._known:
            return self._known[key]
        outputs = self._engine.run(inputs)
        n_bytes = sum(array.nbytes for array in outputs.values())
        if self._n_bytes + n_bytes <= MAX_CACHE_BYTES:
            self._known[key] = outputs
            self._n_bytes += n_bytes
        return outputs

    def open_loop(self) -> Loop:
        """As `Engine.open_loop`."""
        return self._engine.open_loop()


def remembering(opened: OpenedBundle) -> OpenedBundle:
    """The same bundle with a vision engine that remembers."""
    return replace(opened, vision=RememberingVision(opened.vision))
