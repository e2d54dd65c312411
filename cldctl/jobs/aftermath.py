"""What follows when a job ends badly, decided by the job itself: a rank crashed, was killed for its memory, or hung.

    python -m cldctl.jobs.aftermath training|trainings|shards FOLDER LOGS CLUSTER EXIT_CODE [setup [OFFSET]]

Ranks that exit cleanly have noted why and asked for what should follow; this is for those that could not. FOLDER is the
run or the work; of an array of trainings, the file that lists its runs. LOGS is the folder of the job's output, CLUSTER
the class of its launcher, "module:class"; ``setup`` says that no rank ever began, and OFFSET where in the job's log
this start begins, bytes. Loads no torch.

It decides with what it knows: a disk that is full keeps no job from starting again.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cld_core.errors import NotFoundError, UsageError
from cld_core.evaluate.evaluation import Evaluation
from cld_core.files import forgive_output
from cld_core.imports import resolve
from cld_core.run import RunFolder
from cld_core.run.events import (
    CRASHES,
    Ended,
    Event,
    Failed,
    GivenUp,
    JobRef,
    Refused,
    Requeued,
    TurnedAway,
)
from cld_core.run.history import History
from cld_core.run.work import Work, open_work
from cld_core.stop import StopCode, StopFlag
from cldctl.clusters.base import Cluster, InJob

from . import crashes, failures, hooks, nodes, setup_limit, specs, successor
from .process import HOPELESS, NOT_REQUEUED, READ_WITHIN_S, readable, requeue
from .train import explain_previous, go_on, log_offset

# Seconds before a crashed job begins again; doubled with every crash in a row.
BACK_OFF_S = 10.0
# Exit codes of errors that another start would meet again.
_HOPELESS = (UsageError.exit_code, NotFoundError.exit_code, HOPELESS, NOT_REQUEUED)
# A job that cannot read its folder knows nothing but how often Slurm has started it, preemptions included: it begins
# again up to so many starts in all, after at most so many seconds.
_BLIND_STARTS, _BLIND_DELAY_S = 50, 600.0
# Starts in a row that may find a machine that is not fit to train on, and the most seconds before the next one.
UNFIT_STARTS, _MOST_UNFIT_S = 10, 300.0
# Seconds for which a line that the next start will need is tried to be written. It begins all the same.
_NOTE_WITHIN_S = 60.0


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


def after_bad_end(
    history: History, ref: JobRef, restart: int, max_retries: int, max_crashes_a_day: int = 20
) -> GiveUp | Retry | None:
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
        heard = history.last_of.get(ref.job_id)
        if not (isinstance(heard, Failed) and heard.kind == "early"):
            return None
    elif last is None or last.job_id != ref.job_id or last.cause not in CRASHES:
        return None
    if history.bug is not None:
        return GiveUp(history.bug, "a fault in code or recipe")
    lately = crashes.lately(history, time.time())
    if lately.crashes > max_crashes_a_day:
        return GiveUp(f"{lately} (train.max_crashes_a_day={max_crashes_a_day})", "the budget is spent")
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
        heard = history.last_of[ref.job_id]
        if code in _HOPELESS or isinstance(heard, TurnedAway) or (isinstance(heard, GivenUp) and heard.never_began):
            return None
        reason = f"start {restart} ended with code {code} before it trained; see cldctl logs"
        return Failed("early", job_id=ref.job_id, restart=restart, reason=reason)
    if last.job_id != ref.job_id or last.cause is not None:
        return None
    how = "no step finished within train.hang_timeout_s" if hung else f"a rank ended with code {code}"
    return Ended(attempt=last.attempt, cause="crashed", step=step, detail=f"{how}; see cldctl logs")


def after_training(run: RunFolder, job: InJob, code: int, told_to_end: Callable[[], bool] = lambda: False) -> None:
    """Note how a training job ended, and start it again or give the run up.

    Raises:
        OSError: nothing can be read.
    """
    readable(run.recipe_file)
    if _after_unfit(run, job, code, told_to_end):
        return
    history = run.ledger.full_history()
    if any(attempt.job_id == job.ref.job_id for attempt in history.attempts):
        explain_previous(run, job)
    event = missing_event(
        run.ledger.full_history(),
        job.ref,
        job.restart,
        code,
        hung=_hung(run, job),
        step=int(run.progress().get("step", 0)),
    )
    if isinstance(event, Failed):
        event = replace(event, began=job.began)
    if event is not None:
        run.ledger.note(event, within_s=_NOTE_WITHIN_S)
    _blame(run, job, trained=not isinstance(event, Failed))
    recipe = run.recipe(within_s=READ_WITHIN_S)
    budget = recipe.train.max_retries, recipe.train.max_crashes_a_day
    decision = after_bad_end(run.ledger.full_history(), job.ref, job.restart, *budget)
    if isinstance(decision, GiveUp):
        run.ledger.note(GivenUp(reason=decision.reason, job_id=job.ref.job_id), within_s=_NOTE_WITHIN_S)
        print(f"{run.name}: {decision.reason}; {decision.why}: not started again", file=sys.stderr)
        if recipe.cluster.successor:
            successor.withdraw(run, job)
    if isinstance(decision, Retry):
        _announce(run.name, decision, recipe.train.max_retries)
        last = run.ledger.full_history().last
        cause = (last.cause if last and event is None else None) or "crashed"
        go_on(run, job, cause, delay_s=decision.delay_s, told_to_end=told_to_end)


def _after_unfit(run: RunFolder, job: InJob, code: int, told_to_end: Callable[[], bool]) -> bool:
    """Start a job again elsewhere if a health check failed in this start; whether that is so. No retry is spent."""
    start = job.ref.job_id, job.restart
    history = run.ledger.full_history()
    found = [event for event in history.unfit if event.start == start]
    if not found:
        found = failures.unfit_by_log(job, log_offset(run), code)
        for event in found:
            run.ledger.note(event, within_s=_NOTE_WITHIN_S)
    if not found:
        return False
    starts = len({event.start for event in run.ledger.full_history().unfit})
    if starts > UNFIT_STARTS:
        reason = f"{starts} starts in a row found an unfit machine, at last {found[-1].reason}"
        run.ledger.note(GivenUp(reason=reason, job_id=job.ref.job_id), within_s=_NOTE_WITHIN_S)
        print(f"{run.name}: {reason}: not started again", file=sys.stderr, flush=True)
        successor.withdraw(run, job)
        return True
    delay_s = min(BACK_OFF_S * 2 ** (starts - 1), _MOST_UNFIT_S)
    failures.announce(run.name, f"unfit: {found[0].reason}", delay_s)
    go_on(run, job, "unfit", delay_s=delay_s, told_to_end=told_to_end)
    return True


def _blame(run: RunFolder, job: InJob, *, trained: bool) -> None:
    """Note which rank failed first, if only the launcher knows it."""
    history = run.ledger.full_history()
    start = job.ref.job_id, job.restart
    known = any(it.kind == "rank" and it.start == start for it in history.failures)
    if known or (trained and (history.last is None or history.last.cause not in CRASHES)):
        return
    failed = failures.killed_rank(job, log_offset(run), hung=_hung(run, job), trained=trained)
    if failed is not None:
        run.ledger.note(failed, within_s=_NOTE_WITHIN_S)
        print(f"{run.name}: rank {failed.rank} on {failed.host} failed: {failed.reason}", file=sys.stderr, flush=True)


def after_shards(folder: Path, job: InJob, code: int, told_to_end: Callable[[], bool] = lambda: False) -> None:
    """Start a task of sharded work again after a crash; it continues at its next batch.

    Raises:
        OSError: nothing can be read.
    """
    name = f"task {job.ref.job_id}"
    readable(folder / "request.json")
    try:
        work = open_work(folder)
    except NotFoundError as error:
        print(f"{name}: not started again: {error}", file=sys.stderr)
        return
    if code not in _HOPELESS:
        crash = Failed("crash", job_id=job.ref.job_id, restart=job.restart, code=code, host=job.node)
        work.ledger.note(crash, within_s=_NOTE_WITHIN_S)
    decision = after_crash(work.ledger.full_history().crashes.get(job.ref.job_id, 0), code, work.request.retries)
    if isinstance(decision, GiveUp):
        given_up = GivenUp(reason=decision.reason, job_id=job.ref.job_id)
        work.ledger.note(given_up, within_s=_NOTE_WITHIN_S)
        print(f"{name}: {decision.reason}; not started again", file=sys.stderr)
    if isinstance(decision, Retry):
        _announce(name, decision, work.request.retries)
        problem = _elsewhere(work, job, decision.delay_s, told_to_end)
        if problem is not None:
            work.ledger.note(Refused("requeue", job_id=job.ref.job_id, reason=problem), within_s=_NOTE_WITHIN_S)


def _elsewhere(work: Work, job: InJob, delay_s: float, told_to_end: Callable[[], bool]) -> str | None:
    """Requeue a task, away from nodes where tasks of this work or its run failed; why it is not, if that failed."""
    history = work.ledger.full_history()
    before = history.avoided.get(job.ref.job_id, ())
    of_run = specs.failures_in(work.run.ledger) if isinstance(work, Evaluation) else []
    avoided = nodes.for_next_start(history, job, needed=1, also=of_run)
    for line in nodes.announced(before, avoided):
        print(f"task {job.ref.job_id}: {line}", file=sys.stderr, flush=True)
    if avoided.nodes != before:
        event = Requeued(job_id=job.ref.job_id, cause="crashed", delay_s=delay_s, exclude=avoided.nodes)
        work.ledger.note(event, within_s=_NOTE_WITHIN_S)
    return requeue(job, delay_s, exclude=avoided.nodes, readmit=avoided.readmitted, told_to_end=told_to_end)


def after_blindness(name: str, job: InJob, code: int, error: OSError, told_to_end: Callable[[], bool]) -> None:
    """Start a job again about which nothing can be read but how often Slurm has started it."""
    if code in _HOPELESS or job.restart >= _BLIND_STARTS:
        print(f"{name}: its files cannot be read ({error}); not started again", file=sys.stderr)
        return
    delay_s = min(BACK_OFF_S * 2**job.restart, _BLIND_DELAY_S)
    print(f"{name}: its files cannot be read ({error}); again in {delay_s:.0f} s", file=sys.stderr)
    requeue(job, delay_s, told_to_end=told_to_end)


def _announce(name: str, retry: Retry, allowed: int) -> None:
    failures.announce(name, f"crash {retry.crashes} of {allowed} allowed", retry.delay_s)


def _hung(run: RunFolder, job: InJob) -> bool:
    """Whether the watchdog (faulthandler) ended rank 0 in this attempt, and left the stacks in its log."""
    return "Timeout (" in job.log_since(log_offset(run))


def main(arguments: Sequence[str], stop: StopFlag | None = None) -> int:
    kind, folder, logs, code = arguments[0], Path(arguments[1]), Path(arguments[2]), int(arguments[4])
    if code == 0:
        return 0
    cluster: Cluster = resolve(arguments[3])()
    job = cluster.current_job(logs)
    flag = stop or StopFlag()

    in_setup = arguments[5:6] == [setup_limit.IN_SETUP]
    offset = setup_limit.offset_of(arguments)

    def told_to_end() -> bool:
        # The signal that ended the setup may have been that of scancel.
        return in_setup or flag.code >= StopCode.TERM

    try:
        if kind == "trainings":
            run = specs.listed_run(folder, job.task)
            if run is None:
                print(f"{folder}: it is damaged: task {job.task} is not started again", file=sys.stderr)
                return code
            kind, folder = "training", run
        if in_setup and kind == "training":
            setup_limit.after_setup(RunFolder(folder), job, told_to_end, offset)
        elif in_setup and not setup_limit.is_time_limit(job, offset or 0):
            return code
        elif kind == "training":
            after_training(RunFolder(folder), job, code, told_to_end)
        else:
            after_shards(folder, job, code, told_to_end)
    except OSError as error:
        after_blindness(folder.name, job, code, error, told_to_end)
    _tell_hook(kind, folder)
    return code


def _tell_hook(kind: str, folder: Path) -> None:
    """Call the hook for what was decided. It comes last, and may be killed: the job may be in the queue again."""
    if kind == "training":
        hooks.fire(RunFolder(folder))
        hooks.settle(RunFolder(folder))
    else:
        hooks.after_shards(lambda: [open_work(folder)])


if __name__ == "__main__":
    forgive_output()
    sys.exit(main(sys.argv[1:], StopFlag().listen()))
