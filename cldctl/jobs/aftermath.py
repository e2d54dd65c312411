"""The aftermath of a job that ended badly: whether it begins again, decided by the job itself.

    python -m cldctl.jobs.aftermath training|trainings|shards FOLDER LOGS CLUSTER EXIT_CODE PHASE
    ABOUT

Ranks that exit cleanly have noted why, and wished for a requeue if they need one. The aftermath is
for ranks that could not, because one crashed, hung, or was killed for its memory. FOLDER is the run
or the work; for an array of trainings, the file that lists its runs.
LOGS is the folder of the job's output, CLUSTER the class of its launcher, "module:class". PHASE is
what ended: ``work``, or ``setup`` if no rank ever began, with the byte of the job's log at which
this start begins; ``refused`` says why a wish could not be carried out, ``told`` that the job got
SIGTERM, and Slurm knows by now why, and ``withdrawn`` that the job was the successor of a cancelled
job. The exit code is 0 after a decision, and 9 if the files could not be read or written.
Loads no torch.

A full disk does not keep a job from starting again: what cannot be written is left out.

The time limit may come while `cluster.setup` is still running, before there is anything to save.
Slurm sends its notice only to steps of the job, and there is none yet: at the limit it ends the
batch script, whose trap runs the aftermath.
"""

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cld_core.errors import NotFoundError, UsageError
from cld_core.files import forgive_output
from cld_core.plugins import resolve
from cld_core.run import RunFolder
from cld_core.run.events import CRASHES, Cause, Ended, Event, Failed, GivenUp, Refused, TurnedAway
from cld_core.run.history import Attempt, History
from cld_core.run.work import Budget, Training, Work
from cld_core.sanitize import one_line
from cld_core.stop import StopCode
from cldctl.clusters.base import Cluster, InJob, Requeue

from . import failures, hooks, specs
from .process import BLIND, HOPELESS, NOT_REQUEUED, log, readable
from .task import explain_previous, log_offset, opened, wish_requeue, withdraw_successors

# Seconds before a crashed job begins again; doubled with every crash in a row.
BACK_OFF_S = 10.0
# Exit codes of errors that another start would meet again.
_HOPELESS = (UsageError.exit_code, NotFoundError.exit_code, HOPELESS, NOT_REQUEUED)
# Starts in a row that may find a machine that is not fit to train on, and the most seconds before
# the next one.
UNFIT_STARTS = 10
_MOST_UNFIT_S = 300.0
# Seconds for which reading is retried, and writing a line that the next start needs. The batch
# script waits for 20 s, and Slurm may kill it KillWait seconds (30 s by default) after SIGTERM.
_READ_WITHIN_S = 8.0
_NOTE_WITHIN_S = 3.0
_MAX_REASON = 500  # characters
# The exit code of a setup that SIGTERM ended.
TERMINATED = 143
_IN_SETUP = "the time limit came during cluster.setup"
# What the batch script says (follow.sh).
_SETUP_ENDED = re.compile(r"ended in cluster\.setup (with code .*)")


@dataclass(frozen=True)
class End:
    """How a start of a task ended: PHASE and EXIT_CODE (see above), and the launcher's reason."""

    phase: str
    code: int
    reason: str


@dataclass(frozen=True)
class Retry:
    """Start the job again after ``delay_s`` seconds; the log gets ``why``, the ledger ``cause``."""

    delay_s: float
    why: str
    cause: Cause = "crashed"


def decide(history: History, job: InJob, budget: Budget, code: int = 1) -> GivenUp | Retry | None:
    """Whether a job that ended badly in this start begins again, or its work is given up.

    None if the job never began, or has noted why it cannot continue. A job that was cancelled does
    not begin again, whatever the decision (`wish_requeue`).

    Args:
        history: the history of the job's work, with what `note_end` has noted.
        code: the exit code of the task.
    """
    unfit = [event for event in history.unfit if event.start == job.start]
    if unfit:
        # No retry is spent on a machine that is not fit to train on.
        count = len({event.start for event in history.unfit})
        reason = f"{count} starts in a row found an unfit machine, at last {unfit[-1].reason}"
        return _within(count, UNFIT_STARTS, job, reason, f"unfit: {unfit[0].reason}", "unfit")
    crashes = history.crashes.get(job.ref.job_id, 0)
    if crashes and code not in _HOPELESS:
        reason = f"{crashes} crashes ({budget.retries} allowed)"
        why = f"crash {crashes} of {budget.retries} allowed"
        return _within(crashes, budget.retries, job, reason, why)
    return _after_attempt(history, job, budget)


