"""What follows when a job ends badly, decided by the job itself: a rank crashed, was killed for its
memory, or hung.

    python -m cldctl.jobs.aftermath training|trainings|shards FOLDER LOGS CLUSTER EXIT_CODE PHASE
    ABOUT

Ranks that exit cleanly have noted why and wished for what should follow; this is for those that
could not. FOLDER is the run or the work; of an array of trainings, the file that lists its runs.
LOGS is the folder of the job's output, CLUSTER the class of its launcher, "module:class". PHASE is
what ended: ``work``, or ``setup`` if no rank ever began, with the byte of the job's log at which
this start begins; ``refused`` says why a wish could not be carried out, ``told`` that the job was
told to end, and Slurm knows by now why, and ``withdrawn`` that it was to follow a job that was
cancelled. The exit code is 0 if it is decided what follows, and 9 if no file could be read or
written. Loads no torch.

It decides with what it knows: a disk that is full keeps no job from starting again.

The time limit may come while `cluster.setup` is still at work, before there is anything to save.
Slurm sends its notice to steps alone, and there is none yet: at the limit it ends the batch script,
whose trap calls this.
"""

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cld_core.errors import NotFoundError, UsageError
from cld_core.files import forgive_output
from cld_core.registration import resolve
from cld_core.run import RunFolder
from cld_core.run.evaluations import Evaluation
from cld_core.run.events import CRASHES, Cause, Ended, Event, Failed, GivenUp, Refused, TurnedAway
from cld_core.run.history import Attempt, History
from cld_core.run.ledger import Ledger
from cld_core.run.work import open_work
from cld_core.sanitize import one_line
from cld_core.stop import StopCode
from cldctl.clusters.base import Cluster, InJob, Wish

from . import failures, hooks, specs
from .process import BLIND, HOPELESS, NOT_REQUEUED, readable
from .train import explain_previous, go_on, log_offset, withdraw_successors

# Seconds before a crashed job begins again; doubled with every crash in a row.
BACK_OFF_S = 10.0
# Exit codes of errors that another start would meet again.
_HOPELESS = (UsageError.exit_code, NotFoundError.exit_code, HOPELESS, NOT_REQUEUED)
# Starts in a row that may find a machine that is not fit to train on, and the most seconds before
# the next one.
UNFIT_STARTS = 10
_MOST_UNFIT_S = 300.0
# Seconds for which reading a file, and writing a line that the next start needs, are retried: the
# batch script waits for 20 s, and Slurm may kill it KillWait seconds (30 s by default) after the
# signal to end.
_READ_WITHIN_S = 8.0
_NOTE_WITHIN_S = 3.0
_MAX_REASON = 500  # characters
# The exit code of a setup that was told to end.
TOLD = 143
_IN_SETUP = "the time limit came during cluster.setup"
# What the batch script says (follow.sh).
_SETUP_ENDED = re.compile(r"ended in cluster\.setup (with code .*)")


@dataclass(frozen=True)
class Retry:
    """The decision to start the job again.

    Attributes:
        delay_s: seconds until then.
        why: the reason, for the log.
        cause: the reason, for the ledger.
    """

    delay_s: float
    why: str
    cause: Cause = "crashed"


def after_bad_end(
    history: History, job: InJob, max_retries: int, max_crashes_a_day: int
) -> GivenUp | Retry | None:
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
    last = history.last
    count = history.crashes_in_a_row
    event = history.last_of.get(job_id)
    early = event if isinstance(event, Failed) and event.kind == "early" else None
    if early is not None and early.reason == _IN_SETUP:
        reason = (
            f"{_IN_SETUP}, {count} times (train.max_retries={max_retries}); set "
            f"cluster.time_min higher and resume"
        )
        why = f"{_IN_SETUP}: attempt {count} of {max_retries} allowed"
        return _within(count, max_retries, job, reason, why, "timeout")
    starts = [attempt for attempt in history.attempts if attempt.job_id == job_id]
    if not starts or last is None:
        return None
    is_last = last.job_id == job_id and starts[-1].restart == job.restart
    if is_last and _was_noticed(last) and history.requeued is None:
        # It failed while it was told to stop, before it could wish for anything.
        cause = last.cause or "terminated"
        return Retry(0.0, f"{cause}, and then ended badly", cause)
    has_crashed = last.job_id == job_id and last.cause in CRASHES
    if not (has_crashed if starts[-1].restart == job.restart else early):
        return None
    if history.bug is not None:
        return GivenUp(reason=history.bug, job_id=job_id)
    crashes, how = failures.lately(history, time.time())
    if crashes > max_crashes_a_day:
        return GivenUp(reason=f"{how} (train.max_crashes_a_day={max_crashes_a_day})", job_id=job_id)
    reason = f"{count} crashes in a row without a new checkpoint (train.max_retries={max_retries})"
    reason += "" if early is None else f"; the last one: {early.reason}"
    cause = "crashed" if early else last.cause or "crashed"
    return _within(
        count, max_retries, job, reason, f"crash {count} of {max_retries} allowed", cause
    )


