"""When a job would begin: one ``sbatch --test-only``, which submits nothing."""

import contextlib
import logging
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable

from . import client

# Seconds from the question on, after which nobody waits for the answer any more.
WITHIN_S = 5.0
_LOG = logging.getLogger(__name__)
_START = re.compile(r"to start at (\S+)")


def ask(script: str) -> Callable[[], float | None]:
    """Ask when the job of a batch script would begin; the result reads the answer, and None means that there is none.

    Whatever goes wrong is no answer: an estimate must neither delay a submission nor break it.
    """
    deadline = time.monotonic() + WITHIN_S
    try:
        process = subprocess.Popen(
            ["sbatch", "--test-only"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "SLURM_TIME_FORMAT": "standard"},
        )
    except (OSError, ValueError):
        return lambda: None
    said: list[str] = []

    def talk() -> None:
        with contextlib.suppress(OSError, ValueError):
            said.append(process.communicate(script)[0])
            _LOG.debug("%.3f s: sbatch --test-only", time.monotonic() - deadline + WITHIN_S)

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()

    def answer() -> float | None:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            with contextlib.suppress(OSError):
                process.kill()
            return None
        found = _START.search(said[0]) if said else None
        return client.seconds_of(found[1]) if found else None

    return answer