def _after_attempt(history: History, job: InJob, budget: Budget) -> GivenUp | Retry | None:
    """The decision about a training whose ranks noted nothing, from its attempts."""
    job_id = job.ref.job_id
    count = history.crashes_in_a_row
    event = history.last_of.get(job_id)
    early = event if isinstance(event, Failed) and event.kind == "early" else None
    if early is not None and early.reason == _IN_SETUP:
        reason = (
            f"{_IN_SETUP}, {count} times (train.max_retries={budget.retries}); set "
            f"cluster.time_min higher and resume"
        )
        why = f"{_IN_SETUP}: attempt {count} of {budget.retries} allowed"
        return _within(count, budget.retries, job, reason, why, "timeout")
    starts = [attempt for attempt in history.attempts if attempt.job_id == job_id]
    if not starts:
        return None
    last = history.attempts[-1]
    has_trained = starts[-1].restart == job.restart
    is_last = last.job_id == job_id
    if has_trained and is_last and _was_noticed(last) and history.requeued is None:
        # It failed while it stopped after a signal, before it could wish for a requeue.
        cause = last.cause or "terminated"
        return Retry(0.0, f"{cause}, and then ended badly", cause)
    if has_trained and not (is_last and last.cause in CRASHES):
        return None
    if not has_trained and early is None:
        return None
    if history.bug is not None:
        return GivenUp(reason=history.bug, job_id=job_id)
    crashes, how = failures.recent_crashes(history, time.time())
    if budget.a_day is not None and crashes > budget.a_day:
        return GivenUp(reason=f"{how} (train.max_crashes_a_day={budget.a_day})", job_id=job_id)
    last_one = "" if early is None else f"; the last one: {early.reason}"
    reason = (
        f"{count} crashes in a row without a new checkpoint "
        f"(train.max_retries={budget.retries}){last_one}"
    )
    cause = "crashed" if early else last.cause or "crashed"
    why = f"crash {count} of {budget.retries} allowed"
    return _within(count, budget.retries, job, reason, why, cause)


def _was_noticed(attempt: Attempt) -> bool:
    """Whether an attempt ended because of a signal after which it continues."""
    if attempt.cause == "terminated":
        return attempt.detail == "SIGUSR2"
    return attempt.cause in ("preempted", "timeout")


def _within(
    count: int, allowed: int, job: InJob, reason: str, why: str, cause: Cause = "crashed"
) -> GivenUp | Retry:
    """The next start, with a delay that doubles with ``count``, if ``count`` is allowed.

    If it is not, the work is given up for ``reason``.
    """
    if count > allowed:
        return GivenUp(reason=reason, job_id=job.ref.job_id, never_began=cause == "timeout")
    delay_s = BACK_OFF_S * 2 ** (count - 1)
    return Retry(min(delay_s, _MOST_UNFIT_S) if cause == "unfit" else delay_s, why, cause)


def missing_event(
    history: History, job: InJob, code: int, *, hung: bool, step: int
) -> Event | None:
    """The event that a training job which ended badly could not note; None if none is missing.

    Args:
        code: the exit code of the task.
        hung: whether the watchdog ended the job.
        step: the last step that the job reported.
    """
    job_id = job.ref.job_id
    starts = [attempt for attempt in history.attempts if attempt.job_id == job_id]
    if not starts:
        return None  # It never began: a wrong recipe or environment.
    if starts[-1].restart != job.restart:
        event = history.last_of[job_id]
        never_began = isinstance(event, GivenUp) and event.never_began
        if code in _HOPELESS or isinstance(event, TurnedAway) or never_began:
            return None
        reason = f"start {job.restart} ended with code {code} before it trained; see cldctl logs"
        return failures.failed("early", job, reason)
    last = history.attempts[-1]
    if last.job_id != job_id or last.cause is not None:
        return None
    how = f"a rank ended with code {code}"
    if hung:
        how = "no step finished within train.hang_timeout_s"
    return Ended(attempt=last.attempt, cause="crashed", step=step, detail=f"{how}; see cldctl logs")


def note_end(work: Work, job: InJob, end: End) -> None:
    """Note the end of a start whose ranks could not."""
    ledger = work.ledger
    if isinstance(work, Training):
        if end.phase == "setup":
            ledger.note(failures.failed("early", job, end.reason), within_s=_NOTE_WITHIN_S)
        else:
            _note_end_of_training(work.run, job, end.code)
    elif end.code not in _HOPELESS:
        crash = failures.failed("crash", job, code=end.code, host=job.node)
        ledger.note(crash, within_s=_NOTE_WITHIN_S)


