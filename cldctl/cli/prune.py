"""`cldctl prune`: remove checkpoints that are no longer needed."""

from typing import TYPE_CHECKING, Annotated

import typer

from cldctl.show.console import err
from cldctl.show.progress import Working

from . import completing
from .options import RunsDir, Yes, agreed, find_runs_to_change, runs_dir

if TYPE_CHECKING:
    from cldctl.runs.pruning import Pruning


def prune(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN | GROUP", help="Names or folders of runs.", autocompletion=completing.runs),
    ],
    keep_every: Annotated[
        int | None, typer.Option("--keep-every", metavar="STEPS", min=1, help="Keep those of every so many steps, too.")
    ] = None,
    averages: Annotated[
        bool,
        typer.Option("--averages", help="Snapshots of averages, too: then only lengths of train.ema_lengths are left."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    yes: Yes = False,
    directory: RunsDir = None,
) -> None:
    """Remove checkpoints of runs that have ended, except the last intact one, milestones and evaluated ones.

    Example: cldctl prune toy-0102-101112-ab12 --keep-every 100000
    """
    from cldctl.runs import pruning
    from cldctl.show.format import size

    chosen = find_runs_to_change(runs, runs_dir(directory), yes or dry_run)
    with Working("verifying the checkpoints that stay"):
        prunings = pruning.plan(chosen, keep_every, averages)
    for entry in prunings:
        err.print(_description(entry), markup=False)
    count, files = sum(len(entry.remove) for entry in prunings), sum(len(entry.averages) for entry in prunings)
    if not (count or files) or dry_run:
        return
    total = size(sum(entry.size + entry.size_of_averages for entry in prunings))
    what = f"{count} checkpoint{'' if count == 1 else 's'}" + (" and snapshots of averages" if files else "")
    if not yes and not agreed(f"Remove {what}, {total}?", "prune"):
        err.print("nothing was removed")
        raise typer.Exit(0)
    for entry in prunings:
        pruning.prune(entry)
    err.print(f"removed {total}")


def _description(pruning: "Pruning") -> str:
    from cldctl.show.format import size

    kept = ", ".join(f"{step} ({why})" for step, why in pruning.keep.items()) or "none"
    removed = []
    if pruning.remove:
        removed.append(f"removes steps {', '.join(map(str, pruning.remove))}, {size(pruning.size)}")
    if pruning.averages:
        removed.append(f"removes all snapshots of averages, {size(pruning.size_of_averages)}")
    if not removed:
        return f"{pruning.run.name}: nothing to remove; kept: {kept}"
    return f"{pruning.run.name}: {'; '.join(removed)}; keeps {kept}"
