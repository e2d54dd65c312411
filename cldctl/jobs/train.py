"""The work of a training job in each of its processes, and of rank 0 before and after it."""

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cld_core.errors import UsageError
from cld_core.files import forgive_output
from cld_core.run import RunFolder
from cld_core.run.evaluations import Evaluation
from cld_core.run.events import Cause, Ended, GivenUp, Submitted, TurnedAway
from cld_core.run.work import evaluations_of
from cld_core.stop import StopCode, StopFlag
from cldctl.clusters.base import InJob, SchedulerAway, SchedulerRefused

from . import failures, hooks, process
from .process import NOTE_WITHIN_S, READ_WITHIN_S, one_line_errors, stop_before_limit

if TYPE_CHECKING:
    from cld_core.config import Recipe
    from cld_core.train.session import SessionResult

# Causes that the launcher may know better.
_UNEXPLAINED = (None, "crashed", "killed", "terminated")


@dataclass(frozen=True)
class TrainWork:
    """Train a run. Pickled by the launcher, so it holds a path only."""

    run: str

    def __call__(self, job: InJob, stop: StopFlag) -> None:
        run = RunFolder(self.run, hooks.heard(Path(self.run)))
        if not job.in_process:
            forgive_output()
        process.begin(job)
        # The scheduler did not take the cancellation of a successor.
        if run.ledger.full_history().turned_away.get(job.ref.job_id) == "withdrawn":
            print(f"{run.name}: job {job.ref.job_id} was withdrawn. Nothing to do.", flush=True)
            return
        stop_before_limit(job, stop)
        tell = functools.partial(hooks.end, run)
        with hooks.settled(job, tell), one_line_errors(job, tell), failures.noted(run, job):
            recipe = run.recipe(within_s=READ_WITHIN_S, with_plugins=True)
            _check_size(run, recipe, job)
            self._train(run, recipe, job, stop)

    def _train(self, run: RunFolder, recipe: "Recipe", job: InJob, stop: StopFlag) -> None:
        if job.place().rank == 0:
            explain_previous(run, job)
            if job.ref.restarts:
                note_successor(run, job)

        from cld_core.train import health, session

        ranks = health.join(
            run.path,
            job.place(),
            gpu=recipe.cluster.uses_gpu,
            timeout_s=recipe.train.hang_timeout_s,
            allotted=job.ref.restarts,
            node=job.node,
            check=recipe.train.health_check,
        )
        ranks.use_cores(recipe.cluster.cpus_per_task)
        try:
            ended = session.run(
                run,
                ranks,
                stop,
                job_id=job.ref.job_id,
                recipe=recipe,
                restart=job.restart,
                log=job.log,
                began=process.began(job),
                cause_of=lambda code: job.cause_of(code, log_offset(run)),
                node=job.node,
            )
            print(
                f"rank {ranks.rank} of {ranks.world_size}: {ended.cause} at step {ended.step}",
                flush=True,
            )
            # Before the ranks part, which may fail: the wish is only a file.
            if job.place().rank == 0 and job.ref.restarts:
                _follow(run, recipe, job, ended)
        finally:
            ranks.leave()


def _check_size(run: RunFolder, recipe: "Recipe", job: InJob) -> None:
    """Refuse to train with another number of ranks: several worlds would train the same run."""
    size = job.place().world_size
    requested = recipe.cluster.world_size
    if size != requested and not job.in_process:
        raise UsageError(
            f"{run.name}: the job has {size} process(es), and the recipe asks for {requested}. "
            f"Set cluster.nodes and cluster.tasks_per_node to what the job gets."
        )


def log_offset(run: RunFolder) -> int:
    """Where in the launcher's log the notices about the newest attempt begin, bytes."""
    last = run.ledger.full_history().last
    return (last.log_offset or 0) if last is not None else 0


def explain_previous(run: RunFolder, job: InJob) -> None:
    """Find out why the newest attempt ended, if it could not say so itself, and note it."""
    history = run.ledger.full_history()
    last = history.last
    if last is None or last.cause not in _UNEXPLAINED:
        return
    was_requeued = history.was_requeued(last)
    if was_requeued and last.cause != "terminated":
        return  # Its cause is known.
    cause = job.why_ended(last)
    if was_requeued and cause != "preempted":
        return  # What the launcher says since is about our own requeue.
    if cause is not None and cause != last.cause:
        run.ledger.note(Ended(attempt=last.attempt, cause=cause, afterwards=True))


def _follow(run: RunFolder, recipe: "Recipe", job: InJob, ended: "SessionResult") -> None:
    """Wish for what follows a training, once all ranks have ended."""
    if ended.cause == "cancelled":
        withdraw_successors(run, job)
    # The notice may have come before its handler was installed: then the limit itself ends the
    # training.
    elif ended.code is StopCode.USR2 or ended.cause == "timeout":
        with process.written_down(job):
            go_on(run, recipe, job, ended.cause)
    elif ended.code is StopCode.TERM:
        process.wish_after_term(job, ended.cause)


def go_on(
    run: RunFolder,
    recipe: "Recipe",
    job: InJob,
    cause: Cause,
    *,
    delay_s: float = 0.0,
    within_s: float = NOTE_WITHIN_S,
) -> None:
    """Wish that this job begins again, and note in the ledger what follows.

    A time limit that came before a single step was done would come again: the run is given up.

    Args:
        within_s: seconds for which writing lines that the next start needs is retried.

    Raises:
        OSError: the wish could not be written down.
    """
    history = run.ledger.full_history()
    last = history.last
    trained = last is not None and (last.job_id, last.restart) == (job.ref.job_id, job.restart)
    if cause == "timeout" and trained and last is not None and last.last_step == last.first_step:
        reason = "the time limit came before a single step; set cluster.time_min higher and resume"
        run.ledger.note(GivenUp(reason=reason, job_id=job.ref.job_id), within_s=within_s)
        print(f"{run.name}: {reason}", flush=True)
        return
    failures.begin_again(
        run.name, run.ledger, job, cause, delay_s, recipe.cluster.nodes, within_s=within_s
    )


def note_successor(run: RunFolder, job: InJob) -> None:
    """Note the job that waits for this one to end badly, unless the ledger has it.

    The batch script submits it, where preemption cancels jobs.
    """
    history = run.ledger.full_history()
    successor = job.successor()
    job_id = job.ref.job_id
    if successor is None or successor in history.successors_of(job_id):
        return
    exclude = history.avoided.get(job_id, ())
    event = Submitted(job=successor, successor_of=job_id, exclude=exclude)
    run.ledger.note(event, within_s=60.0)


def withdraw_successors(run: RunFolder, job: InJob) -> None:
    """Cancel the jobs that would follow this one, and note it: the run was cancelled or given up.

    If the launcher cannot be asked, the batch script cancels them; if it is killed first, they end
    without training.
    """
    successors = run.ledger.full_history().successors_of(job.ref.job_id)
    for ref in successors:
        run.ledger.note(TurnedAway(job_id=ref.job_id, why="withdrawn"), within_s=NOTE_WITHIN_S)
    if successors:
        with contextlib.suppress(SchedulerRefused, SchedulerAway):
            job.cluster.cancel(successors)


def chained(run: RunFolder, recipe: "Recipe") -> list[Evaluation]:
    """Evaluations of the run's last step that have no result yet: they wait for the training to
    finish."""
    steps = recipe.train.steps
    return [
        work
        for work in evaluations_of(run)
        if work.request.checkpoint_step == steps and not work.is_done
    ]
