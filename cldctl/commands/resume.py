"""`cldctl resume`: go on with runs from their newest good checkpoints."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.errors import CldError, NotFoundError, RecipeError, UsageError
from cld_core.run import RunFolder, find_runs
from cld_core.run.intact import newest_whole
from cld_core.run.lease import held_message, newest, seems_alive
from cldctl.ui.console import err
from cldctl.ui.hints import command

from .options import ClusterOption, Follow, RunsDir, chosen_cluster, find_run, runs_dir, split_runs

if TYPE_CHECKING:
    from cld_core.recipe import Recipe


def resume(
    words: Annotated[list[str] | None, typer.Argument(metavar="RUN | KEY=VALUE")] = None,
    from_step: Annotated[int | None, typer.Option("--from", metavar="STEP", help="Go on from this checkpoint.")] = None,
    cluster: ClusterOption = None,
    follow: Follow = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    directory: RunsDir = None,
) -> None:
    """Continue runs that were stopped, failed, cancelled or lost, or finished ones with more train.steps.

    Without RUN: every run that can be continued and is not alive.

    Example: cldctl resume toy-0102-101112-ab12 train.steps=40000 --follow
    """
    from cldctl.cluster import launch
    from cldctl.cluster.executor import SchedulerError
    from cldctl.cluster.state import RESUMABLE, status_of

    from .submit import finish

    where = chosen_cluster(cluster)
    launch.refuse_slurm_without_it(where)
    names, overrides = split_runs(words)
    root = runs_dir(directory)
    if names:
        chosen = [find_run(name, root) for name in names]
    else:
        every = find_runs(root)
        look, problem = launch.look_at(every)
        if problem is not None:
            raise SchedulerError(f"{problem}. Which runs are alive cannot be told; try again later.")
        chosen = [run for run in every if status_of(run, look).state in RESUMABLE]
        if not chosen:
            raise NotFoundError(f"{root.absolute()}: no run can be resumed. `cldctl status` shows their states.")
        err.print("can be resumed: " + ", ".join(run.name for run in chosen), soft_wrap=True)
        if not yes and not _agreed():
            raise typer.Exit(0)
    if len(chosen) > 1 and (follow or from_step is not None):
        raise UsageError(f"--follow and --from go with one run, not with {len(chosen)}. Name one.")
    failed = 0
    for run in chosen:
        try:
            with launch.only_one(run):
                job_id, evaluations = _resume(run, overrides, from_step, where)
        except CldError as error:
            if len(chosen) == 1:
                raise
            err.print(f"{run.name}: {error}", markup=False, style="red", soft_wrap=True)
            failed += 1
            continue
        finish(run, job_id, where, follow, evaluations)
    if failed:
        raise typer.Exit(1)


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UsageError("resume without RUN asks first, and there is no terminal to ask at. Add --yes, or name a run.")
    try:
        return typer.confirm("Resume all of them?", err=True)
    except typer.Abort:
        err.print("interrupted")
        raise typer.Exit(130) from None


def _resume(run: RunFolder, overrides: list[str], from_step: int | None, cluster: str) -> tuple[str, tuple[str, ...]]:
    from cld_core.data import presence
    from cld_core.evaluation.request import EvalRequest
    from cld_core.recipe import with_overrides
    from cld_core.recipe.plugin import with_paths, with_plugin_found
    from cldctl.cluster import launch
    from cldctl.cluster.executor import SchedulerError
    from cldctl.cluster.state import status_of

    look, problem = launch.look_at([run])
    if problem is not None and cluster == "slurm":
        raise SchedulerError(f"{problem}. Whether {run.name} is alive cannot be told; try again later.")
    status = status_of(run, look)
    if status.state in ("RUNNING", "PENDING", "REQUEUED"):
        text = f"is {status.state.lower()} as job {status.job_id}"
        cancel = command(f"cancel {run.name}", run)
        raise UsageError(f"{run.name} {text}. Wait for it, or end it first with `{cancel}`.")
    if seems_alive(run.leases):
        raise UsageError(held_message(run.path, newest(run.leases)[1] or {}))
    before = run.recipe()
    overrides = with_paths(overrides)
    recipe = with_plugin_found(with_overrides(before, overrides, str(run.recipe_file)), run.recipe_file)
    if recipe.model_digest() != before.model_digest():
        which = " ".join(text for text in overrides if _makes_another(before, text)) or " ".join(overrides)
        text = "data, sde, network, the objective's score and the optimiser are what its checkpoints hold"
        raise RecipeError(f"{run.name}: {which} would make it another run: {text}. Submit a new run instead.")
    presence.require(recipe.data)
    EvalRequest.periodic_fid(recipe)
    EvalRequest.periodic_bound(recipe)
    more = f"To go on, ask for more: `{command(f'resume {run.name} train.steps=...', run)}`"
    if status.state == "FINISHED" and recipe.train.steps <= status.step and from_step is None:
        raise UsageError(f"{run.name} is finished at step {status.step}. {more}.")
    if from_step is not None and from_step not in run.checkpoint_steps():
        steps = ", ".join(map(str, run.checkpoint_steps())) or "none"
        raise NotFoundError(f"{run.name} has no checkpoint of step {from_step}. There are: {steps}.")
    start = from_step if from_step is not None else _whole(run)
    if recipe.train.steps < (start or 0):
        raise UsageError(f"{run.name} is at step {start} already, beyond train.steps={recipe.train.steps}. {more}.")
    err.print(f"resuming [bold]{run.name}[/] from step {start or 0} of {recipe.train.steps}")
    unfinished = launch.chained_evaluations(run, recipe)
    job = launch.train(run, recipe, cluster, overrides=overrides, from_step=from_step, evaluations=unfinished)
    return job.job_id, unfinished


def _makes_another(recipe: "Recipe", override: str) -> bool:
    from cld_core.recipe import with_overrides

    try:
        return with_overrides(recipe, [override]).model_digest() != recipe.model_digest()
    except RecipeError:
        return True


def _whole(run: RunFolder) -> int | None:
    """The newest step whose checkpoint is whole, where the run will go on; names what is passed over."""
    step, damaged = newest_whole(run)
    for entry in damaged:
        if entry.finished:
            err.print(entry.passed_over, markup=False, style="yellow", soft_wrap=True)
    return step
