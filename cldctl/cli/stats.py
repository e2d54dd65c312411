"""`cldctl data stats`: the statistics of a training set, which FID and other metrics compare samples with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.errors import RecipeError
from cldctl.show.console import err, out
from cldctl.show.progress import Working

from . import completing
from .options import ClusterOption, Follow, Overrides, RunsDir, Shards, check_output, runs_dir

if TYPE_CHECKING:
    from cld_core.recipe import Recipe


def stats(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE | RUN",
            help="Whose training images are meant.",
            autocompletion=completing.recipes_and_runs,
        ),
    ],
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.npz", help="Where to write; default: beside the images."),
    ] = None,
    features: Annotated[
        bool, typer.Option("--features", help="Keep the features, which --kid and --prc need.")
    ] = False,
    shards: Shards = None,
    cluster: ClusterOption = None,
    follow: Follow = False,
    directory: RunsDir = None,
) -> None:
    """Compute the statistics of a training set. Running it again continues where it stopped.

    The recipe's eval.fid section selects the extractor and its weights. Evaluations find the file automatically.

    Example: cldctl data stats cifar10 --shards 8 --follow eval.fid.weights=weights-inception-2015-12-05-6726825d.pth
    """
    from cld_core.evaluation.stats_work import Statistics, StatsRequest
    from cldctl.runs import home, sharded
    from cldctl.show.follow import follow_statistics

    check_output(output, (".npz",), "statistics are")
    where = home.chosen(cluster)
    recipe = _recipe(name, overrides or [], runs_dir(directory))
    with Working(f"looking at the training images of {recipe.data.name}"):
        request = StatsRequest.of(recipe, output, features=features, shards=shards or recipe.cluster.world_size)
    if shards is not None and request.shards < shards:
        err.print(f"--shards {shards}: {request.shards} shards instead, one for each image")
    job = sharded.start_statistics(request, where, recipe.cluster, say=lambda text: err.print(text))
    if job is not None:
        err.print(f"statistics of {request.images:,} images, job {job.job_id} ({where.name})")
    elif request.is_done:
        err.print("these statistics exist already")
        sharded.clear(request.folder)
        out.print(request.output, markup=False, no_wrap=True)
        return
    else:
        err.print("these statistics are already being computed")
    if follow or where.blocks:
        raise typer.Exit(follow_statistics(Statistics(request.folder)))
    out.print(request.output, markup=False, no_wrap=True)
    logs = request.folder / "logs" if job is None else job.logs
    err.print(f"logs: {logs}; run it again with --follow to watch")


def _recipe(name: str, overrides: list[str], runs: Path) -> "Recipe":
    """The recipe of a run of this name, or of a recipe."""
    from cld_core.recipe import load, with_overrides
    from cld_core.run import RunFolder
    from cld_core.run.lookup import meant
    from cldctl.lookup import find_recipe

    run = meant(name, runs)
    if run.exists:
        run = RunFolder.open(run.path)
        return with_overrides(run.recipe(), overrides, str(run.recipe_file))
    try:
        file = find_recipe(name)
    except RecipeError as error:
        raise RecipeError(f"{error} Nor is there such a run in {runs.absolute()}.") from error
    return load(file, overrides)
