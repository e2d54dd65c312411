"""`cldctl status`: what the runs are doing."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.errors import UsageError
from cld_core.run import RunFolder
from cldctl.show.console import err, out

from . import completing
from .options import (
    GroupFilter,
    RunsDir,
    Since,
    StateFilter,
    TagFilter,
    UserFilter,
    find_runs_or_group,
    group_named,
    runs_dir,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cldctl.runs.index import Index
    from cldctl.runs.selection import Selection
    from cldctl.runs.status import RunStatus

# More rows than this are written as JSON a line each: indenting them takes longer than everything else.
_MANY = 50


def status(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN | GROUP", help="Names; default: all recent runs.", autocompletion=completing.runs),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Include runs that ended over a week ago; show all rows.")
    ] = False,
    state: StateFilter = None,
    since: Since = None,
    tags: TagFilter = None,
    user: UserFilter = None,
    group: GroupFilter = None,
    sort: Annotated[
        str,
        typer.Option(
            metavar="KEY",
            help="name, created, updated, step, loss or state; the last rows are shown.",
            autocompletion=completing.sorts,
        ),
    ] = "created",
    reverse: Annotated[bool, typer.Option("--reverse", help="Reverse the order.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Read every run again, also those that are over.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="On a terminal: show again every second.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    directory: RunsDir = None,
) -> None:
    """Show runs: state, progress, rate, loss, checkpoints, attempts, evaluations.

    Example: cldctl status --state RUNNING,FAILED --since 7d --sort loss
    """
    from cldctl.runs import selection
    from cldctl.runs.index import Index

    if watch and as_json:
        raise UsageError("--watch does not go with --json, which prints one document. Run it again in a loop.")
    if watch and not out.is_terminal:
        raise UsageError("--watch redraws a terminal, and stdout is not one. Leave it out, or run `status` in a loop.")
    root = runs_dir(directory)
    which = selection.selection(state, since, tags or (), user, group)
    selection.in_order([], sort)
    groups = [found.name for name in runs or [] if (found := group_named(name, root)) is not None]
    chosen = find_runs_or_group(runs or [], root)
    asked = _Asked(Index(root, fresh=fresh), chosen, groups, which, everything, sort, reverse)
    if watch:
        _watch(asked)
    _show(asked, as_json)


@dataclass
class _Asked:
    """Which runs are shown, and in which order.

    Attributes:
        groups: those whose runs are among ``chosen`` because somebody named the group.
    """

    index: "Index"
    chosen: list[RunFolder]
    groups: list[str]
    which: "Selection"
    everything: bool
    sort: str
    reverse: bool

    def rows(self) -> "_Shown":
        """The rows to show now."""
        from cldctl.runs import selection, survey
        from cldctl.runs.status import named_status

        closed: dict[str, str] = {}
        if self.chosen:
            answers = survey.of_runs(self.chosen, max_age_s=survey.TO_LOOK_S)
            rows = [named_status(run, answers) for run in self.chosen]
        else:
            found = self.index.look(max_age_s=survey.TO_LOOK_S)
            rows, answers, closed = found.rows, found.answers, found.closed
        rows = self.which.of(rows)
        recent = rows
        if not self.chosen and not self.everything and self.which.is_empty:
            since = time.time() - selection.RECENT_S
            recent = [row for row in rows if selection.is_since(row, since)]
        if not self.chosen or self.sort != "created":
            recent = selection.in_order(recent, self.sort, reverse=self.reverse)
        return _Shown(recent, len(rows) - len(recent), answers.remark, closed)

    def view(self, rows: "list[RunStatus]", *, fits: bool) -> "RenderableType":
        """How rows are shown.

        Args:
            fits: leave out what the terminal has no lines for.
        """
        from cldctl.show.runs import details_with_groups, overview_with_groups

        height = out.height if fits else None
        if self.chosen:
            return details_with_groups(rows, self.groups, height)
        is_sorted = self.sort != "created"
        # Who asks for certain runs, or for their order, wants to see these runs.
        is_grouped = out.is_terminal and not self.everything and self.which.is_empty and not is_sorted
        return overview_with_groups(rows, height, is_grouped=is_grouped, is_sorted=is_sorted)


@dataclass(frozen=True)
class _Shown:
    """The rows, how many more ended long ago, a remark on the clusters' answers, and folders that cannot be seen."""

    rows: "list[RunStatus]"
    older: int
    remark: str | None
    closed: dict[str, str]


def _watch(asked: _Asked) -> None:
    from rich.live import Live

    with Live(asked.view(asked.rows().rows, fits=True), console=out, auto_refresh=False) as live:
        while True:
            time.sleep(1.0)
            live.update(asked.view(asked.rows().rows, fits=True), refresh=True)


def _show(asked: _Asked, as_json: bool) -> None:
    shown = asked.rows()
    rows = shown.rows
    if shown.remark is not None:
        err.print(shown.remark, style="yellow", markup=False)
    if as_json:
        typer.echo(_document(rows))
        return
    for name, reason in shown.closed.items():
        err.print(f"{name}: {reason}", style="dim", markup=False)
    if not rows:
        err.print(_nothing(asked, shown.older), markup=False)
        return
    out.print(asked.view(rows, fits=out.is_terminal and not asked.everything and not asked.chosen))
    if asked.chosen:
        return
    if shown.older:
        err.print(f"{shown.older:,} that ended over a week ago: --all", style="dim")
    for row in rows:
        if not row.is_readable:
            err.print(f"{row.name}: {row.reason}", style="yellow", markup=False)


def _nothing(asked: _Asked, older: int) -> str:
    """Why there are no rows, and what to do."""
    root: Path = asked.index.root
    if not asked.which.is_empty:
        return f"no run in {root} matches these filters. `cldctl status --all` shows every run."
    if older:
        return f"no recent runs in {root}; {older:,} ended over a week ago. `cldctl status --all` shows them."
    return f"no runs in {root}. Start one: cldctl submit toy_demo"


def _document(rows: "Sequence[RunStatus]") -> str:
    if len(rows) <= _MANY:
        return json.dumps([row.to_dict() for row in rows], indent=1)
    return "[\n" + ",\n".join(json.dumps(row.to_dict()) for row in rows) + "\n]"
