"""What follows when a job ends badly, decided by the job itself: a rank crashed, was killed for its memory, or hung.

    python -m cldctl.jobs.aftermath training|trainings|shards FOLDER LOGS CLUSTER EXIT_CODE [setup [OFFSET]]

Ranks that exit cleanly have noted why and asked for what should follow; this is for those that could not. FOLDER is the
run or the work; of an array of trainings, the file that lists its runs. LOGS is the folder of the job's output, CLUSTER
the class of its launcher, "module:class"; ``setup`` says that no rank ever began, and OFFSET where in the job's log
this start begins, bytes. Loads no torch.

It decides with what it knows: a disk that is full keeps no job from starting again.

The time limit may come while `cluster.setup` is still at work, before there is anything to save. Slurm sends its notice
to steps alone, and there is none yet: at the limit it ends the batch script, whose trap calls this.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cld_core.errors import NotFoundError, UsageError
from cld_core.files import forgive_output
from cld_core.registration import resolve
from cld_core.run import RunFolder
from cld_core.run.evaluations import Evaluation
from cld_core.run.events import CRASHES, Cause, Ended, Event, Failed, GivenUp, TurnedAway
from cld_core.run.history import History
from cld_core.run.ledger import Ledger
from cld_core.run.work import open_work
from cld_core.sanitize import is_count
from cld_core.stop import StopCode, StopFlag
from cldctl.clusters.base import Cluster, InJob

from . import failures, hooks, specs, successor
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
# The same during the setup: Slurm kills the batch script KillWait seconds (30 s by default) after it told it to end.
_IN_SETUP_WITHIN_S = 5.0
_IN_SETUP = "the time limit came during cluster.setup"


@dataclass(frozen=True)
class Retry:
    """Start the job again after ``delay_s`` seconds; ``why``, for people, and the cause, for the ledger."""

    delay_s: float
    why: str
    cause: Cause = "crashed"


def after_bad_end(history: History, job: InJob, max_retries: int, max_crashes_a_day: int) -> GivenUp | Retry | None:
    """What to do about a training job that ended badly in this start.

    None if it never began, or noted itself why it cannot continue.

    Args:
        history: with the event of `missing_event` in it.
    """
    job_id = job.ref.job_id
    unfit = [event for event in history.unfit if event.start == (job_id, job.restart)]
    if unfit:
        # No retry is spent.
        count = len({event.start for event in history.unfit})
        reason = f"{count} starts in a row found an unfit machine, at last {unfit[-1].reason}"
        return _within(count, UNFIT_STARTS, job, reason, f"unfit: {unfit[0].reason}", "unfit")
    heard, last, count = history.last_of.get(job_id), history.last, history.crashes_in_a_row
    early = heard if isinstance(heard, Failed) and heard.kind == "early" else None
    if early is not None and early.reason == _IN_SETUP:
        reason = f"{_IN_SETUP}, {count} times (train.max_retries={max_retries}); set cluster.time_min higher and resume"
        why = f"{_IN_SETUP}: attempt {count} of {max_retries} allowed"
        return _within(count, max_retries, job, reason, why, "timeout")
    starts = [attempt for attempt in history.attempts if attempt.job_id == job_id]
    if not starts or last is None:
        return None
    has_crashed = last.job_id == job_id and last.cause in CRASHES
    if not (has_crashed if starts[-1].restart == job.restart else early):
        return None
    if history.bug is not None:
        return GivenUp(reason=history.bug, job_id=job_id)
    crashes, how = failures.lately(history, time.time())
    if crashes > max_crashes_a_day:
        return GivenUp(reason=f"{how} (train.max_crashes_a_day={max_crashes_a_day})", job_id=job_id)
    reason = f"{count} crashes in a row without a new checkpoint (train.max_retries={max_retries})"
    cause = "crashed" if early else last.cause or "crashed"
    return _within(count, max_retries, job, reason, f"crash {count} of {max_retries} allowed", cause)


def after_crash(crashes: int, code: int, retries: int, job: InJob) -> GivenUp | Retry | None:
    """What to do about a task of sharded work that ended with exit code ``code``, its crash number ``crashes``."""
    if code in _HOPELESS:
        return None
    why = f"crash {crashes} of {retries} allowed"
    return _within(crashes, retries, job, f"{crashes} crashes ({retries} allowed)", why)


def _within(count: int, allowed: int, job: InJob, reason: str, why: str, cause: Cause = "crashed") -> GivenUp | Retry:
    """Another start, the longer after the last one the more there were, or the ``reason`` for which there is none."""
    if count > allowed:
        return GivenUp(reason=reason, job_id=job.ref.job_id, never_began=cause == "timeout")
    delay_s = BACK_OFF_S * 2 ** (count - 1)
    return Retry(min(delay_s, _MOST_UNFIT_S) if cause == "unfit" else delay_s, why, cause)


def missing_event(history: History, job: InJob, code: int, *, hung: bool, step: int) -> Event | None:
    """What a training job that ended badly could not note itself; None if nothing is missing.

    Args:
        hung: whether the watchdog ended it.
        step: the last step that it reported.
    """
    job_id, restart = job.ref.job_id, job.restart
    last = history.last
    starts = [attempt for attempt in history.attempts if attempt.job_id == job_id]
    if not starts or last is None:
        return None  # It never began: a wrong recipe or environment.
    if starts[-1].restart != restart:
        heard = history.last_of[job_id]
        if code in _HOPELESS or isinstance(heard, TurnedAway) or (isinstance(heard, GivenUp) and heard.never_began):
            return None
        reason = f"start {restart} ended with code {code} before it trained; see cldctl logs"
        return Failed("early", job_id=job_id, restart=restart, reason=reason, began=job.began)
    if last.job_id != job_id or last.cause is not None:
        return None
    how = "no step finished within train.hang_timeout_s" if hung else f"a rank ended with code {code}"
    return Ended(attempt=last.attempt, cause="crashed", step=step, detail=f"{how}; see cldctl logs")


def after_training(run: RunFolder, job: InJob, code: int, told_to_end: Callable[[], bool] = lambda: False) -> None:
    """Note how a training job ended, and start it again or give the run up.

    Raises:
        OSError: nothing can be read.
    """
    readable(run.recipe_file)
    offset = log_offset(run)
    start = job.ref.job_id, job.restart
    if not any(event.start == start for event in run.ledger.full_history().unfit):
        found = failures.unfit_by_log(job, offset, code)
        for event in found:
            run.ledger.note(event, within_s=_NOTE_WITHIN_S)
        if not found:
            _note_end(run, job, code, offset)
    _follow(run, job, told_to_end)


def after_setup(run: RunFolder, job: InJob, told_to_end: Callable[[], bool], offset: int | None = None) -> None:
    """Start a job again whose setup took until the time limit, within `train.max_retries`.

    Args:
        offset: where in the log the notices about this start begin, if the batch script says so.
    """
    if not _is_time_limit(job, log_offset(run) if offset is None else offset):
        return
    event = Failed("early", job_id=job.ref.job_id, restart=job.restart, reason=_IN_SETUP, began=job.began)
    run.ledger.note(event, within_s=_IN_SETUP_WITHIN_S)
    _follow(run, job, told_to_end)


def _is_time_limit(job: InJob, offset: int) -> bool:
    """Whether the limit is what ended the setup: after a preemption, Slurm starts the job again itself."""
    return job.cause_of(StopCode.TERM, offset) == "timeout"


def _note_end(run: RunFolder, job: InJob, code: int, offset: int) -> None:
    """Note how a start ended that could not do so itself, and which rank failed first, if only the launcher knows."""
    ledger = run.ledger
    start = job.ref.job_id, job.restart
    if any(attempt.job_id == job.ref.job_id for attempt in ledger.full_history().attempts):
        explain_previous(run, job)
    # The watchdog (faulthandler) ended rank 0 in this attempt, and left the stacks in its log.
    hung = "Timeout (" in job.log_since(offset)
    step = int(run.progress().get("step", 0))
    event = missing_event(ledger.full_history(), job, code, hung=hung, step=step)
    if event is not None:
        ledger.note(event, within_s=_NOTE_WITHIN_S)
    trained = not isinstance(event, Failed)
    history = ledger.full_history()
    known = any(it.kind == "rank" and it.start == start for it in history.failures)
    if known or (trained and (history.last is None or history.last.cause not in CRASHES)):
        return
    failed = failures.killed_rank(job, offset, hung=hung, trained=trained)
    if failed is not None:
        ledger.note(failed, within_s=_NOTE_WITHIN_S)
        print(f"{run.name}: rank {failed.rank} on {failed.host} failed: {failed.reason}", file=sys.stderr, flush=True)


def _follow(run: RunFolder, job: InJob, told_to_end: Callable[[], bool]) -> None:
    """Do what is decided about a training job that ended badly."""
    train = run.recipe(within_s=READ_WITHIN_S).train
    history = run.ledger.full_history()
    decision = after_bad_end(history, job, train.max_retries, train.max_crashes_a_day)
    if isinstance(decision, GivenUp):
        is_bug = decision.reason == history.bug
        _give_up(run.name, run.ledger, decision, "a fault in code or recipe" if is_bug else "the budget is spent")
        successor.withdraw(run, job)
    if isinstance(decision, Retry):
        failures.announce(run.name, decision.why, decision.delay_s)
        go_on(run, job, decision.cause, delay_s=decision.delay_s, told_to_end=told_to_end)


def _give_up(name: str, ledger: Ledger, event: GivenUp, why: str = "the budget is spent") -> None:
    # Slurm ends a batch script soon after the limit that came during the setup.
    ledger.note(event, within_s=_IN_SETUP_WITHIN_S if event.never_began else _NOTE_WITHIN_S)
    print(f"{name}: {event.reason}; {why}: not started again", file=sys.stderr, flush=True)


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
    decision = after_crash(work.ledger.full_history().crashes.get(job.ref.job_id, 0), code, work.request.retries, job)
    if isinstance(decision, GivenUp):
        _give_up(name, work.ledger, decision)
    if isinstance(decision, Retry):
        failures.announce(name, decision.why, decision.delay_s)
        # Tasks of this work, or its run, may have failed there.
        of_run = specs.failures_in(work.run.ledger) if isinstance(work, Evaluation) else []
        failures.begin_again(
            name, work.ledger, job, "crashed", decision.delay_s, 1, of_run, told_to_end, _NOTE_WITHIN_S
        )


def after_blindness(name: str, job: InJob, code: int, error: OSError, told_to_end: Callable[[], bool]) -> None:
    """Start a job again about which nothing can be read but how often Slurm has started it."""
    if code in _HOPELESS or job.restart >= _BLIND_STARTS:
        print(f"{name}: its files cannot be read ({error}); not started again", file=sys.stderr)
        return
    delay_s = min(BACK_OFF_S * 2**job.restart, _BLIND_DELAY_S)
    print(f"{name}: its files cannot be read ({error}); again in {delay_s:.0f} s", file=sys.stderr)
    requeue(job, delay_s, told_to_end=told_to_end)


def main(arguments: Sequence[str], stop: StopFlag | None = None) -> int:
    kind = arguments[0]
    folder = Path(arguments[1])
    logs = Path(arguments[2])
    code = int(arguments[4])
    if code == 0:
        return 0
    cluster: Cluster = resolve(arguments[3])()
    job = cluster.current_job(logs)
    flag = stop or StopFlag()

    in_setup = arguments[5:6] == ["setup"]
    offset = int(arguments[6]) if len(arguments) > 6 and is_count(arguments[6]) else None

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
            after_setup(RunFolder(folder, hooks.heard(folder)), job, told_to_end, offset)
        elif in_setup and not _is_time_limit(job, offset or 0):
            return code
        elif kind == "training":
            after_training(RunFolder(folder, hooks.heard(folder)), job, code, told_to_end)
        else:
            after_shards(folder, job, code, told_to_end)
    except OSError as error:
        after_blindness(folder.name, job, code, error, told_to_end)
    # It comes last, and may be killed: the job may be in the queue again.
    hooks.end(RunFolder(folder)) if kind == "training" else hooks.tell_of_works([folder])
    return code


if __name__ == "__main__":
    forgive_output()
    sys.exit(main(sys.argv[1:], StopFlag().listen()))
