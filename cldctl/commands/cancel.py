"""`cldctl cancel`: end runs."""

from typing import Annotated

import typer

from cld_core.errors import UsageError
from cldctl.ui.console import err

from .options import RunsDir, find_run, runs_dir


def cancel(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Names or folders of runs.")],
    directory: RunsDir = None,
) -> None:
    """End runs and their evaluations; a run saves a checkpoint first.

    Example: cldctl cancel toy-0102-101112-ab12
    """
    from cld_core.run.atomic import read_json
    from cldctl.cluster import launch, local
    from cldctl.cluster.state import eval_folders, status_of

    for run in [find_run(name, runs_dir(directory)) for name in runs]:
        jobs = [event for event in run.ledger.events() if event["event"] == "submitted"][-1:]
        jobs += [job for path in eval_folders(run) for job in read_json(path / "jobs.json") or []]
        living = {job["job_id"]: job for job in jobs if launch.alive(job)}
        elsewhere = [job for job in jobs if launch.alive(job) is None]
        if elsewhere and not living:
            raise UsageError(f"{run.name} was started on {elsewhere[0]['host']}. Cancel it there.")
        if not living:
            err.print(f"{run.name}: nothing is running ({status_of(run, launch.alive).state.lower()})")
        for job in living.values():
            run.ledger.append("cancelled", job_id=job["job_id"])
            local.cancel(job)
            row = status_of(run, launch.alive)
            err.print(f"{run.name}: cancelled; last checkpoint: step {row.checkpoint_step or 'none'}")
