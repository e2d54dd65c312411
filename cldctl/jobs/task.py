"""What each process of a job does: it computes pieces of works, and may wish for a requeue.

Launchers pickle a record of the pieces (`TrainWork` in cldctl/jobs/train.py, `ShardsWork` in
cldctl/jobs/shards.py) and call it in each process; both lead to `run_task`. If a process ends badly
without a wish, cldctl/jobs/aftermath.py decides whether the job begins again.
"""

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cld_core.errors import CldError, UsageError
from cld_core.files import forgive_output
from cld_core.run import RunFolder, code
from cld_core.run.evaluations import Evaluation
from cld_core.run.events import (
    Cause,
    Ended,
    Failed,
    GivenUp,
    Remarked,
    Submitted,
    TurnedAway,
    Wished,
)
from cld_core.run.pids import start_time
from cld_core.run.work import Outcome, Start, Training, Work, open_work, use_plugins
from cld_core.stop import StopCode, StopFlag
from cldctl.clusters.base import InJob, Requeue, SchedulerAway, SchedulerRefused

from . import failures, hooks, process
from .process import NOTE_WITHIN_S, READ_WITHIN_S, log, one_line_errors

_DIGEST = re.compile(r"([0-9a-f]{12})[0-9a-f]{52}")
# By the folder of a work, the numbers of its pieces.
Pieces = Mapping[Path, Sequence[int]]
# Causes that the launcher may know better.
_UNEXPLAINED = (None, "crashed", "killed", "terminated")


def run_task(
    pieces: Pieces,
    job: InJob,
    stop: StopFlag,
    *,
    gpu: bool = False,
    digest: str | None = None,
) -> None:
    """Compute pieces of works in this process, and wish for another start if some are left.

    Args:
        gpu: whether a process that works alone computes on a GPU.
        digest: the digest of the code at the time of submission; None to accept any code.

    Raises:
        SystemExit: an error ends the process; the exit code says whether another start may succeed.
    """
    log_offset = process.log_size(job)
    if not job.in_process:
        forgive_output()
    process.begin(job)
    for folder in pieces:
        process.readable(folder / "request.json")
    with one_line_errors(job):
        work = opened(next(iter(pieces)))
        # A successor begins although it was withdrawn if the scheduler did not cancel it.
        if work.has_successors and _was_withdrawn(work, job):
            print(f"{work.name}: job {job.ref.job_id} was withdrawn. Nothing to do.", flush=True)
            return
        process.stop_before_limit(job, stop)
        if digest is not None:
            _compare_code(pieces, job, digest)
        with hooks.settled(job, pieces):
            if isinstance(work, Training):
                _compute_in_world(work, job, stop)
                return
            outcome = _compute_alone(pieces, job, stop, gpu)
            if not outcome.is_done and job.ref.restarts:
                # After USR2, the task begins again, whatever the signal means.
                is_notice = outcome.code is StopCode.USR2
                cause = "timeout" if is_notice else job.cause_of(outcome.code, log_offset)
                wish_after_stop(work, job, outcome.code, cause)


def opened(folder: Path) -> Work:
    """The work in a folder; if it is a training, its ledger calls the run's hook for decisions."""
    work = open_work(folder)
    return Training(folder, hooks.heard(folder)) if isinstance(work, Training) else work


def _was_withdrawn(work: Work, job: InJob) -> bool:
    turned_away = work.ledger.full_history().turned_away
    return turned_away.get(job.ref.job_id) == "withdrawn"


# --- a world of ranks


def _compute_in_world(work: Training, job: InJob, stop: StopFlag) -> None:
    """Train as one rank of a world; rank 0 also wishes for the requeue."""
    is_first = job.place().rank == 0
    with failures.noted(work.run, job):
        recipe = work.recipe(READ_WITHIN_S, with_plugins=True)
        size = job.place().world_size
        if size != recipe.cluster.world_size and not job.in_process:
            # Ranks that do not know of each other would each train the whole run.
            raise UsageError(
                f"{work.name}: the job has {size} process(es), and the recipe asks for "
                f"{recipe.cluster.world_size}. Set cluster.nodes and cluster.tasks_per_node to "
                f"what the job gets."
            )
        if is_first:
            explain_previous(work.run, job)
            if job.ref.restarts:
                note_successor(work.run, job)
        from cld_core.train import health

        ranks = health.join(
            work.folder,
            job.place(),
            gpu=recipe.cluster.uses_gpu,
            timeout_s=recipe.train.hang_timeout_s,
            allotted=job.ref.restarts,
            node=job.node,
            check=recipe.train.health_check,
        )
        ranks.use_cores(recipe.cluster.cpus_per_task)
        try:
            outcome = work.compute(ranks, stop, start=_start_of(work, job))
            # Before `leave`, which may fail; writing a wish needs no other rank.
            if is_first and job.ref.restarts:
                wish_after_stop(work, job, outcome.code, outcome.cause)
        finally:
            ranks.leave()


