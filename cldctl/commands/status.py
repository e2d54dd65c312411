"""`cldctl status`: what the runs are doing."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.run import RunFolder, find_runs
from cld_core.run.folder import unreadable_under
from cldctl.ui.console import err, out

from .options import RunsDir, find_runs_or_group, group_named, runs_dir

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cldctl.runs.status import RunStatus

# Runs that ended longer ago are shown with --all only.
RECENT_S = 7 * 24 * 3600
# With --watch, answers of the clusters are used again for this many seconds.
_WATCHED_S = 3.0


def status(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN | GROUP", help="Names; default: all recent runs.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also runs that ended over a week ago, and all of a group.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show again every second, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    directory: RunsDir = None,
) -> None:
    """Show runs: state, progress, rate, loss, checkpoints, attempts, evaluations.

    Example: cldctl status --watch
    """
    from cldctl.ui.groups import details_with_groups, overview_with_groups
    from cldctl.ui.tables import newest_that_fit, overview

    root = runs_dir(directory)
    groups = [group.name for name in runs or [] if (group := group_named(name, root)) is not None]
    chosen = find_runs_or_group(runs or [], root)
    rows, problem = _rows(chosen, root, everything)
    if problem is not None:
        err.print(problem, style="yellow", markup=False, soft_wrap=True)
    if as_json:
        typer.echo(json.dumps([row.to_dict() for row in rows], indent=1))
        return
    if watch and out.is_terminal:
        from rich.live import Live

        def shown() -> "RenderableType":
            rows, _ = _rows(chosen, root, everything, _WATCHED_S)
            return details_with_groups(rows, groups) if chosen else newest_that_fit(rows, out.height)

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
    if chosen:
        out.print(details_with_groups(rows, groups))
    else:
        out.print(overview(rows) if everything else overview_with_groups(rows))
    for row in () if chosen else rows:
        if not row.is_readable:
            err.print(f"{row.name}: {row.reason}", style="yellow", markup=False, soft_wrap=True)


def _rows(
    chosen: list[RunFolder], root: Path, everything: bool, max_age_s: float = 0.0
) -> "tuple[list[RunStatus], str | None]":
    """The status of the chosen runs, or of all recent ones, and which clusters could not be asked."""
    from cldctl.runs import survey
    from cldctl.runs.state import OVER
    from cldctl.runs.status import status_or_reason

    runs = chosen or find_runs(root)
    answers = survey.of_runs(runs, max_age_s=max_age_s)
    rows = [status_or_reason(run, answers) for run in runs]
    if not chosen and not everything:
        since = time.time() - RECENT_S
        rows = [row for row in rows if row.state not in OVER or row.heard_of is None or row.heard_of > since]
    return rows, answers.problem
