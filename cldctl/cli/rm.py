"""`cldctl rm`: remove runs for good."""

from typing import TYPE_CHECKING, Annotated

import typer

from cldctl.show.console import err
from cldctl.show.progress import Working

from . import completing
from .options import RunsDir, Yes, agreed, find_runs_to_change, runs_dir

if TYPE_CHECKING:
    from cldctl.runs.removal import Removal


def rm(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN | GROUP", help="Names or folders of runs.", autocompletion=completing.runs),
    ],
    yes: Yes = False,
    directory: RunsDir = None,
) -> None:
    """Remove runs for good: checkpoints, evaluations, logs. It asks first, and refuses runs that are alive.

    Example: cldctl rm toy-0102-101112-ab12
    """
    from cldctl.runs import removal
    from cldctl.show.format import size

    root = runs_dir(directory)
    chosen = find_runs_to_change(runs, root, yes, damaged=True)
    for folder in {run.path.parent for run in chosen}:
        removal.clear_left(folder)
    with Working("looking at what is to be removed"):
        removals = removal.plan(chosen)
    for entry in removals:
        err.print(_description(entry), markup=False)
    total = size(sum(entry.size for entry in removals))
    what = removals[0].run.name if len(removals) == 1 else f"{len(removals)} runs"
    if not yes and not agreed(f"Remove {what}, {total}, for good?", "rm"):
        err.print("nothing was removed")
        raise typer.Exit(0)
    for entry in removals:
        with Working(f"removing {entry.run.name}"):
            removal.remove(entry)
        err.print(f"removed {entry.run.name}", markup=False)


def _description(removal: "Removal") -> str:
    from cldctl.show.format import age, size

    row = removal.status
    evals = f"{len(row.evals)} evaluation{'' if len(row.evals) == 1 else 's'}"
    if not row.is_readable:
        return f"{row.name}: {size(removal.size)}; {row.reason}"
    return f"{row.name}: {row.state}, {size(removal.size)}, {evals}, last change {age(row.heard_of)}"
