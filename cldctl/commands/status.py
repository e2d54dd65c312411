"""`cldctl status`: what the runs are doing."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cld_core.run import RunFolder, find_runs
from cldctl.cluster.state import OVER, Look, RunStatus, status_of
from cldctl.ui.console import err, out

from .options import RunsDir, find_run, runs_dir

if TYPE_CHECKING:
    from rich.console import RenderableType

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

    rows, problem = _collect(runs or [], everything, directory)
    if problem is not None:
        err.print(problem, style="yellow")
    if as_json:
        typer.echo(json.dumps([_document(row, old=problem is not None) for row in rows], indent=1))
        return
    view = details if runs else overview
    if watch and out.is_terminal:
        from rich.live import Live

        def shown() -> "RenderableType":
            rows, problem = _collect(runs or [], everything, directory)
            old = problem is not None
            return view(rows, old=old) if runs else newest_that_fit(rows, out.height, old=old)

        with Live(shown(), console=out, auto_refresh=False) as live:
            while True:
                time.sleep(1.0)
                live.update(shown(), refresh=True)
    if not rows:
        err.print(f"no runs in {runs_dir(directory).absolute()}. Start one: cldctl submit recipes/toy.yaml")
        return
    out.print(view(rows, old=problem is not None))


def _collect(names: list[str], everything: bool, directory: Path | None) -> tuple[list[RunStatus], str | None]:
    """The rows, and what could not be asked."""
    from cldctl.cluster.launch import look_at

    root = runs_dir(directory)
    runs = [find_run(name, root) for name in names] if names else find_runs(root)
    look, problem = look_at(runs)
    rows = [_row(run, look) for run in runs]
    now = time.time()
    recent = [
        row
        for row in rows
        if names or everything or row.state not in OVER or now - (row.updated or row.created or now) < RECENT_S
    ]
    return recent, problem


def _document(row: RunStatus, *, old: bool) -> dict[str, Any]:
    """A row of ``--json``; ``as_of``: when it was last heard of, where the cluster could not be asked."""
    stale = old and row.cluster == "slurm"
    return {**row.to_dict(), "as_of": (row.updated or row.created) if stale else None}


def _row(run: RunFolder, look: Look) -> RunStatus:
    """The status of a run; of one whose files cannot be read, just that, so that it spoils itself alone."""
    try:
        return status_of(run, look)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return RunStatus.unreadable(run, f"its files cannot be read: {error}")
