"""What follows when a job ends badly, decided by the job itself: a rank crashed, was killed for its memory, or hung.

    python -m cldctl.jobs.aftermath training|shards FOLDER LOGS CLUSTER EXIT_CODE

Ranks that exit cleanly have noted why and asked for what should follow; this is for those that could not. LOGS is the
folder of the job's output, CLUSTER the class of its launcher, "module:class". Loads no torch.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cld_core.errors import NotFoundError, UsageError
from cld_core.imports import resolve
from cld_core.run import RunFolder
from cld_core.run.events import Crashed, DiedEarly, Ended, Event, GivenUp, JobRef, NotBegun, TurnedAway
from cld_core.run.history import CRASHES, History
from cldctl.clusters.base import Cluster, InJob

from . import successor
from .process import HOPELESS, requeue
from .train import explain_previous, go_on, log_offset

# Seconds before a crashed job begins again; doubled with every crash in a row.
BACK_OFF_S = 10.0
# Exit codes of errors that another start would meet again.
_HOPELESS = (UsageError.exit_code, NotFoundError.exit_code, HOPELESS)


@dataclass(frozen=True)
class GiveUp:
    """Another start would end in the same way, or the budget is spent (``why``)."""

    reason: str
    why: str


@dataclass(frozen=True)
class Retry:
    """Start the job again after ``delay_s`` seconds; this was crash number ``crashes`` in a row."""

    crashes: int
    delay_s: float


def after_bad_end(history: History, ref: JobRef, restart: int, max_retries: int) -> GiveUp | Retry | None:
    """What to do about a training job that ended badly in start number ``restart``.

    None if it never began, or noted itself why it cannot continue.

    Args:
        history: with the event of `missing_event` in it.
    """
    starts = [attempt for attempt in history.attempts if attempt.job_id == ref.job_id]
    last = history.last
    if not starts:
        return None
    if starts[-1].restart != restart:
        if not isinstance(history.last_of.get(ref.job_id), DiedEarly):
            return None
    elif last is None or last.job_id != ref.job_id or last.cause not in CRASHES:
        return None
    if history.bug is not None:
        return GiveUp(history.bug, "a fault in code or recipe")
    how = f"in a row without a new checkpoint (train.max_retries={max_retries})"
    return _within(history.crashes_in_a_row, max_retries, how)


def after_crash(crashes: int, code: int, retries: int) -> GiveUp | Retry | None:
    """What to do about a task of sharded work that ended with exit code ``code``, its crash number ``crashes``."""
    return None if code in _HOPELESS else _within(crashes, retries, f"({retries} allowed)")


def _within(crashes: int, allowed: int, how: str) -> GiveUp | Retry:
    if crashes > allowed:
        return GiveUp(f"{crashes} crashes {how}", "the budget is spent")
    return Retry(crashes, BACK_OFF_S * 2 ** (crashes - 1))


def missing_event(history: History, ref: JobRef, restart: int, code: int, *, hung: bool, step: int) -> Event | None:
    """What a training job that ended badly could not note itself; None if nothing is missing.

    Args:
        hung: whether the watchdog ended it.
        step: the last step that it reported.
    """
    starts = [attempt for attempt in history.attempts if attempt.job_id == ref.job_id]
    last = history.last
    if not starts or last is None:
        return None  # It never began: a wrong recipe or environment.
    if starts[-1].restart != restart:
        if code in _HOPELESS or isinstance(history.last_of[ref.job_id], NotBegun | TurnedAway):
            return None
        reason = f"start {restart} ended with code {code} before it trained; see cldctl logs"
        return DiedEarly(job_id=ref.job_id, restart=restart, reason=reason)
    if last.job_id != ref.job_id or last.cause is not None:
        return None
    how = "no step finished within train.hang_timeout_s" if hung else f"a rank ended with code {code}"
    return Ended(attempt=last.attempt, cause="crashed", step=step, detail=f"{how}; see cldctl logs")


def after_training(run: RunFolder, job: InJob, code: int) -> None:
    """Note how a training job ended, and start it again or give the run up."""
    history = run.ledger.history()
    if any(attempt.job_id == job.ref.job_id for attempt in history.attempts):
        explain_previous(run, job)
    event = missing_event(
        run.ledger.history(), job.ref, job.restart, code, hung=_hung(run, job), step=int(run.progress().get("step", 0))
    )
    if event is not None:
        run.ledger.append(event)
    decision = after_bad_end(run.ledger.history(), job.ref, job.restart, run.recipe().train.max_retries)
    if isinstance(decision, GiveUp):
        run.ledger.append(GivenUp(reason=decision.reason, job_id=job.ref.job_id))
        print(f"{run.name}: {decision.reason}; {decision.why}: not started again", file=sys.stderr)
        if run.recipe().cluster.successor:
            successor.withdraw(run, job)
    if isinstance(decision, Retry):
        _announce(run.name, decision, run.recipe().train.max_retries)
        last = run.ledger.history().last
        go_on(run, job, (last.cause if last and event is None else None) or "crashed", delay_s=decision.delay_s)


def after_shards(folder: Path, job: InJob, code: int) -> None:
    """Start a task of sharded work again after a crash; it continues at its next batch."""
    from cld_core.shards import open_work

    name = f"task {job.ref.job_id}"
    try:
        work = open_work(folder)
    except NotFoundError as error:
        print(f"{name}: not started again: {error}", file=sys.stderr)
        return
    if code not in _HOPELESS:
        work.ledger.append(Crashed(job_id=job.ref.job_id, restart=job.restart, code=code, node=job.node or None))
    decision = after_crash(work.ledger.history().crashes.get(job.ref.job_id, 0), code, work.request.retries)
    if isinstance(decision, GiveUp):
        print(f"{name}: {decision.reason}; not started again", file=sys.stderr)
    if isinstance(decision, Retry):
        _announce(name, decision, work.request.retries)
        requeue(job, decision.delay_s)


def _announce(name: str, retry: Retry, allowed: int) -> None:
    text = f"crash {retry.crashes} of {allowed} allowed; again in {retry.delay_s:.0f} s"
    print(f"{name}: {text}", file=sys.stderr, flush=True)


def _hung(run: RunFolder, job: InJob) -> bool:
    """Whether the watchdog (faulthandler) ended rank 0 in this attempt, and left the stacks in its log."""
    return "Timeout (" in job.log_since(log_offset(run))


def main(arguments: Sequence[str]) -> int:
    kind, folder, logs, code = arguments[0], Path(arguments[1]), Path(arguments[2]), int(arguments[4])
    if code == 0:
        return 0
    cluster: Cluster = resolve(arguments[3])()
    job = cluster.current_job(logs)
    if kind == "training":
        after_training(RunFolder(folder), job, code)
    else:
        after_shards(folder, job, code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