def _note_end_of_training(run: RunFolder, job: InJob, code: int) -> None:
    """Note how an attempt ended, and which rank failed first, if only the launcher knows."""
    ledger = run.ledger
    offset = log_offset(run)
    history = ledger.full_history()
    if any(event.start == job.start for event in history.unfit):
        return
    unfit = failures.unfit_by_log(job, offset, code)
    if unfit is not None:
        ledger.note(unfit, within_s=_NOTE_WITHIN_S)
        return
    if any(attempt.job_id == job.ref.job_id for attempt in history.attempts):
        explain_previous(run, job)
    # The watchdog (faulthandler) that ended rank 0 left the stacks in its log.
    hung = "Timeout (" in job.log_since(offset)
    step = int(run.progress().get("step", 0))
    missing = missing_event(ledger.full_history(), job, code, hung=hung, step=step)
    if missing is not None:
        ledger.note(missing, within_s=_NOTE_WITHIN_S)
    trained = not isinstance(missing, Failed)
    history = ledger.full_history()
    is_noted = any(event.kind == "rank" and event.start == job.start for event in history.failures)
    if is_noted or (trained and (history.last is None or history.last.cause not in CRASHES)):
        return
    failed = failures.killed_rank(job, offset, hung=hung, trained=trained)
    if failed is not None:
        ledger.note(failed, within_s=_NOTE_WITHIN_S)
        log(f"{run.name}: rank {failed.rank} on {failed.host} failed: {failed.reason}")


def after(work: Work, job: InJob, end: End) -> None:
    """Note how a start of a task ended, and start the task again or give the work up.

    Raises:
        OSError: the files of the work cannot be read, or the wish cannot be written.
    """
    note_end(work, job, end)
    history = work.ledger.full_history()
    decision = decide(history, job, work.budget(_READ_WITHIN_S), end.code)
    name = failures.task_name(work, job)
    if isinstance(decision, GivenUp):
        is_bug = decision.reason == history.bug
        why = "a fault in code or recipe" if is_bug else "the budget is spent"
        work.ledger.note(decision, within_s=_NOTE_WITHIN_S)
        log(f"{name}: {decision.reason}; {why}: not started again")
        # Wished before anything slow, so that the launcher gets the decision in time.
        job.wish(Requeue(None))
        if work.has_successors:
            withdraw_successors(work, job)
    if isinstance(decision, Retry):
        log(f"{name}: {decision.why}{failures.AGAIN}{decision.delay_s:.0f} s")
        wish_requeue(work, job, decision.cause, delay_s=decision.delay_s, within_s=_NOTE_WITHIN_S)


def note_report(work: Work, job: InJob, end: End) -> None:
    """Note what the launcher reports about an end after which there is nothing to decide."""
    if end.phase == "refused":
        refused = Refused("requeue", job_id=job.ref.job_id, reason=end.reason)
        work.ledger.note(refused, within_s=_NOTE_WITHIN_S)
    elif isinstance(work, Training):
        explain_previous(work.run, job)
        if end.phase == "withdrawn":
            event = TurnedAway(job_id=job.ref.job_id, why="withdrawn")
            work.ledger.note(event, within_s=_NOTE_WITHIN_S)


def end_of(arguments: Sequence[str], job: InJob) -> End | None:
    """The end that EXIT_CODE, PHASE and ABOUT describe; None if there is nothing to note."""
    phase, about = arguments[1:]
    code = int(arguments[0])
    if phase != "setup":
        return End(phase, code, one_line(about, _MAX_REASON))
    # SIGTERM came at the time limit, or for another reason, of which the launcher takes care.
    if job.cause_of(StopCode.TERM, int(about)) == "timeout":
        return End(phase, code, _IN_SETUP)
    if code == TERMINATED:
        return None
    ended = _SETUP_ENDED.findall(job.log_since(int(about))) or [f"with code {code}"]
    return End(phase, code, one_line(f"{failures.SETUP_FAILED} {ended[-1]}", _MAX_REASON))


def work_of(kind: str, folder: Path, job: InJob) -> Work:
    """The work of a task.

    Args:
        kind: the first argument of the program.
        folder: the folder of the work; for an array of trainings, the file that lists its runs.

    Raises:
        NotFoundError: the file or the folder is damaged, or of another version of cldctl.
    """
    if kind == "trainings":
        return opened(specs.listed_run(folder, job.task))
    readable(folder / "request.json", _READ_WITHIN_S)
    return opened(folder)


def main(arguments: Sequence[str]) -> int:
    kind, place, logs, launcher, *about = arguments
    folder = Path(place)
    cluster: Cluster = resolve(launcher)()
    job = cluster.current_job(Path(logs))
    try:
        work = work_of(kind, folder, job)
        readable(work.input_file, _READ_WITHIN_S)
        end = end_of(about, job)
        if end is None:
            return 0
        if end.phase in ("refused", "told", "withdrawn"):
            note_report(work, job, end)
        else:
            after(work, job, end)
    except NotFoundError as error:
        log(f"task {job.ref.job_id}: not started again: {error}")
        return 0
    except OSError as error:
        log(f"{folder.name}: its files cannot be read or written ({error})")
        return BLIND
    # The batch script waits for this program, so a hook gets no longer than after a requeue.
    hooks.end_of([work.folder], hooks.HURRY_S)
    return 0


if __name__ == "__main__":
    forgive_output()
    sys.exit(main(sys.argv[1:]))