def _was_noticed(attempt: Attempt) -> bool:
    """Whether an attempt ended because it was told to, and is to continue."""
    if attempt.cause == "terminated":
        return attempt.detail == "SIGUSR2"
    return attempt.cause in ("preempted", "timeout")


def after_crash(crashes: int, code: int, retries: int, job: InJob) -> GivenUp | Retry | None:
    """What to do about a task of sharded work that ended with exit code ``code``, its crash number
    ``crashes``."""
    if code in _HOPELESS:
        return None
    why = f"crash {crashes} of {retries} allowed"
    return _within(crashes, retries, job, f"{crashes} crashes ({retries} allowed)", why)


def _within(
    count: int, allowed: int, job: InJob, reason: str, why: str, cause: Cause = "crashed"
) -> GivenUp | Retry:
    """Another start, with a delay that doubles each time; `GivenUp` if there were too many."""
    if count > allowed:
        return GivenUp(reason=reason, job_id=job.ref.job_id, never_began=cause == "timeout")
    delay_s = BACK_OFF_S * 2 ** (count - 1)
    return Retry(min(delay_s, _MOST_UNFIT_S) if cause == "unfit" else delay_s, why, cause)


def missing_event(
    history: History, job: InJob, code: int, *, hung: bool, step: int
) -> Event | None:
    """What a training job that ended badly could not note itself; None if nothing is missing.

    Args:
        hung: whether the watchdog ended it.
        step: the last step that it reported.
    """
    job_id = job.ref.job_id
    restart = job.restart
    last = history.last
    starts = [attempt for attempt in history.attempts if attempt.job_id == job_id]
    if not starts or last is None:
        return None  # It never began: a wrong recipe or environment.
    if starts[-1].restart != restart:
        event = history.last_of[job_id]
        never_began = isinstance(event, GivenUp) and event.never_began
        if code in _HOPELESS or isinstance(event, TurnedAway) or never_began:
            return None
        reason = f"start {restart} ended with code {code} before it trained; see cldctl logs"
        return Failed("early", job_id=job_id, restart=restart, reason=reason, began=job.began)
    if last.job_id != job_id or last.cause is not None:
        return None
    how = (
        "no step finished within train.hang_timeout_s" if hung else f"a rank ended with code {code}"
    )
    return Ended(attempt=last.attempt, cause="crashed", step=step, detail=f"{how}; see cldctl logs")


def after_training(run: RunFolder, job: InJob, code: int) -> None:
    """Note how a training job ended, and start it again or give the run up.

    Raises:
        OSError: nothing can be read, or the wish cannot be written.
    """
    offset = log_offset(run)
    start = job.ref.job_id, job.restart
    if not any(event.start == start for event in run.ledger.full_history().unfit):
        found = failures.unfit_by_log(job, offset, code)
        for event in found:
            run.ledger.note(event, within_s=_NOTE_WITHIN_S)
        if not found:
            _note_end(run, job, code, offset)
    _follow(run, job)


def _failed_setup(job: InJob, code: int, offset: int) -> str:
    """How a line of `cluster.setup` ended, as the batch script wrote it into the log.

    Args:
        offset: of this start in the log, bytes.
    """
    ends = _SETUP_ENDED.findall(job.log_since(offset)) or [f"with code {code}"]
    return one_line(f"{failures.SETUP_FAILED} {ends[-1]}", _MAX_REASON)


def after_setup(run: RunFolder, job: InJob, reason: str) -> None:
    """Note that a start did not get beyond its setup, and start the job again, within
    `train.max_retries`.

    A line that fails in a job that has not trained would fail again.
    """
    event = Failed(
        "early", job_id=job.ref.job_id, restart=job.restart, reason=reason, began=job.began
    )
    run.ledger.note(event, within_s=_NOTE_WITHIN_S)
    _follow(run, job)


def _note_end(run: RunFolder, job: InJob, code: int, offset: int) -> None:
    """Note the end of a start that could not note it itself, and the rank that failed first."""
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
    is_noted = any(
        failure.kind == "rank" and failure.start == start for failure in history.failures
    )
    if is_noted or (trained and (history.last is None or history.last.cause not in CRASHES)):
        return
    failed = failures.killed_rank(job, offset, hung=hung, trained=trained)
    if failed is not None:
        ledger.note(failed, within_s=_NOTE_WITHIN_S)
        print(
            f"{run.name}: rank {failed.rank} on {failed.host} failed: {failed.reason}",
            file=sys.stderr,
            flush=True,
        )


