"""`cldctl resume`: continue runs from their newest good checkpoints."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.errors import CldError, NotFoundError, UsageError
from cld_core.run import RunFolder
from cldctl.ui.console import err, strong

from .options import ClusterOfRun, Follow, RunsDir, find_run, runs_dir, split_runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cld_core.checkpoint.verify import DamagedCheckpoint
    from cld_core.recipe import Recipe
    from cldctl.runs.submit import Begun


def resume(
    words: Annotated[list[str] | None, typer.Argument(metavar="RUN | KEY=VALUE")] = None,
    from_step: Annotated[
        int | None, typer.Option("--from", metavar="STEP", help="Continue from this checkpoint.")
    ] = None,
    cluster: ClusterOfRun = None,
    follow: Follow = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    directory: RunsDir = None,
) -> None:
    """Continue runs that were stopped, failed, cancelled or lost, or finished ones with more train.steps.

    Without RUN: every run that can be continued and is not alive.

    Example: cldctl resume toy-0102-101112-ab12 train.steps=40000 --follow
    """
    names, overrides = split_runs(words)
    root = runs_dir(directory)
    runs = [find_run(name, root) for name in names] if names else _all_resumable(root, yes)
    if len(runs) > 1 and (follow or from_step is not None):
        raise UsageError(f"--follow and --from go with one run, not with {len(runs)}. Name one.")
    failed = False
    for run in runs:
        try:
            begun = _resume(run, overrides, from_step, cluster)
        except CldError as error:
            if len(runs) == 1:
                raise
            err.print(f"{run.name}: {error}", markup=False, style="red", soft_wrap=True)
            failed = True
            continue
        from .submit import finish

        finish(begun, follow)
    if failed:
        raise typer.Exit(1)


def _all_resumable(root: Path, yes: bool) -> list[RunFolder]:
    from cldctl.runs.resume import resumable

    runs, skipped = resumable(root)
    for line in skipped:
        err.print(f"skipped: {line}", markup=False, style="yellow", soft_wrap=True)
    if not runs:
        raise NotFoundError(f"{root.absolute()}: no run can be resumed. `cldctl status` shows their states.")
    err.print("can be resumed: " + ", ".join(run.name for run in runs), soft_wrap=True)
    if not yes and not _agreed():
        raise typer.Exit(0)
    return runs


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UsageError("resume without RUN asks first, and stdin is not a terminal. Add --yes, or name a run.")
    try:
        return typer.confirm("Resume all of them?", err=True)
    except typer.Abort:
        err.print("interrupted")
        raise typer.Exit(130) from None


def _resume(run: RunFolder, overrides: list[str], from_step: int | None, cluster: str | None) -> "Begun":
    from cldctl.runs import home
    from cldctl.runs import resume as policy

    def about(recipe: "Recipe", start: int, damaged: "Sequence[DamagedCheckpoint]") -> None:
        for entry in damaged:
            err.print(entry.skipped, markup=False, style="yellow", soft_wrap=True)
        err.print(strong("resuming ", run.name, f" from step {start} of {recipe.train.steps}"))

    where = home.chosen(cluster, run)
    with home.only_one(run.path, where):
        return policy.resume(run, overrides, from_step, where, about)
