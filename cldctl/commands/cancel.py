"""`cldctl cancel`: end runs."""

import time
from typing import Annotated, Any

import typer

from cld_core.errors import NotFoundError, UsageError
from cld_core.run import RunFolder
from cld_core.run.lease import local_holder
from cldctl.ui.console import err

from .options import RunsDir, find_run, runs_dir

# Seconds to wait for Slurm's jobs to save and end, before that is left to them.
_WAIT_S = 60.0


def cancel(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Names or folders of runs.")],
    directory: RunsDir = None,
) -> None:
    """End runs and their evaluations; a run saves a checkpoint first.

    Example: cldctl cancel toy-0102-101112-ab12
    """
    from cldctl.cluster import launch, local, slurm
    from cldctl.cluster.executor import SchedulerError
    from cldctl.cluster.state import status_of

    try:
        found = [find_run(name, runs_dir(directory)) for name in runs]
    except NotFoundError as error:
        raise NotFoundError(f"{error} Nothing was cancelled.") from error
    look, problem = launch.look_at(found)
    if problem is not None:
        raise SchedulerError(f"{problem}. Nothing was cancelled; try again when it answers.")
    told: list[tuple[RunFolder, dict[str, Any]]] = []
    for run in found:
        jobs = {job["job_id"]: job for job in launch.jobs_of(run) if not look(job).over}
        elsewhere = [job for job in jobs.values() if look(job).phase == "unknown"]
        if elsewhere:
            raise UsageError(f"{run.name} was started on {elsewhere[0]['host']}. Cancel it there.")
        holder = local_holder(run.leases) if not jobs else None
        if holder is not None:
            run.ledger.append("cancelled", job_id=holder["job_id"])
            local.end_process(holder["pid"])
            err.print(f"{run.name}: process {holder['pid']}, which no job of cldctl knew of, was ended")
            continue
        if not jobs:
            err.print(f"{run.name}: nothing is running ({status_of(run, look).state.lower()})")
            continue
        for job_id in jobs:
            run.ledger.append("cancelled", job_id=job_id)
        on_slurm = [job_id for job_id, job in jobs.items() if job["cluster"] == "slurm"]
        refused = slurm.cancel(on_slurm) if on_slurm else None
        if refused is not None:
            raise SchedulerError(f"{run.name}: scancel refused: {refused}. Try `scancel {' '.join(on_slurm)}`.")
        told.append((run, jobs))
    # All of them end, and save, at the same time.
    for place, (run, jobs) in enumerate(told):
        try:
            for job in jobs.values():
                if job["cluster"] != "slurm":
                    local.cancel(job)
            err.print(_outcome(run, list(jobs)), markup=False)
        except KeyboardInterrupt:
            left = ", ".join(other.name for other, _ in told[place:])
            err.print(f"no longer waiting for {left}: `cldctl status` shows how they end", markup=False)
            raise typer.Exit(130) from None


def _outcome(run: RunFolder, job_ids: list[str]) -> str:
    """What became of jobs that were told to end; waits for them, since they save first."""
    from cldctl.cluster import launch

    trained = {event["job_id"] for event in run.ledger.events() if event["event"] == "submitted"} & {*job_ids}
    if not trained:
        return f"{run.name}: its evaluations are cancelled"
    deadline = time.monotonic() + _WAIT_S
    while True:
        look, _ = launch.look_at([run])
        if all(look(job).over for job in launch.jobs_of(run) if job["job_id"] in trained):
            steps = run.checkpoint_steps()
            return f"{run.name}: cancelled; last checkpoint: {f'step {steps[-1]}' if steps else 'none'}"
        if time.monotonic() > deadline:
            return f"{run.name}: told to end; it saves first. `cldctl status {run.name}` says when it has."
        time.sleep(0.5)
