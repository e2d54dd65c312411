"""Telling `hooks.on_change` that a run has changed, from wherever that is known: a job, its aftermath, a command.

What is told is in the ledger. Whoever has written to it starts a process of its own (`hook_runner`), which reads the
ledger, calls the command for each change that it has not been called for, and notes that. Nobody waits for it before
something that matters: a hook that was killed with its job is called again by the next start.

The command is not read from the run's recipe, which others may be able to write: `allow` stores what this user asked
for in the folder of this user's logs, which is private.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from cld_core.codec import find_record
from cld_core.config import Recipe
from cld_core.config.monitor import HooksSpec
from cld_core.errors import CldError
from cld_core.files import read_bytes
from cld_core.ownership import require_private
from cld_core.run import RunFolder
from cld_core.run.work import Work
from cldctl.clusters import job_logs
from cldctl.clusters.base import InJob
from cldctl.clusters.this_machine import SAFE_PATH

SETTINGS = "hooks.json"
RUNNER = "cldctl.jobs.hook_runner"
# Seconds for which a job that is back in the queue waits for its hook; the node is wanted by somebody else.
HURRY_S = 5.0
# Beyond its time limit, what a hook may take to begin and to be ended.
_MARGIN_S = 5.0
# A job is told to end by signals that are sent to all its processes: the hook that tells of it goes on.
_DEAF = "trap '' HUP INT TERM USR1 USR2; exec \"$@\""

_started: "list[subprocess.Popen[bytes]]" = []


def allow(run: RunFolder, recipe: Recipe) -> None:
    """Let jobs of this user call the hook of a recipe that this user has made or accepts.

    Raises:
        CldError: others may write into the folder of the logs.
        OSError: it cannot be written.
    """
    has_one = (recipe.hooks.on_change or "").strip()
    put_back(run, json.dumps(asdict(recipe.hooks)).encode() if has_one else None)


def settings(run: RunFolder) -> bytes | None:
    """What `allow` has stored for the run, to be given to `put_back`; None for nothing, or what others can write."""
    logs = job_logs.folder_for(run.logs)
    try:
        return None if allowed(logs) is None else read_bytes(logs / SETTINGS)
    except (OSError, CldError):
        return None


def put_back(run: RunFolder, content: bytes | None) -> None:
    """Store what jobs of this user call; nothing for None. Raises as `allow`."""
    logs = job_logs.folder_for(run.logs)
    file = logs / SETTINGS
    if content is None:
        file.unlink(missing_ok=True)
        return
    job_logs.prepare(logs)
    draft = logs / f".{SETTINGS}.{os.getpid()}.tmp"
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as stream:
        stream.write(content)
    draft.replace(file)


def allowed(logs: Path) -> HooksSpec | None:
    """What jobs of this user with their output in ``logs`` call; None for nothing.

    Raises:
        CldError: others may write there.
        OSError: it cannot be looked at.
    """
    file = logs / SETTINGS
    if not os.path.lexists(file):
        return None
    for path in (logs, file):
        require_private(path, "a hook would run what is in it")
    return find_record(HooksSpec, file) or HooksSpec()


def fire(run: RunFolder, *, evaluation: Path | None = None, is_over: bool = False) -> None:
    """Call the hook for what has changed, without waiting for it. It never fails.

    Args:
        evaluation: the folder of one that may have ended, to tell of it instead.
        is_over: see `transitions.changes`.
    """
    with contextlib.suppress(Exception):
        logs = job_logs.folder_for(run.logs)
        if not os.path.lexists(logs / SETTINGS):
            return
        command = ["/bin/sh", "-c", _DEAF, "sh", sys.executable, "-P", "-m", RUNNER, str(run.path), str(logs)]
        command += ["--evaluation", str(evaluation)] if evaluation is not None else []
        command += ["--over"] if is_over else []
        _started.append(
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                env={**os.environ, **SAFE_PATH},
            )
        )


def settle(run: RunFolder, within_s: float | None = None) -> None:
    """Wait for hooks that this process has started: what a job leaves behind, its scheduler ends.

    Args:
        within_s: for at most so many seconds; by default their own time limit.
    """
    with contextlib.suppress(Exception):
        if within_s is None and _started:
            spec = allowed(job_logs.folder_for(run.logs))
            within_s = (spec or HooksSpec()).timeout_s + _MARGIN_S
        deadline = time.monotonic() + (within_s or 0.0)
        for process in _started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        _started[:] = [process for process in _started if process.poll() is None]


@contextlib.contextmanager
def told_about(run: RunFolder, job: InJob, is_requeued: Callable[[], bool]) -> Iterator[None]:
    """Call the hook for how the training inside the block ends, on rank 0.

    Where an aftermath follows a bad end, that is left to it: it decides what comes next.

    Args:
        is_requeued: whether the job has asked to begin again, which has told the hook.
    """
    try:
        yield
    except BaseException:
        after_bad_end(run, job)
        raise
    if job.place().rank == 0:
        if is_requeued():
            settle(run, HURRY_S)
            return
        fire(run)
        settle(run)


def after_bad_end(run: RunFolder, job: InJob) -> None:
    """Call the hook for a training that ended with an error, on rank 0, unless an aftermath follows."""
    if not job.cluster.restarts and job.place().rank == 0:
        fire(run)
        settle(run)


@contextlib.contextmanager
def told_about_shards(works: Callable[[], list[Work]], job: InJob) -> Iterator[None]:
    """Call the hook for evaluations that are finished or given up after the block.

    Args:
        works: those that the task computes shards of.
    """
    try:
        yield
    except BaseException:
        if not job.cluster.restarts:
            after_shards(works)
        raise
    after_shards(works)


def after_shards(works: Callable[[], list[Work]]) -> None:
    """Call the hook for those works that are finished or given up, and wait for it. It never fails."""
    from cld_core.evaluate.evaluation import Evaluation

    with contextlib.suppress(Exception):
        for work in works():
            if not isinstance(work, Evaluation) or not os.path.lexists(_settings_of(work.run)):
                continue
            if work.is_done or work.ledger.history().given_up is not None:
                fire(work.run, evaluation=work.folder)
                settle(work.run)


def _settings_of(run: RunFolder) -> Path:
    return job_logs.folder_for(run.logs) / SETTINGS
