"""`cldctl resume`: continue runs from their newest good checkpoints."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.errors import CldError, NotFoundError, UsageError
from cld_core.run import RunFolder
from cld_core.texts import one_line
from cldctl.ui.console import err, strong

from .groups import resume_group
from .options import AllowPlugin, ClusterOfRun, Follow, RunsDir, find_runs_or_group, group_named, runs_dir, split_runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cld_core.checkpoint.verify import DamagedCheckpoint
    from cld_core.recipe import Recipe
    from cldctl.runs.submit import Begun


def resume(
    words: Annotated[list[str] | None, typer.Argument(metavar="RUN | GROUP | KEY=VALUE")] = None,
    from_step: Annotated[
        int | None, typer.Option("--from", metavar="STEP", help="Continue from this checkpoint.")
    ] = None,
    cluster: ClusterOfRun = None,
    follow: Follow = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    allow_plugin: AllowPlugin = False,
    directory: RunsDir = None,
) -> None:
    """Continue runs that were stopped, failed, cancelled or lost, or finished ones with more train.steps.

    Without RUN: every run that can be continued and is not alive. A group: all of its runs that are neither alive nor
    finished, by one job.

    Example: cldctl resume toy-0102-101112-ab12 train.steps=40000 --follow
    """
    names, overrides = split_runs(words)
    root = runs_dir(directory)
    code = 0
    group = group_named(names[0], root) if len(names) == 1 else None
    if group is not None:
        if from_step is not None:
            raise UsageError("--from goes with one run, not with a group. Name a run.")
        resume_group(group, overrides, cluster, allow_plugin, follow)
        return
    if names:
        runs = find_runs_or_group(names, root)
    else:
        runs, code = _all_resumable(root, yes)
    if len(runs) > 1 and (follow or from_step is not None):
        raise UsageError(f"--follow and --from go with one run, not with {len(runs)}. Name one.")
    for run in runs:
        if len(runs) == 1 and names:
            _start(run, overrides, from_step, cluster, follow, allow_plugin)
        else:
            code = _tried(run, overrides, from_step, cluster, follow, allow_plugin) or code
    if code:
        raise typer.Exit(code)


def _start(
    run: RunFolder, overrides: list[str], from_step: int | None, cluster: str | None, follow: bool, allow_plugin: bool
) -> None:
    from .submit import finish

    finish(_resume(run, overrides, from_step, cluster, allow_plugin), follow)


def _tried(
    run: RunFolder, overrides: list[str], from_step: int | None, cluster: str | None, follow: bool, allow_plugin: bool
) -> int:
    """Resume one of many runs; the exit code. Whatever is wrong with it, the others go on."""
    try:
        _start(run, overrides, from_step, cluster, follow, allow_plugin)
    except typer.Exit as end:
        return end.exit_code
    except Exception as error:
        reason = str(error) if isinstance(error, CldError) else one_line(error) or type(error).__name__
        err.print(f"{run.name}: {reason}", markup=False, style="red", soft_wrap=True)
        return 1
    return 0


def _all_resumable(root: Path, yes: bool) -> tuple[list[RunFolder], int]:
    """The runs to resume, and the exit code for those that should have been among them."""
    from cldctl.runs.resume import resumable

    runs, skipped = resumable(root)
    for entry in skipped:
        err.print(f"skipped: {entry.reason}", markup=False, style="yellow", soft_wrap=True)
    code = max((entry.exit_code for entry in skipped), default=0)
    if not runs and code:
        raise typer.Exit(code)
    if not runs:
        raise NotFoundError(f"{root.absolute()}: no run can be resumed. `cldctl status` shows their states.")
    err.print("can be resumed: " + ", ".join(run.name for run in runs), soft_wrap=True)
    if not yes and not _agreed():
        raise typer.Exit(0)
    return runs, code


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UsageError("resume without RUN asks first, and stdin is not a terminal. Add --yes, or name a run.")
    try:
        return typer.confirm("Resume all of them?", err=True)
    except typer.Abort:
        err.print("interrupted")
        raise typer.Exit(130) from None


def _resume(
    run: RunFolder, overrides: list[str], from_step: int | None, cluster: str | None, allow_plugin: bool
) -> "Begun":
    from cldctl.runs import home
    from cldctl.runs import resume as policy

    def about(recipe: "Recipe", start: int, damaged: "Sequence[DamagedCheckpoint]") -> None:
        for entry in damaged:
            err.print(entry.skipped, markup=False, style="yellow", soft_wrap=True)
        err.print(strong("resuming ", run.name, f" from step {start} of {recipe.train.steps}"))

    where = home.chosen(cluster, run)
    with home.only_one(run.path, where):
        return policy.resume(run, overrides, from_step, where, about, allow_plugin)
