"""`cldctl data`: preparing data sets, and the statistics that samples are compared with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cldctl.show.console import err, out
from cldctl.show.progress import Working

from . import options

if TYPE_CHECKING:
    from cld_core.data.prepare import Progress as Reached


def prepare(
    name: Annotated[str, typer.Argument(metavar="NAME", help="cifar10, celebahq256 or folder.")],
    source: Annotated[Path, typer.Option(help="The archive, folder or zip file that holds the data.")],
    output: Annotated[Path, typer.Option("--out", help="Folder to make; a recipe's data.path.")],
    size: Annotated[int | None, typer.Option(min=1, help="Pixels of a side; for folder only.")] = None,
    split: Annotated[float | None, typer.Option(help="Share kept for validation; for folder only.")] = None,
    download: Annotated[bool, typer.Option(help="Fetch CIFAR-10's archive into --source first.")] = False,
    any_count: Annotated[bool, typer.Option(help="Accept another number of images.")] = False,
) -> None:
    """Make a data set for training. Running it again continues where it stopped, and does nothing if it is done.

    cifar10: from cifar-10-python.tar.gz, or its folder. celebahq256: from GLOW's TFRecords, a folder or a .tar.
    folder: from any folder or zip of pictures, which are scaled and cut to squares. Folders in it are classes.

    Example: cldctl data prepare folder --source holiday.zip --size 64 --out data/holiday
    """
    from cld_core.data.prepare import prepare

    with Working(f"reading {source}") as working:

        def show(reached: "Reached") -> None:
            working.phase(f"{name}: {reached.split}")
            working.at(reached.images, reached.expected, f"images {reached.unit}")

        expect: dict[str, int] | None = {} if any_count else None
        manifest = prepare(
            name, source, output, progress=show, size=size, split=split, expect=expect, download=download
        )
    counts = ", ".join(f"{info.count:,} {split}" for split, info in manifest.splits.items())
    classes = f" in {len(manifest.classes)} classes" if manifest.classes else ""
    err.print(f"{manifest.name}: {counts} images of {manifest.size}x{manifest.size}{classes}")
    out.print(str(output), no_wrap=True)


def verify(path: Annotated[Path, typer.Argument(help="A folder that `prepare` made.")]) -> None:
    """Read every image of a prepared data set and compare counts and checksums with its manifest.

    Example: cldctl data verify data/cifar10
    """
    from cld_core.data.prepare import verify

    with Working(f"verifying {path.name}") as working:
        manifest = verify(path, lambda read, total: working.at(read, total, "images"))
    total = sum(info.count for info in manifest.splits.values())
    out.print(f"{path}: {total:,} images are as they were prepared", no_wrap=True)


def stats(
    name: Annotated[str, typer.Argument(metavar="RECIPE | RUN", help="Whose training images are meant.")],
    overrides: options.Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.npz", help="Where to write; default: beside the images."),
    ] = None,
    features: Annotated[bool, typer.Option(help="Keep the features, which --kid and --prc need.")] = False,
    shards: options.Shards = None,
    cluster: options.ClusterOption = None,
    follow: options.Follow = False,
    directory: options.RunsDir = None,
) -> None:
    """Compute the statistics of a training set. Running it again continues where it stopped.

    The recipe's eval.fid section selects the extractor and its weights. Evaluations find the file automatically.

    Example: cldctl data stats cifar10 --shards 8 --follow eval.fid.weights=weights-inception-2015-12-05-6726825d.pth
    """
    from cld_core.evaluation.stats_work import Statistics, StatsRequest
    from cldctl.lookup import recipe_or_run
    from cldctl.runs import home, sharded
    from cldctl.show.follow import follow_statistics

    options.check_output(output, (".npz",), "statistics are")
    where = home.chosen(cluster)
    recipe = recipe_or_run(name, overrides or [], options.runs_dir(directory))
    with Working(f"looking at the training images of {recipe.data.name}"):
        request = StatsRequest.of(recipe, output, features=features, shards=shards or recipe.cluster.world_size)
    if shards is not None and request.shards < shards:
        err.print(f"--shards {shards}: {request.shards} shards instead, one for each image")
    job = sharded.start_statistics(request, where, recipe.cluster, say=err.print)
    if job is not None:
        err.print(f"statistics of {request.images:,} images, job {job.job_id} ({where.name})")
    elif request.is_done:
        err.print("these statistics exist already")
        sharded.clear(request.folder)
        out.print(request.output, no_wrap=True)
        return
    else:
        err.print("these statistics are already being computed")
    if follow or where.blocks:
        raise typer.Exit(follow_statistics(Statistics(request.folder)))
    out.print(request.output, no_wrap=True)
    logs = request.folder / "logs" if job is None else job.logs
    err.print(f"logs: {logs}; run it again with --follow to watch")
