"""The same answers on a cluster, by Ray Data: one actor a worker, each with the model open, videos in a stream."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from aurora_export.errors import EXIT_RESOURCES, DependencyError, ResourceError
from aurora_export.runtime.batch import Answerer, BatchJob, Known, Results, VideoResult, failed

_log = logging.getLogger(__name__)


class _Actor:
    """What Ray keeps in each worker. Results travel as JSON: a table of them would need one type for all rows."""

    def __init__(self, job: BatchJob, known: Known) -> None:
        self._answer = Answerer(job, known)

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        return {"result": json.dumps(asdict(self._answer(str(row["video"]))))}


def run_ray(
    job: BatchJob, known: Known, videos: Sequence[str], *, n_workers: int, address: str | None = None
) -> Results:
    """Answer on a Ray cluster; results come as they are finished. Bundle and videos have the same paths everywhere.

    address: of a running cluster, as `ray.init` takes it; None starts one on this machine. A worker that dies over a
    video costs that video. Raises DependencyError (no Ray) or ResourceError (no cluster).
    """
    ray = _load_library()
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(f"no Ray cluster: {error}", hint="`ray status` shows whether one runs") from error
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1
        missing = dict.fromkeys(videos)
        # One video a block: the next free worker takes it, and a failed block is one video.
        dataset = ray.data.from_items([{"video": video} for video in videos], override_num_blocks=len(videos))
        answered = dataset.map(
            _Actor,
            fn_constructor_args=(job, known),
            compute=ray.data.ActorPoolStrategy(size=n_workers),
            num_cpus=job.threads or 1,
        )
        for row in answered.iter_rows():
            result = VideoResult(**json.loads(row["result"]))
            missing.pop(result.video, None)
            yield result
        for video in missing:
            row = {"error": "the worker that watched it failed", "hint": "see Ray's logs", "exit_code": EXIT_RESOURCES}
            yield failed(video, None, row)
    finally:
        ray.shutdown()


def _load_library() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise DependencyError(f"Ray cannot be imported: {error}", hint="pip install 'aurora-export[ray]'") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray
