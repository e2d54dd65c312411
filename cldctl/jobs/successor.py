"""Where preemption cancels jobs, a job that waits for this one to end badly restarts the run."""

from collections.abc import Collection

from cld_core.config import Recipe
from cld_core.run import RunFolder, code
from cld_core.run.evaluations import Evaluation
from cld_core.run.events import JobRef, Submitted, TurnedAway
from cld_core.run.work import evaluations_of
from cldctl.clusters.base import After, InJob, SchedulerAway, SchedulerRefused, Work

from . import specs
from .process import NOTE_WITHIN_S, READ_WITHIN_S


def submit(run: RunFolder, job: InJob, work: Work) -> None:
    """Submit the next job of the run, which begins only if this one fails, unless there is one already."""
    if run.ledger.full_history().successors_of(job.ref.job_id):
        return
    recipe, stored = run.recipe(within_s=READ_WITHIN_S), code.importable(code.folder_of(run.path))
    spec = specs.training([run], recipe, job.cluster, after=After((job.ref,), "failed"), code=stored)

    def note(refs: Collection[JobRef]) -> None:
        for ref in refs:
            run.ledger.note(Submitted(job=ref, successor_of=job.ref.job_id, exclude=spec.exclude), within_s=60.0)

    try:
        job.cluster.submit(spec, [work], note)
    except (SchedulerRefused, SchedulerAway) as error:
        print(f"{run.name} has no successor: {error}", flush=True)
        return
    for ref in run.ledger.full_history().successors_of(job.ref.job_id):
        _redirect_evaluations(run, job, ref)


def withdraw(run: RunFolder, job: InJob) -> None:
    """Cancel the job that would follow this one: the run itself was cancelled, or is given up."""
    waiting = run.ledger.full_history().successors_of(job.ref.job_id)
    if not waiting:
        return
    for ref in waiting:
        run.ledger.note(TurnedAway(job_id=ref.job_id, why="withdrawn"), within_s=NOTE_WITHIN_S)
    try:
        job.cluster.cancel(waiting)
    except (SchedulerRefused, SchedulerAway) as error:
        names = ", ".join(ref.job_id for ref in waiting)
        print(f"the successor {names} of job {job.ref.job_id} could not be cancelled: {error}", flush=True)


def is_withdrawn(run: RunFolder, ref: JobRef) -> bool:
    """Whether this job was withdrawn; it begins if the scheduler did not take the cancellation."""
    return run.ledger.full_history().turned_away.get(ref.job_id) == "withdrawn"


def chained(run: RunFolder, recipe: Recipe) -> list[Evaluation]:
    """Evaluations of the run's last step that have no result yet: they wait for the training to finish."""
    steps = recipe.train.steps
    return [work for work in evaluations_of(run) if work.request.checkpoint_step == steps and not work.is_done]


def _redirect_evaluations(run: RunFolder, job: InJob, successor: JobRef) -> None:
    """Chained evaluations waited for this job alone; the successor ends after it."""
    recipe = run.recipe(within_s=READ_WITHIN_S)
    try:
        works = chained(run, recipe)
    except OSError as error:
        print(f"evaluations of {run.name} do not wait for job {successor.job_id}: {error}", flush=True)
        return
    for work in works:
        refs = [event.job for event in work.ledger.history().jobs if event.job.cluster == successor.cluster]
        try:
            survey = job.cluster.survey(refs, max_age_s=0)
            if waiting := [ref for ref in refs if survey.of(ref).phase == "pending"]:
                job.cluster.redirect(waiting, After((successor,)))
        except (SchedulerRefused, SchedulerAway) as error:
            print(f"{work.name} does not wait for job {successor.job_id}: {error}", flush=True)
