"""Where preemption cancels jobs, a job that waits for this one to end badly restarts the run.

The batch script submits it, where there are clients; here it is noted, and withdrawn.
"""

from cld_core.config import Recipe
from cld_core.run import RunFolder
from cld_core.run.evaluations import Evaluation
from cld_core.run.events import JobRef, Submitted, TurnedAway
from cld_core.run.work import evaluations_of
from cldctl.clusters.base import InJob

from .process import NOTE_WITHIN_S


def note(run: RunFolder, job: InJob) -> None:
    """Note the job that follows this one, if there is one that the ledger does not know."""
    history, successor = run.ledger.full_history(), job.successor()
    if successor is None or successor in history.successors_of(job.ref.job_id):
        return
    exclude = history.avoided.get(job.ref.job_id, ())
    run.ledger.note(Submitted(job=successor, successor_of=job.ref.job_id, exclude=exclude), within_s=60.0)


def withdraw(run: RunFolder, job: InJob) -> None:
    """Note that the job that would follow this one has nothing to do: the run was cancelled, or is given up.

    The batch script cancels it, which sees that nothing is wished for.
    """
    for ref in run.ledger.full_history().successors_of(job.ref.job_id):
        run.ledger.note(TurnedAway(job_id=ref.job_id, why="withdrawn"), within_s=NOTE_WITHIN_S)


def is_withdrawn(run: RunFolder, ref: JobRef) -> bool:
    """Whether this job was withdrawn; it begins if the scheduler did not take the cancellation."""
    return run.ledger.full_history().turned_away.get(ref.job_id) == "withdrawn"


def chained(run: RunFolder, recipe: Recipe) -> list[Evaluation]:
    """Evaluations of the run's last step that have no result yet: they wait for the training to finish."""
    steps = recipe.train.steps
    return [work for work in evaluations_of(run) if work.request.checkpoint_step == steps and not work.is_done]