def _start_of(work: Training, job: InJob) -> Start:
    def cause_of(code: StopCode) -> Cause | None:
        return job.cause_of(code, log_offset(work.run))

    # When the job got its machines, according to its launcher; else when this process began.
    began = None if job.in_process else job.began or start_time(os.getpid())
    return Start(
        job_id=job.ref.job_id,
        restart=job.restart,
        log=job.log,
        began=began,
        node=job.node,
        cause_of=cause_of,
    )


# --- processes that work alone


def _compute_alone(pieces: Pieces, job: InJob, stop: StopFlag, gpu: bool) -> Outcome:
    """Compute one work after another until a signal stops one.

    Raises:
        CldError: the first error of a work, after the other works are computed.
    """
    for folder in pieces:
        use_plugins(folder)
    from cld_core import ranks as distributed

    # Imported now: with --live-code, the checkout may be another one when the task ends.
    from cldctl.evals.results import write_finished

    ranks = distributed.alone(job.place(), gpu=gpu)
    warning = ranks.lacks_gpu(gpu)
    if warning is not None:
        log(f"warning: {warning}")
    first_error: CldError | None = None
    runs: dict[Path, RunFolder] = {}
    for folder, numbers in pieces.items():
        work = open_work(folder)
        try:
            outcome = work.compute(ranks, stop, numbers)
        except CldError as error:
            work.ledger.note(GivenUp(reason=str(error), job_id=job.ref.job_id))
            if len(pieces) == 1:
                raise
            log(f"{work.name}: {error}")
            first_error = first_error or error
            continue
        except Exception as error:
            event = failures.failed("task", job, f"{type(error).__name__}: {error}")
            work.ledger.note(event, within_s=NOTE_WITHIN_S)
            raise
        if not outcome.is_done:
            return outcome
        if isinstance(work, Evaluation):
            runs[work.run.path] = work.run
    for run in runs.values():
        try:
            write_finished(run)
        except OSError as error:
            log(f"warning: the tables of the sweeps of {run.name} could not be written: {error}")
    if first_error is not None:
        raise first_error
    return Outcome("finished")


def _compare_code(pieces: Pieces, job: InJob, digest: str) -> None:
    """Note in the works if the code has changed since the task was submitted.

    Pieces of one result may then be computed by different code.
    """
    imported = code.imported()
    if imported == digest:
        return
    runs, was = (_DIGEST.sub(r"\1", text) for text in (imported, digest))
    text = (
        f"job {job.ref.job_id} runs code {runs}, not {was}, which was there when it was submitted"
    )
    log(f"warning: {text}")
    event = Remarked("code", what=text)
    for folder in pieces:
        try:
            open_work(folder).ledger.note(event, within_s=NOTE_WITHIN_S)
        except Exception as error:
            # A folder that is gone or damaged must not keep the others from being computed.
            log(f"{folder}: not noted ({error}): {event}")


# --- requeue and successors


def wish_after_stop(work: Work, job: InJob, code: StopCode, cause: Cause | None) -> None:
    """Write the wish for what follows a work that a signal stopped.

    Args:
        code: the signal.
        cause: the meaning of the signal; None if only the launcher knows.
    """
    if cause == "cancelled":
        if work.has_successors:
            withdraw_successors(work, job)
        return
    with process.exit_unless_written(job):
        # USR2 announces the end. If it came before this process handled signals, only the cause
        # tells.
        if code is StopCode.USR2 or cause == "timeout":
            wish_requeue(work, job, cause or "timeout")
        elif code is StopCode.TERM and cause in ("terminated", None):
            # SIGTERM may have been the time limit: the launcher's notice follows soon.
            job.wish(Requeue(after_limit=True))


