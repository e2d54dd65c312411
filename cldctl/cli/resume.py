"""`cldctl resume`: continue runs from their newest good checkpoints."""

import contextlib
import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cld_core.errors import NotFoundError, UsageError
from cld_core.run import RunFolder
from cldctl.runs.tried import said
from cldctl.show.console import err
from cldctl.show.progress import Working

from . import completing
from .groups import continues, resume_group
from .options import (
    AllowPlugin,
    ClusterOfRun,
    Follow,
    Profile,
    RunsDir,
    Yes,
    agreed,
    find_runs_or_group,
    group_named,
    runs_dir,
    split_runs,
)

if TYPE_CHECKING:
    from cldctl.clusters.base import Cluster
    from cldctl.runs.resume import Continuation
    from cldctl.runs.submit import Begun


# Of several runs, all are asked about at once; the answer about each is good for so many seconds.
_ASKED_S = 30.0


def resume(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN | GROUP | KEY=VALUE",
            help="Runs or a group (default: all that can be resumed), and recipe keys to change.",
            autocompletion=completing.runs_and_overrides,
        ),
    ] = None,
    from_step: Annotated[
        int | None,
        typer.Option(
            "--from", metavar="STEP", help="Continue from this checkpoint.", autocompletion=completing.checkpoints
        ),
    ] = None,
    cluster: ClusterOfRun = None,
    follow: Follow = False,
    yes: Yes = False,
    allow_plugin: AllowPlugin = False,
    profile: Profile = None,
    update_code: Annotated[
        bool, typer.Option("--update-code", help="Run the code of the checkout from now on, not the run's own.")
    ] = False,
    other_data: Annotated[bool, typer.Option("--other-data", help="Continue although the data have changed.")] = False,
    directory: RunsDir = None,
) -> None:
    """Continue runs that were stopped, failed, cancelled or lost, or finished ones with more train.steps.

    Without RUN: every run that can be continued and is not alive. A group: all of its runs that are neither alive nor
    finished, by one job.

    Example: cldctl resume toy-0102-101112-ab12 train.steps=40000 --follow
    """
    names, overrides = split_runs(words)
    root = runs_dir(directory)
    allowed = {"allow_plugin": allow_plugin, "update_code": update_code, "other_data": other_data}
    code = 0
    group = group_named(names[0], root) if len(names) == 1 else None
    if group is not None:
        if from_step is not None:
            raise UsageError("--from goes with one run, not with a group. Name a run.")
        resume_group(group, _asked(overrides, None, profile, **allowed), cluster, follow)
        return
    if names:
        runs = find_runs_or_group(names, root)
    else:
        runs, code = _all_resumable(root, yes)
    if len(runs) > 1 and (follow or from_step is not None):
        raise UsageError(f"--follow and --from go with one run, not with {len(runs)}. Name one.")
    asked = _asked(overrides, from_step, profile, **allowed)
    if names and len(runs) > 1:
        from cldctl.runs.resume import ask_about

        ask_about(runs)
    for run in runs:
        if len(runs) == 1 and names:
            _start(run, asked, cluster, follow)
        else:
            code = _tried(run, replace(asked, max_age_s=_ASKED_S), cluster, follow) or code
    if code:
        raise typer.Exit(code)


def _asked(overrides: list[str], from_step: int | None, profile: str | None, **allowed: Any) -> "Continuation":
    from cld_core.recipe.profiles import as_overrides
    from cldctl.lookup import find_profile
    from cldctl.runs.resume import Continuation

    file = find_profile(profile)
    return Continuation(
        # What is typed goes over the profile.
        overrides=(*(() if file is None else as_overrides(file)), *overrides),
        from_step=from_step,
        profile=profile,
        **allowed,
    )


def _start(run: RunFolder, asked: "Continuation", cluster: str | None, follow: bool) -> None:
    from .submit import finish

    finish(_resume(run, asked, cluster), follow)


def _tried(run: RunFolder, asked: "Continuation", cluster: str | None, follow: bool) -> int:
    """Resume one of many runs; the exit code. Whatever is wrong with it, the others go on."""
    try:
        _start(run, asked, cluster, follow)
    except typer.Exit as end:
        return end.exit_code
    except Exception as error:
        err.failure(f"{run.name}: {said(error)}", style="red")
        return 1
    return 0


def _all_resumable(root: Path, yes: bool) -> tuple[list[RunFolder], int]:
    """The runs to resume, and the exit code for those that should have been among them."""
    from cldctl.runs.resume import resumable

    runs, skipped = resumable(root)
    for entry in skipped:
        err.print(f"skipped: {entry.reason}", markup=False, style="yellow")
    code = max((entry.exit_code for entry in skipped), default=0)
    if not runs and code:
        raise typer.Exit(code)
    if not runs:
        raise NotFoundError(f"{root.absolute()}: no run can be resumed. `cldctl status` shows their states.")
    err.print("can be resumed: " + ", ".join(run.name for run in runs))
    if not yes and not agreed("Resume all of them?", "resume without RUN", "Add --yes, or name a run."):
        raise typer.Exit(0)
    return runs, code


def _resume(run: RunFolder, asked: "Continuation", cluster: str | None) -> "Begun":
    from cldctl.runs import home
    from cldctl.runs import resume as policy

    where = home.chosen(cluster, run)
    with home.only_one(run.path, where), _checking(run, where):
        return policy.resume(run, asked, where, functools.partial(continues, run))


def _checking(run: RunFolder, where: "Cluster") -> contextlib.AbstractContextManager[object]:
    # Where a submission blocks, the training is in it, and has its own output.
    return contextlib.nullcontext() if where.blocks else Working(f"checking the checkpoints of {run.name}")
