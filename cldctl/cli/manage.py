"""`cldctl note`, `rm` and `prune`: notes about runs, and room on the disk."""

from pathlib import Path

from rich.filesize import decimal
from typer import Argument, Option

from cld_core.errors import UsageError
from cldctl.show.console import Working, age, err

from . import options


def note(
    name: str = Argument(
        ..., metavar="RUN | GROUP", help="A run's name or folder, or all runs of a group."
    ),
    text: str | None = Argument(None, metavar="TEXT", help="Replaces the note; '' removes it."),
    tags: list[str] | None = Option(
        None, "--tag", metavar="TAG", help="Add a word to find the run by; may be repeated."
    ),
    untag: list[str] | None = Option(None, metavar="TAG", help="Remove a tag."),
    root: Path = options.RUNS_DIR,
) -> None:
    """Write a note about a run, or give it tags. `cldctl status RUN` shows them.

    Example: cldctl note toy-0102-101112-ab12 "the baseline of the paper" --tag baseline
    """
    from cldctl.runs.selection import label

    if text is None and not tags and not untag:
        raise UsageError("nothing to note: write a text, or use --tag or --untag.")
    for run in options.runs_of(options.find_all([name], root)):
        label(run, text, tags or (), untag or ())
        history = run.ledger.history()
        shown = ", ".join(history.tags) or "none"
        err.print(f"{run.name}: {history.note or 'no note'}; tags: {shown}")


def rm(
    names: list[str] = options.RUNS, yes: bool = options.YES, root: Path = options.RUNS_DIR
) -> None:
    """Remove runs for good: checkpoints, evaluations, logs. Asks first; refuses living runs.

    Example: cldctl rm toy-0102-101112-ab12
    """
    from cldctl.runs import removal

    chosen = options.runs_of(options.find_all(names, root, whole=yes, damaged=True))
    for folder in {run.path.parent for run in chosen}:
        removal.clear_left(folder)
    with Working("looking at what is to be removed"):
        removals = removal.plan(chosen)
    for entry in removals:
        row = entry.status
        if not row.is_readable:
            err.print(f"{row.name}: {decimal(entry.size)}; {row.reason}")
            continue
        evals = f"{len(row.evals)} evaluation{'' if len(row.evals) == 1 else 's'}"
        changed = age(row.last_change)
        err.print(f"{row.name}: {row.state}, {decimal(entry.size)}, {evals}, last change {changed}")
    subject = removals[0].run.name if len(removals) == 1 else f"{len(removals)} runs"
    total = decimal(sum(entry.size for entry in removals))
    options.agree(f"Remove {subject}, {total}, for good?", "rm", yes)
    for entry in removals:
        with Working(f"removing {entry.run.name}"):
            removal.remove(entry)
        err.print(f"removed {entry.run.name}")


def prune(
    names: list[str] = options.RUNS,
    keep_every: int | None = Option(
        None, metavar="STEPS", min=1, help="Keep those of every so many steps, too."
    ),
    averages: bool = Option(
        False, help="Snapshots of averages, too: then only lengths of train.ema_lengths are left."
    ),
    dry_run: bool = Option(False, help="Only say what would be removed."),
    yes: bool = options.YES,
    root: Path = options.RUNS_DIR,
) -> None:
    """Remove checkpoints of ended runs, except the last intact, milestones and evaluated ones.

    Rows of evaluations are removed, too, a day after the last evaluation that names them is gone.
    Example: cldctl prune toy-0102-101112-ab12 --keep-every 100000
    """
    from cldctl.runs import removal

    chosen = options.runs_of(options.find_all(names, root, whole=yes or dry_run))
    with Working("verifying the checkpoints that stay"):
        prunings = removal.plan_pruning(chosen, keep_every, averages)
    removed_paths: list[Path] = []
    for entry in prunings:
        kept = ", ".join(f"{step} ({why})" for step, why in entry.keep.items()) or "none"
        removed = []
        for words, paths in entry.parts.items():
            removed.append(f"removes {words}, {decimal(removal.size_of(paths))}")
            removed_paths += paths
        changes = "; ".join(removed) or "nothing to remove"
        err.print(f"{entry.run.name}: {changes}; keeps {kept}")
    if dry_run or not removed_paths:
        return
    total = decimal(removal.size_of(removed_paths))
    options.agree(f"Remove all of this, {total}?", "prune", yes)
    for entry in prunings:
        removal.prune(entry)
    err.print(f"removed {total}")