def wish_requeue(
    work: Work,
    job: InJob,
    cause: Cause,
    *,
    delay_s: float = 0.0,
    within_s: float = NOTE_WITHIN_S,
) -> None:
    """Write the wish that this job begins again, away from nodes where it failed, and note it in
    the ledger.

    A job that was cancelled does not begin again. If the time limit ended the job before it
    finished a step, it would do so again: the work is given up.

    Args:
        cause: why the job begins again.
        delay_s: seconds after which it begins at the earliest.
        within_s: seconds for which writing is retried if the next start needs the lines.

    Raises:
        OSError: the wish cannot be written.
    """
    history = work.ledger.full_history()
    job_id = job.ref.job_id
    last = history.last
    made_no_step = (
        last is not None
        and (last.job_id, last.restart) == job.start
        and last.last_step == last.first_step
    )
    if cause == "timeout" and made_no_step:
        reason = "the time limit came before a single step; set cluster.time_min higher and resume"
        work.ledger.note(GivenUp(reason=reason, job_id=job_id), within_s=within_s)
        print(f"{work.name}: {reason}", flush=True)
        return
    name = failures.task_name(work, job)
    if job_id in history.cancelled:
        log(f"{name}: job {job_id} was cancelled: not started again")
        return
    of_run: list[Failed] = []
    if work.run is not None and not work.is_world:
        # Other work of the run may have failed on a node, too.
        of_run = failures.failures_in(work.run.ledger)
    avoided, readmitted = failures.for_next_start(history, job, work.nodes(within_s), of_run)
    for node, why in avoided.items():
        if node not in history.avoided.get(job_id, ()):
            log(f"{name}: node {node} is avoided from now on: {why}")
    # The ledger comes first: the next start reads it.
    event = Wished(job_id=job_id, cause=cause, delay_s=delay_s, exclude=tuple(avoided))
    work.ledger.note(event, within_s=within_s)
    work.ledger.settle(within_s)
    job.wish(Requeue(delay_s, avoid=tuple(avoided), readmit=readmitted))


def log_offset(run: RunFolder) -> int:
    """Where in the launcher's log the notices about the newest attempt begin, bytes."""
    last = run.ledger.full_history().last
    return (last.log_offset or 0) if last is not None else 0


def explain_previous(run: RunFolder, job: InJob) -> None:
    """Note why the newest attempt ended, if it could not and the launcher knows."""
    history = run.ledger.full_history()
    last = history.last
    if last is None or last.cause not in _UNEXPLAINED:
        return
    was_requeued = history.was_requeued(last)
    if was_requeued and last.cause != "terminated":
        return  # Its cause is known.
    cause = job.why_ended(last)
    if was_requeued and cause != "preempted":
        return  # The launcher's later notices are about our own requeue.
    if cause is not None and cause != last.cause:
        run.ledger.note(Ended(attempt=last.attempt, cause=cause, afterwards=True))


def note_successor(run: RunFolder, job: InJob) -> None:
    """Note the job that waits for this one to end badly, unless the ledger has it.

    The batch script submits this successor on clusters where preemption cancels jobs.
    """
    history = run.ledger.full_history()
    successor = job.successor()
    if successor is None or successor in history.successors_of(job.ref.job_id):
        return
    exclude = history.avoided.get(job.ref.job_id, ())
    event = Submitted(job=successor, successor_of=job.ref.job_id, exclude=exclude)
    run.ledger.note(event, within_s=READ_WITHIN_S)


def withdraw_successors(work: Work, job: InJob) -> None:
    """Note that the successors of this job are withdrawn, and cancel them.

    The run was cancelled or given up. If the launcher does not answer, the batch script cancels the
    successors; if the script is killed first, they end without training.
    """
    successors = work.ledger.full_history().successors_of(job.ref.job_id)
    for ref in successors:
        work.ledger.note(TurnedAway(job_id=ref.job_id, why="withdrawn"), within_s=NOTE_WITHIN_S)
    if successors:
        with contextlib.suppress(SchedulerRefused, SchedulerAway):
            job.cluster.cancel(successors)
