"""`cldctl note`: a note about the purpose of a run, and tags to find it by."""

from typing import Annotated

import typer

from cld_core.errors import UsageError
from cldctl.show.console import err

from . import completing
from .options import RunsDir, find_runs_or_group, runs_dir


def note(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RUN | GROUP",
            help="A run's name or folder, or all runs of a group.",
            autocompletion=completing.runs,
        ),
    ],
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="Replaces the note; '' removes it.")] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="Add a word to find the run by; may be repeated.")
    ] = None,
    untag: Annotated[list[str] | None, typer.Option("--untag", metavar="TAG", help="Remove a tag.")] = None,
    directory: RunsDir = None,
) -> None:
    """Write a note about a run, or give it tags; `cldctl status RUN` shows both, the table of runs only tags.

    Example: cldctl note toy-0102-101112-ab12 "the baseline of the paper" --tag baseline
    """
    from cldctl.runs.labels import label

    if text is None and not tags and not untag:
        raise UsageError("nothing to note: write a text, or use --tag or --untag.")
    for run in find_runs_or_group([name], runs_dir(directory)):
        label(run, text, tags or (), untag or ())
        history = run.ledger.history()
        shown = ", ".join(history.tags) or "none"
        err.print(f"{run.name}: {history.note or 'no note'}; tags: {shown}", markup=False)
