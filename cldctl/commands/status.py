"""`cldctl status`: what the runs are doing."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.run import RunFolder, find_runs
from cld_core.run.folder import unreadable_under
from cldctl.ui.console import err, out

from .options import RunsDir, find_run, runs_dir

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cldctl.runs.status import RunStatus

# Runs that ended longer ago are shown with --all only.
RECENT_S = 7 * 24 * 3600


def status(
    runs: Annotated[list[str] | None, typer.Argument(metavar="RUN", help="Names; default: all recent runs.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also runs that ended over a week ago.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show again every second, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    directory: RunsDir = None,
) -> None:
    """Show runs: state, progress, rate, loss, checkpoints, attempts, evaluations.

    Example: cldctl status --watch
    """
    from cldctl.ui.details import details
    from cldctl.ui.tables import newest_that_fit, overview

    root = runs_dir(directory)
    chosen = [find_run(name, root) for name in runs or []]
    rows, problem = _rows(chosen, root, everything)
    if problem is not None:
        err.print(problem, style="yellow", markup=False, soft_wrap=True)
    if as_json:
        typer.echo(json.dumps([row.to_dict() for row in rows], indent=1))
        return
    if watch and out.is_terminal:
        from rich.live import Live

        def shown() -> "RenderableType":
            rows, _ = _rows(chosen, root, everything)
            return details(rows) if chosen else newest_that_fit(rows, out.height)

        with Live(shown(), console=out, auto_refresh=False) as live:
            while True:
                time.sleep(1.0)
                live.update(shown(), refresh=True)
    closed = [] if chosen else unreadable_under(root)
    for folder in closed:
        err.print(f"{folder.name}: {folder.unreadable}", style="dim", markup=False, soft_wrap=True)
    if not rows:
        err.print(f"no runs in {root.absolute()}. Start one: cldctl submit recipes/toy.yaml")
        return
    out.print(details(rows) if chosen else overview(rows))
    for row in () if chosen else rows:
        if not row.is_readable:
            err.print(f"{row.name}: {row.reason}", style="yellow", markup=False, soft_wrap=True)


def _rows(chosen: list[RunFolder], root: Path, everything: bool) -> "tuple[list[RunStatus], str | None]":
    """The status of the chosen runs, or of all recent ones, and which clusters could not be asked."""
    from cldctl.runs import survey
    from cldctl.runs.state import OVER
    from cldctl.runs.status import status_or_reason

    runs = chosen or find_runs(root)
    answers = survey.of_runs(runs, max_age_s=survey.TO_LOOK_S)
    rows = [status_or_reason(run, answers) for run in runs]
    if not chosen and not everything:
        since = time.time() - RECENT_S
        rows = [row for row in rows if row.state not in OVER or row.heard_of is None or row.heard_of > since]
    return rows, answers.problem