def _follow(run: RunFolder, job: InJob) -> None:
    """Do what is decided about a training job that ended badly.

    Raises:
        OSError: the recipe cannot be read, or the wish cannot be written.
    """
    recipe = run.recipe(within_s=_READ_WITHIN_S)
    history = run.ledger.full_history()
    decision = after_bad_end(history, job, recipe.train.max_retries, recipe.train.max_crashes_a_day)
    if isinstance(decision, GivenUp):
        is_bug = decision.reason == history.bug
        why = "a fault in code or recipe" if is_bug else "the budget is spent"
        _give_up(run.name, run.ledger, job, decision, why)
        withdraw_successors(run, job)
    if isinstance(decision, Retry):
        failures.announce(run.name, decision.why, decision.delay_s)
        go_on(run, recipe, job, decision.cause, delay_s=decision.delay_s, within_s=_NOTE_WITHIN_S)


def _give_up(
    name: str, ledger: Ledger, job: InJob, event: GivenUp, why: str = "the budget is spent"
) -> None:
    ledger.note(event, within_s=_NOTE_WITHIN_S)
    print(f"{name}: {event.reason}; {why}: not started again", file=sys.stderr, flush=True)
    # The batch script need not wait any longer for the decision.
    job.wish(Wish(None))


def after_shards(folder: Path, job: InJob, code: int) -> None:
    """Start a task of sharded work again after a crash; it continues at its next batch.

    Raises:
        OSError: nothing can be read, or the wish cannot be written.
    """
    name = f"task {job.ref.job_id}"
    try:
        work = open_work(folder)
    except NotFoundError as error:
        print(f"{name}: not started again: {error}", file=sys.stderr)
        return
    if code not in _HOPELESS:
        crash = Failed(
            "crash", job_id=job.ref.job_id, restart=job.restart, code=code, host=job.node
        )
        work.ledger.note(crash, within_s=_NOTE_WITHIN_S)
    crashes = work.ledger.full_history().crashes.get(job.ref.job_id, 0)
    decision = after_crash(crashes, code, work.request.retries, job)
    if isinstance(decision, GivenUp):
        _give_up(name, work.ledger, job, decision)
    if isinstance(decision, Retry):
        failures.announce(name, decision.why, decision.delay_s)
        # Tasks of this work, or its run, may have failed there.
        of_run = specs.failures_in(work.run.ledger) if isinstance(work, Evaluation) else []
        failures.begin_again(
            name, work.ledger, job, "crashed", decision.delay_s, 1, of_run, _NOTE_WITHIN_S
        )


def main(arguments: Sequence[str]) -> int:
    kind, path, logs, launcher, exit_code, phase, about = arguments
    folder = Path(path)
    code = int(exit_code)
    cluster: Cluster = resolve(launcher)()
    job = cluster.current_job(Path(logs))
    try:
        if kind == "trainings":
            run = specs.listed_run(folder, job.task)
            if run is None:
                print(
                    f"{folder}: it is damaged: task {job.task} is not started again",
                    file=sys.stderr,
                )
                return 0
            folder = run
        trains = kind in ("training", "trainings")
        run_folder = RunFolder(folder, hooks.heard(folder))
        readable(run_folder.recipe_file if trains else folder / "request.json", _READ_WITHIN_S)
        # After a signal for another reason than the limit, Slurm knows what follows.
        met_limit = phase == "setup" and job.cause_of(StopCode.TERM, int(about)) == "timeout"
        if phase == "refused":
            ledger = run_folder.ledger if trains else open_work(folder).ledger
            reason = one_line(about, _MAX_REASON)
            ledger.note(
                Refused("requeue", job_id=job.ref.job_id, reason=reason), within_s=_NOTE_WITHIN_S
            )
        elif phase in ("told", "withdrawn"):
            if trains:
                explain_previous(run_folder, job)
            if trains and phase == "withdrawn":
                event = TurnedAway(job_id=job.ref.job_id, why="withdrawn")
                run_folder.ledger.note(event, within_s=_NOTE_WITHIN_S)
        elif phase == "setup" and code == TOLD and not met_limit:
            return 0
        elif phase == "setup" and trains:
            reason = _IN_SETUP if met_limit else _failed_setup(job, code, int(about))
            after_setup(run_folder, job, reason)
        elif trains:
            after_training(run_folder, job, code)
        else:
            after_shards(folder, job, code)
    except OSError as error:
        print(f"{folder.name}: its files cannot be read or written ({error})", file=sys.stderr)
        return BLIND
    # The batch script waits: for hooks no longer than for those of a job that is back in the queue.
    if trains:
        hooks.end(run_folder, hooks.HURRY_S)
    else:
        hooks.tell_of_works([folder], hooks.HURRY_S)
    return 0


if __name__ == "__main__":
    forgive_output()
    sys.exit(main(sys.argv[1:]))
