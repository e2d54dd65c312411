"""`cldctl submit`: freeze a recipe into a new run folder and start training it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.errors import CldError, UsageError
from cld_core.run import RunFolder
from cldctl.runs.asked import Asked
from cldctl.show.console import err, out, shows_bars, strong

from . import completing
from .groups import check_plugin, show_differences, tell_left_out, tell_remark
from .options import ClusterOption, Follow, Overrides, Profile, RunsDir, runs_dir

if TYPE_CHECKING:
    from collections.abc import Callable

    from cld_core.recipe import Recipe
    from cld_core.run.events import JobRef
    from cldctl.clusters.base import Cluster
    from cldctl.clusters.records import JobSpec
    from cldctl.runs.submit import Begun, Wanted


def submit(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe file, or the name of one that `cldctl recipes` lists.",
            autocompletion=completing.recipes,
        ),
    ],
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; default: the recipe's and a suffix.")] = None,
    cluster: ClusterOption = None,
    profile: Profile = None,
    follow: Follow = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the recipe and the job, write nothing.")] = False,
    evals: Annotated[
        str | None,
        typer.Option(
            "--eval",
            metavar="fid,elbo",
            help="Evaluate when the training is finished.",
            autocompletion=completing.metrics,
        ),
    ] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="A word to find the run by; may be repeated.")
    ] = None,
    note: Annotated[str | None, typer.Option("--note", metavar="TEXT", help="What the run is for.")] = None,
    live_code: Annotated[
        bool, typer.Option("--live-code", help="Run the checkout as it is when each job starts.")
    ] = False,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=a,b,c",
            help="A run for each combination of values; once for each key.",
            autocompletion=completing.overrides,
        ),
    ] = None,
    parallel: Annotated[int | None, typer.Option(min=1, help="With --sweep: runs that may train at once.")] = None,
    directory: RunsDir = None,
) -> None:
    """Train a recipe.

    Example: cldctl submit toy train.steps=20000 --follow --eval elbo

    Example: cldctl submit toy --sweep train.seed=0,1,2 --sweep optim.lr=1e-4,2e-4 --name seeds --parallel 4
    """
    from cld_core.evaluation.registry import parse_metrics
    from cldctl.runs import home, labels

    labels.check(tags or (), note)
    where = home.chosen(cluster)
    asked = Asked(
        metrics=parse_metrics(evals),
        given=tuple(overrides or ()),
        profile=home.default_profile(where) if profile is None else profile,
        tags=tuple(tags or ()),
        note=note,
        live_code=live_code,
    )
    root = runs_dir(directory)
    if sweep:
        from .groups import Sweeping, submit_group

        axes = tuple(sweep)
        group = Sweeping(recipe=recipe, sweep=axes, name=name, cluster=cluster, parallel=parallel, **asked.common())
        submit_group(group, root, follow=follow, dry_run=dry_run)
        return
    if parallel is not None:
        raise UsageError("--parallel goes with --sweep: one run is one job. Leave it out.")
    _submit_one(_wanted(recipe, name, asked, root), where, follow=follow, dry_run=dry_run)


def _wanted(name_of_recipe: str, name: str | None, asked: Asked, root: Path) -> "Wanted":
    """The requested run.

    Raises:
        RecipeError: the recipe cannot be read, or its plug-in is not there.
        UsageError: the name cannot be one.
    """
    from cld_core.recipe.loading import load_with_places
    from cld_core.recipe.plugin import with_plugin_found
    from cld_core.run.folder import check_name
    from cld_core.run.identity import new_name
    from cldctl.lookup import find_profile, find_recipe
    from cldctl.runs.submit import Wanted

    file = find_recipe(name_of_recipe)
    recipe, places = load_with_places(file, asked.given, find_profile(asked.profile))
    recipe = with_plugin_found(recipe, file, places.get("data.plugin"))
    new = new_name(recipe.name) if name is None else name
    check_name(new)
    return Wanted(path=root / new, recipe=recipe, file=file, **asked.common())


def _submit_one(wanted: "Wanted", cluster: "Cluster", *, follow: bool, dry_run: bool) -> None:
    """Submit a run, or show what would be submitted."""
    from cldctl.lookup import find_profile
    from cldctl.runs import submit as policy

    file, profile = wanted.file, find_profile(wanted.profile)
    spec = policy.check(wanted.path, wanted.recipe, cluster, wanted.live_code)
    check_plugin(wanted.recipe, file, wanted.given, profile)
    tell_remark(cluster, wanted.recipe)
    # The scheduler thinks about it while the job is being written.
    start = cluster.ask_for_start(spec)
    if dry_run:
        show_differences(file, wanted.given, profile)
        _preview(RunFolder(wanted.path), wanted.recipe, cluster, spec, wanted.metrics)
        _estimate(wanted.path, wanted.recipe, start)
        return
    begun = _submitted(wanted, cluster)
    if not cluster.blocks:
        _estimate(wanted.path, wanted.recipe, start)
    finish(begun, follow)


def _submitted(wanted: "Wanted", cluster: "Cluster") -> "Begun":
    """Submit a run; Ctrl-C says what has been submitted and goes on."""
    from cldctl.runs import submit as policy

    exists: list[JobRef] = []

    def started(run: RunFolder, job: "JobRef") -> None:
        exists.append(job)
        err.print(strong("run ", run.name, f" in {run.path}"))

    try:
        return policy.submit(wanted, cluster, started)
    except KeyboardInterrupt:
        if not exists or cluster.blocks:
            raise
        _interrupted(RunFolder(wanted.path), exists[0])
        raise typer.Exit(130) from None


def _interrupted(run: RunFolder, job: "JobRef") -> None:
    """Say what goes on after Ctrl-C, and what does not."""
    from cldctl.hints import command
    from cldctl.runs.requests import without_jobs

    cancel = command(f"cancel {run.name}", run)
    text = f"interrupted; {run.name} is submitted as job {job.job_id} and goes on (`{cancel}` ends it)"
    err.print(text, markup=False)
    if (missing := without_jobs(run)) is not None:
        err.print(missing, markup=False)


def _estimate(path: Path, recipe: "Recipe", start: "Callable[[], float | None]") -> None:
    """Say how long it will take, and when it begins, as far as this is known."""
    from cldctl.runs.estimate import estimate
    from cldctl.show.usage import estimate_line

    line = estimate_line(estimate(path.parent, recipe, without=path.name), start())
    err.print(line, markup=False)


def _preview(run: RunFolder, recipe: "Recipe", cluster: "Cluster", spec: "JobSpec", metrics: tuple[str, ...]) -> None:
    """What would be written and submitted."""
    from cld_core.evaluation import registry
    from cld_core.recipe import dump
    from cld_core.run.events import JobRef
    from cldctl.clusters.records import After
    from cldctl.jobs import specs
    from cldctl.runs.submit import following

    def show(text: str) -> None:
        out.print(text, markup=False, no_wrap=True)

    show(f"# run: {run.path}\n{dump(recipe)}")
    show(cluster.script(spec))
    if not metrics:
        return
    after = After((JobRef(cluster=cluster.name, job_id="JOB_OF_THE_TRAINING"),))

    def show_evaluation(name: str, shards: int, about: str) -> None:
        show(f"# evaluation {name}: {about}, after the training")
        spec = specs.sharded([run.evals / name], recipe.cluster, cluster, run=run, after=after)
        show(cluster.script(spec, shards))

    try:
        request = following(recipe, metrics)
    except CldError:
        # What it lacks is said last, where it is seen; its job would be the same.
        show_evaluation("ID_OF_THE_EVALUATION", recipe.cluster.world_size, "it cannot be submitted as it is")
        raise
    assert request is not None, "there are metrics"
    counts = dict.fromkeys(f"{size:,} {registry.ROWS[kind].over}" for kind, size in request.sizes.items())
    shards = f"{request.shards} shard{'' if request.shards == 1 else 's'}"
    show_evaluation(request.id, request.shards, f"{' and '.join(counts)} in {shards}")


def finish(begun: "Begun", follow: bool) -> None:
    """Print what was started and what to type next; stay with it if asked to."""
    run, cluster = begun.run, begun.cluster
    # On a terminal, its name has just been said.
    if not (out.is_terminal and shows_bars()):
        out.print(run.name, markup=False)
    if not cluster.blocks:
        tell_left_out(run)
        err.print(f"job {begun.job.job_id} ({cluster.name})")
        for name in begun.evaluations:
            err.print(f"then evaluation {name}", markup=False)
        for text in begun.said:
            err.print(text, markup=False)
    if follow or cluster.blocks:
        from cldctl.show.follow import follow_run

        raise typer.Exit(follow_run(run, begun.evaluations))
    from cldctl.hints import command

    err.print("next:")
    for text in (f"status {run.name}", f"logs {run.name} -f", f"cancel {run.name}"):
        err.print(f"  {command(text, run)}", markup=False)
