"""`cldctl cancel`: end runs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.errors import NotFoundError, UsageError
from cld_core.texts import one_line
from cldctl.show.console import err
from cldctl.show.progress import Working

from . import completing
from .options import RunsDir, find_runs_or_group, runs_dir

if TYPE_CHECKING:
    from cld_core.run import RunFolder
    from cld_core.shards import Work
    from cldctl.runs.cancel import Ending


def cancel(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN | GROUP", help="Names or folders of runs, or groups.", autocompletion=completing.runs
        ),
    ],
    evaluation: Annotated[
        str | None,
        typer.Option(
            "--eval",
            metavar="ID",
            help="Only this evaluation, tuning or sweep of the run; the beginning of its id will do.",
            autocompletion=completing.evaluations,
        ),
    ] = None,
    directory: RunsDir = None,
) -> None:
    """End runs and their evaluations; a run saves a checkpoint first.

    Example: cldctl cancel toy-0102-101112-ab12

    Example: cldctl cancel toy-0102-101112-ab12 --eval elbo
    """
    from cldctl.runs import cancel as policy

    try:
        chosen = find_runs_or_group(runs, runs_dir(directory))
    except NotFoundError as error:
        raise NotFoundError(f"{error} Nothing was cancelled.") from error
    endings = policy.cancel(chosen, () if evaluation is None else _works(chosen, evaluation))
    for ending in endings:
        if ending.problem is not None:
            err.failure(policy.outcome(ending), style="red")
        elif not ending.jobs:
            err.print(policy.outcome(ending), markup=False)
    waiting = [ending for ending in endings if ending.jobs]
    try:
        if waiting:
            with Working(_waits_for(waiting, policy.GRACE_S), announced=True) as working:
                policy.wait(waiting, lambda ending: _over(ending, waiting, working))
    except KeyboardInterrupt:
        left = ", ".join(ending.run.name for ending in waiting if not ending.is_over)
        err.print(f"no longer waiting for {left}: `cldctl status` shows how they end", markup=False)
        raise typer.Exit(130) from None
    if problems := [ending.problem for ending in endings if ending.problem is not None]:
        raise typer.Exit(problems[0].exit_code)


def _works(runs: "Sequence[RunFolder]", evaluation: str) -> "list[Work]":
    """What ``--eval`` names.

    Raises:
        NotFoundError, UsageError: there is no such evaluation, or there are several runs.
    """
    from cldctl.runs.works import started_works

    if len(runs) != 1:
        raise UsageError(f"--eval goes with one run, not with {len(runs)}. Name one. Nothing was cancelled.")
    try:
        return started_works(runs[0], evaluation)
    except NotFoundError as error:
        raise NotFoundError(f"{error} Nothing was cancelled.") from error


def _over(ending: "Ending", all_of_them: "Sequence[Ending]", working: Working) -> None:
    from cldctl.jobs import hooks
    from cldctl.runs.cancel import outcome

    err.print(outcome(ending), markup=False)
    working.at(sum(it.is_over for it in all_of_them), len(all_of_them), "runs")
    if ending.is_over and ending.trains:
        hooks.fire(ending.run, is_over=True)


def _waits_for(waiting: "Sequence[Ending]", most_s: float) -> str:
    from cldctl.runs.cancel import called

    jobs = ", ".join(dict.fromkeys(job.job_id for ending in waiting for job in ending.jobs))
    names = called(waiting[0]) if len(waiting) == 1 else f"{len(waiting)} runs"
    saves = " to save and" if any(ending.trains for ending in waiting) else " to"
    return f"waiting for {names}{saves} end (job {one_line(jobs, 60)}), at most {most_s:.0f} s"
