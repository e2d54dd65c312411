"""`cldctl submit`: freeze a recipe into a new run folder and start training it."""

import shutil
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.run import RunFolder
from cld_core.run.folder import check_name
from cldctl.ui.console import err, out

from .options import ClusterOption, Follow, Overrides, RunsDir, chosen_cluster, runs_dir

if TYPE_CHECKING:
    from cld_core.recipe import Recipe


def submit(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of one that `cldctl recipes` lists.")
    ],
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; default: the recipe's and a suffix.")] = None,
    cluster: ClusterOption = None,
    profile: Annotated[
        str | None, typer.Option(help="How this cluster wants its jobs: a file, or a name (docs/slurm.md).")
    ] = None,
    follow: Follow = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the recipe and the job, write nothing.")] = False,
    evals: Annotated[
        str | None, typer.Option("--eval", metavar="fid,elbo", help="Evaluate when the training is finished.")
    ] = None,
    directory: RunsDir = None,
) -> None:
    """Train a recipe.

    Example: cldctl submit recipes/toy.yaml train.steps=20000 --follow --eval elbo
    """
    from cld_core.data import presence
    from cld_core.evaluation.request import EvalRequest, parse_metrics
    from cld_core.recipe import dump, load
    from cld_core.recipe.plugin import with_plugin_found
    from cldctl.cluster import executor, launch
    from cldctl.identity import identity, new_name
    from cldctl.profiles import find_profile

    from .recipes import find_recipe

    where = chosen_cluster(cluster)
    file = find_recipe(recipe)
    resolved = with_plugin_found(load(file, overrides or [], find_profile(profile)), file)
    metrics = parse_metrics(evals)
    run_name = new_name(resolved.name) if name is None else name
    check_name(run_name)
    path = runs_dir(directory) / run_name
    launch.refuse_slurm_without_it(where)
    spec = launch.train_job(RunFolder(path), resolved, where)
    if dry_run:
        out.print(f"# run: {path}\n{dump(resolved)}", markup=False, soft_wrap=True)
        script = executor.slurm_script(spec) if where == "slurm" else executor.local_command(spec)
        out.print(script, markup=False, soft_wrap=True)
        if metrics:
            _dry_evaluation(RunFolder(path), resolved, metrics, where)
        return
    presence.require(resolved.data)
    # Before there is a run: what evaluations need is looked for now.
    EvalRequest.periodic_fid(resolved)
    EvalRequest.periodic_bound(resolved)
    steps, pieces = resolved.train.steps, spec.nodes * spec.tasks_per_node
    request = EvalRequest.of(resolved, metrics, steps, pieces) if metrics else None
    run = RunFolder.create(path, resolved, {"created": time.time(), "recipe": resolved.name, **identity(file)})
    names = () if request is None else (request.save(run),)
    made = f"run [bold]{run.name}[/] in {run.path}"
    if where == "debug":
        err.print(made, soft_wrap=True)
    try:
        job = launch.train(run, resolved, where, evaluations=names)
    except executor.SchedulerError:
        if all(event["event"] != "submitted" for event in run.ledger.events()):
            # Nothing has begun, and the name shall be free for the next try.
            shutil.rmtree(run.path)
        raise
    if where != "debug":
        err.print(made, soft_wrap=True)
    finish(run, job.job_id, where, follow, names)


def _dry_evaluation(run: RunFolder, recipe: "Recipe", metrics: tuple[str, ...], cluster: str) -> None:
    """Show the evaluation that is chained to the training."""
    from cld_core.evaluation.request import EvalRequest
    from cldctl.cluster import executor, launch

    request = EvalRequest.of(recipe, metrics, recipe.train.steps, recipe.cluster.world_size)
    how = "an array after the training" if cluster == "slurm" else "by the same processes, after the training"
    pieces = f"{request.samples} data in {request.shards} shard{'s' if request.shards > 1 else ''}"
    out.print(f"# evaluation {request.id}: {pieces}, {how}", markup=False, soft_wrap=True)
    if cluster == "slurm":
        logs = run.evals / request.id / "logs"
        spec = launch.eval_job(run, cluster, recipe.cluster, logs, after="JOB_OF_THE_TRAINING")
        out.print(executor.slurm_script(spec, request.shards), markup=False, soft_wrap=True)


def finish(run: RunFolder, job_id: str, cluster: str, follow: bool, evaluations: tuple[str, ...] = ()) -> None:
    """Say what was started and what to type next; stay with it where asked."""
    out.print(run.name, markup=False)
    if cluster != "debug":
        err.print(f"job {job_id} ({cluster})")
        for name in evaluations:
            err.print(f"then evaluation {name}", markup=False, soft_wrap=True)
    if follow or cluster == "debug":
        from cldctl.ui.follow import follow_run

        raise typer.Exit(follow_run(run, evaluations))
    next_steps(run)


def next_steps(run: RunFolder) -> None:
    """The commands that make sense now."""
    from cldctl.ui.hints import command

    err.print("next:")
    for text in (f"status {run.name}", f"logs {run.name} -f", f"cancel {run.name}"):
        err.print(f"  {command(text, run)}", markup=False, soft_wrap=True)
