"""Runs an engine builder in a process of its own, because builders abort, and passes on what it says.

The job goes to stdin as JSON. On stdout come lines of JSON: {"progress": TEXT} any number of times, then the answer.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from aurora_export.errors import IncompatibleError

_log = logging.getLogger(__name__)

SEE_ALL = "--verbose shows all that it says"


def run_builder(
    job: Mapping[str, Any],
    *,
    program: str,
    library: str,
    say: Callable[[str], None] = lambda text: None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Build one engine. program: module to run.  library: name for messages.  say: told how far the build is.

    environment: of the process, beside this one's.
    Raises IncompatibleError with the builder's own words if it fails.
    """
    name = Path(job["onnx"]).name
    said: list[str] = []
    answer: dict[str, Any] = {}
    with subprocess.Popen(
        [sys.executable, "-m", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        listener = threading.Thread(target=_listen, args=(process, library, said), daemon=True)
        listener.start()
        try:
            with suppress(BrokenPipeError):  # it ended before it read its job, and its exit says why
                process.stdin.write(json.dumps(job))
                process.stdin.close()
            for line in process.stdout:
                event = json.loads(line) if line.startswith("{") else {}
                if "progress" in event:
                    say(str(event["progress"]))
                elif event:
                    answer = event
        except BaseException:
            process.kill()
            raise
        finally:
            listener.join()
    code = process.returncode
    if code != 0:
        how = signal.Signals(-code).name if code < 0 else f"exit {code}"
        words = (said or ["no message"])[-1]
        raise IncompatibleError(f"{name}: the builder of {library} ended with {how}: {words}", hint=SEE_ALL)
    if errors := answer.get("errors"):
        capabilities = ", ".join(job["compute_capabilities"])
        raise IncompatibleError(
            f"{name}: {library} {answer['version']} refuses it for {capabilities}: {' / '.join(errors)}", hint=SEE_ALL
        )
    _log.debug("%s: %s", name, answer)
    return answer


def _listen(process: subprocess.Popen[str], library: str, said: list[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line.strip():
            said.append(line.strip())
            _log.debug("%s: %s", library, line.rstrip())
