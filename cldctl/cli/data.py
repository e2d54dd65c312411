"""`cldctl data`: preparing data sets, and the statistics that samples are compared with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cldctl.show.console import err, out
from cldctl.show.progress import Working

from . import completing, helping
from .stats import stats

if TYPE_CHECKING:
    from cld_core.data.prepare import Progress as Reached

app = typer.Typer(cls=helping.Group, help="Prepare image data.", no_args_is_help=True)
app.command(cls=helping.Command)(stats)


@app.command(cls=helping.Command)
def prepare(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="cifar10, celebahq256 or folder.", autocompletion=completing.data_sets)
    ],
    source: Annotated[Path, typer.Option(help="The archive, folder or zip file that holds the data.")],
    output: Annotated[Path, typer.Option("--out", help="Folder to make; a recipe's data.path.")],
    size: Annotated[int | None, typer.Option(min=1, help="Pixels of a side; for folder only.")] = None,
    split: Annotated[float | None, typer.Option(help="Share kept for validation; for folder only.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch CIFAR-10's archive into --source first.")] = False,
    any_count: Annotated[bool, typer.Option("--any-count", help="Accept another number of images.")] = False,
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
    out.print(str(output), markup=False, no_wrap=True)


@app.command(cls=helping.Command)
def verify(path: Annotated[Path, typer.Argument(help="A folder that `prepare` made.")]) -> None:
    """Read every image of a prepared data set and compare counts and checksums with its manifest.

    Example: cldctl data verify data/cifar10
    """
    from cld_core.data.prepare import verify

    with Working(f"verifying {path.name}") as working:
        manifest = verify(path, lambda read, total: working.at(read, total, "images"))
    total = sum(info.count for info in manifest.splits.values())
    out.print(f"{path}: {total:,} images are as they were prepared", markup=False, no_wrap=True)
