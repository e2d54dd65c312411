"""`cldctl data stats`: the statistics of a training set, which FID and its kin compare samples with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.errors import RecipeError, UsageError
from cldctl.ui.console import err, out

from .options import ClusterOption, Follow, Overrides, RunsDir, chosen_cluster, runs_dir

if TYPE_CHECKING:
    from cld_core.recipe import Recipe


def stats(
    name: Annotated[str, typer.Argument(metavar="RECIPE|RUN", help="Whose training images are meant.")],
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("-o", metavar="FILE.npz", help="Where to; default: beside the images.")
    ] = None,
    features: Annotated[
        bool, typer.Option("--features", help="Keep the features, which --kid and --prc need.")
    ] = False,
    shards: Annotated[int | None, typer.Option(min=1, help="Pieces; default: one a process.")] = None,
    cluster: ClusterOption = None,
    follow: Follow = False,
    directory: RunsDir = None,
) -> None:
    """Compute the statistics of a training set. Typed again it goes on where it stopped.

    Which extractor and weights: the recipe's eval.fid section. Evaluations find the file by themselves.

    Example: cldctl data stats cifar10 --shards 8 --follow eval.fid.weights=weights-inception-2015-12-05-6726825d.pth
    """
    from cld_core.evaluation.stats_request import StatsRequest
    from cldctl.cluster import launch
    from cldctl.ui.follow_stats import follow_stats, is_alive

    if output is not None and output.suffix != ".npz":
        raise UsageError(f"-o {output}: statistics are written as .npz. End the name in it.")
    where = chosen_cluster(cluster)
    launch.refuse_slurm_without_it(where)
    recipe = _recipe(name, overrides or [], runs_dir(directory))
    pieces = shards or recipe.cluster.world_size
    request = StatsRequest.of(recipe, output, features=features, shards=pieces)
    if request.is_done:
        err.print("these statistics are there already")
    elif is_alive(request.folder):
        err.print("these statistics are being computed already")
    else:
        request = request.save()
        job = launch.statistics(request.folder, request.missing(), where, recipe.cluster)
        err.print(f"statistics of {request.images:,} images, job {job.job_id} ({where})", soft_wrap=True)
    if follow or where == "debug" or request.is_done:
        raise typer.Exit(follow_stats(request))
    out.print(request.output, markup=False, soft_wrap=True)
    err.print(f"logs: {request.folder / 'logs'}; typed again with --follow: stays with it", soft_wrap=True)


def _recipe(name: str, overrides: list[str], runs: Path) -> "Recipe":
    from cld_core.recipe import load, with_overrides
    from cld_core.recipe.plugin import with_paths
    from cld_core.run import RunFolder

    from .recipes import find_recipe

    run = RunFolder(name if "/" in name else runs / name)
    if run.identity_file.is_file():
        return with_overrides(run.recipe(), with_paths(overrides), str(run.recipe_file))
    try:
        file = find_recipe(name)
    except RecipeError as error:
        raise RecipeError(f"{error} Nor is it a run in {runs.absolute()}.") from error
    return load(file, overrides).anchored(Path.cwd())
