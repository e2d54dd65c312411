"""Telling `hooks.on_change` that a run has changed, from wherever that is known: a job, its aftermath, a command.

What is told is in the ledger. Whoever has written to it (`heard`) starts a process of its own (`hook_runner`), which
reads the ledger, calls the command for each change that it has not been called for, and notes that. So one process too
many does no harm. Nobody waits for it before something that matters: a hook that was killed with its job is called
again by the next start.

The command is not read from the run's recipe, which others may be able to write: `allow` stores what this user asked
for in the folder of this user's logs, which is private.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from cld_core.codec import find_record
from cld_core.config import Recipe
from cld_core.config.train import HooksSpec
from cld_core.errors import CldError
from cld_core.files import read_bytes, write_text
from cld_core.ownership import require_private
from cld_core.run import RunFolder
from cld_core.run.events import Cancelled, Event, GivenUp, Refused, Started, Wished
from cld_core.run.work import open_work
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

# After an end, one of these may follow at once; it is the same change.
DECISIONS = (Started, Wished, GivenUp, Refused, Cancelled)

_started: "list[subprocess.Popen[bytes]]" = []


def allow(run: RunFolder, recipe: Recipe) -> Callable[[], None]:
    """Let jobs of this user call the hook of a recipe that this user has made or accepts.

    Returns:
        What lets them call what they called before, except what others can write.

    Raises:
        CldError: others may write into the folder of the logs.
        OSError: it cannot be written.
    """
    logs = job_logs.folder_for(run.logs)
    before = None
    with contextlib.suppress(OSError, CldError):
        before = None if allowed(logs) is None else read_bytes(logs / SETTINGS)
    has_one = (recipe.hooks.on_change or "").strip()
    _store(logs, json.dumps(asdict(recipe.hooks)).encode() if has_one else None)
    return lambda: _store(logs, before)


def _store(logs: Path, content: bytes | None) -> None:
    file = logs / SETTINGS
    if content is None:
        file.unlink(missing_ok=True)
        return
    job_logs.prepare(logs)
    # A command may hold the address of somebody's channel: nobody else reads it.
    before = os.umask(0o077)
    try:
        write_text(file, content.decode())
    finally:
        os.umask(before)


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


def heard(run: Path) -> Callable[[Event], None]:
    """For the ledger of a run (`Ledger.heard`): call the hook for what is decided. What ends is left to `settled`."""
    return lambda event: fire(RunFolder(run)) if isinstance(event, DECISIONS) else None


def fire(run: RunFolder, *, evaluation: Path | None = None, is_decided: bool = False, is_over: bool = False) -> None:
    """Call the hook for what has changed, without waiting for it. It never fails.

    Args:
        evaluation: the folder of one that may have ended, to tell of it instead.
        is_decided: whether nobody decides any more what follows the last end, so that it is told.
        is_over: the same, and jobs that were cancelled are known to be gone, although they did not say so.
    """
    with contextlib.suppress(Exception):
        logs = job_logs.folder_for(run.logs)
        if not os.path.lexists(logs / SETTINGS):
            return
        command = ["/bin/sh", "-c", _DEAF, "sh", sys.executable, "-P", "-m", RUNNER, str(run.path), str(logs)]
        command += ["--evaluation", str(evaluation)] if evaluation is not None else []
        command += ["--decided"] if is_decided else []
        command += ["--over"] if is_over else []
        nowhere = subprocess.DEVNULL
        environment = {**os.environ, **SAFE_PATH}
        _started.append(
            subprocess.Popen(
                command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True, cwd="/", env=environment
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
def settled(job: InJob, tell: Callable[[], None]) -> Iterator[None]:
    """Call the hook, by ``tell``, for how the work inside the block ends, on rank 0.

    Where an aftermath follows a bad end, that is left to it: it decides what comes next.
    """
    follows = job.cluster.restarts
    try:
        yield
        follows = False
    finally:
        if not follows and job.place().rank == 0:
            tell()


def end(run: RunFolder, within_s: float | None = None) -> None:
    """Call the hook for what is left, such as an end that nothing followed, and wait for it. It never fails.

    Args:
        within_s: for at most so many seconds, and not as long as the hook may take.
    """
    fire(run, is_decided=True)
    with contextlib.suppress(Exception):
        if isinstance(run.ledger.full_history(within_s=0.0).verdict, Wished):
            within_s = HURRY_S
    settle(run, within_s)


def tell_of_works(folders: Iterable[Path], within_s: float | None = None) -> None:
    """Call the hook for those evaluations that are finished or given up, and wait for it. It never fails."""
    from cld_core.run.evaluations import Evaluation

    with contextlib.suppress(Exception):
        for work in map(open_work, folders):
            if isinstance(work, Evaluation) and (work.is_done or work.ledger.history().given_up is not None):
                fire(work.run, evaluation=work.folder)
                settle(work.run, within_s)
