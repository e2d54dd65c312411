"""Where preemption cancels jobs, a job that waits for this one to end badly brings the run back."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace

from cld_core.run import RunFolder

from . import executor, inside, launch, slurm, worker


def submit(folder: RunFolder) -> None:
    """Submit the next job of the run, which starts only if this one does not end well (`afternotok`)."""
    mine = inside.job_id()
    if any(event.get("successor_of") == mine for event in folder.ledger.events()):
        return
    spec = launch.train_job(folder, folder.recipe(), "slurm")
    resources = replace(spec.resources, sbatch_args=(*spec.resources.sbatch_args, "--kill-on-invalid-dep=yes"))
    spec = replace(spec, after=f"afternotok:{mine}", resources=resources)
    with _own_environment():
        job = executor.submit_slurm(spec, [worker.TrainJob(str(folder.path), "slurm")])[0]
    folder.ledger.append("submitted", **job.to_dict(), successor_of=mine)
    # Chained evaluations waited for this job alone. The new one ends at the earliest when this one has.
    for evaluation in launch.chained_evaluations(folder, folder.recipe()):
        for array in launch.waiting_arrays(folder.evals / evaluation):
            problem = slurm.set_dependency(array, f"afterany:{job.job_id}")
            if problem is not None:
                print(
                    f"evaluation {evaluation} (job {array}) does not wait for job {job.job_id}: {problem}", flush=True
                )


def withdraw(folder: RunFolder) -> None:
    """Cancel the job that would go on after this one: the run itself was cancelled, or is given up."""
    mine = inside.job_id()
    waiting = [event["job_id"] for event in folder.ledger.events() if event.get("successor_of") == mine]
    if not waiting:
        return
    for job in waiting:
        folder.ledger.append("withdrawn", job_id=job)
    problem = slurm.cancel(waiting)
    if problem is not None:
        print(f"the successor {', '.join(waiting)} of job {mine} could not be cancelled: {problem}", flush=True)


@contextlib.contextmanager
def _own_environment() -> Iterator[None]:
    """Without what Slurm told this job about itself, which sbatch would take for wishes."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("SLURM_", "SRUN_"))}
    for name in kept:
        if name != "SLURM_CONF":
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(kept)
