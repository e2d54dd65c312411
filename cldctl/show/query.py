"""The runs that `cldctl status` shows: chosen by name, by a filter, or the recent ones; as tables, once or again."""

import time
from dataclasses import dataclass

from rich.console import RenderableType

from cld_core.run import RunFolder
from cldctl.runs import selection, survey
from cldctl.runs.index import Index
from cldctl.runs.selection import Selection
from cldctl.runs.status import RunStatus, named_status

from .console import err, out
from .runs import details_with_groups, overview_with_groups


@dataclass
class Query:
    """Which runs are shown, and in which order.

    Attributes:
        groups: those whose runs are among ``chosen`` because somebody named the group.
    """

    index: Index
    chosen: list[RunFolder]
    groups: list[str]
    which: Selection
    everything: bool
    sort: str
    reverse: bool

    def rows(self) -> "Found":
        """The rows to show now."""
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
            recent = selection.recent(rows)
        if not self.chosen or self.sort != "created":
            recent = selection.in_order(recent, self.sort, reverse=self.reverse)
        return Found(recent, len(rows) - len(recent), answers.remark, closed)

    def view(self, rows: list[RunStatus], *, fits: bool) -> RenderableType:
        """How rows are shown.

        Args:
            fits: leave out what the terminal has no lines for.
        """
        height = out.height if fits else None
        if self.chosen:
            return details_with_groups(rows, self.groups, height)
        is_sorted = self.sort != "created"
        # Who asks for certain runs, or for their order, wants to see these runs.
        is_grouped = out.is_terminal and not self.everything and self.which.is_empty and not is_sorted
        return overview_with_groups(rows, height, is_grouped=is_grouped, is_sorted=is_sorted)


@dataclass(frozen=True)
class Found:
    """The rows, how many more ended long ago, a remark on the clusters' answers, and folders that cannot be seen."""

    rows: list[RunStatus]
    older: int
    remark: str | None
    closed: dict[str, str]


def watch(query: Query) -> None:
    """Show runs on a terminal, again every second, until it is interrupted."""
    # Most commands show nothing that moves.
    from rich.live import Live

    with Live(query.view(query.rows().rows, fits=True), console=out, auto_refresh=False) as live:
        while True:
            time.sleep(1.0)
            live.update(query.view(query.rows().rows, fits=True), refresh=True)


def show(query: Query) -> None:
    """Print runs, or why there are none."""

    found = query.rows()
    if found.remark is not None:
        err.print(found.remark, style="yellow", markup=False)
    for name, reason in found.closed.items():
        err.print(f"{name}: {reason}", style="dim", markup=False)
    if not found.rows:
        err.print(_nothing(query, found.older), markup=False)
        return
    out.print(query.view(found.rows, fits=out.is_terminal and not query.everything and not query.chosen))
    if query.chosen:
        return
    if found.older:
        err.print(f"{found.older:,} that ended over a week ago: --all", style="dim")
    for row in found.rows:
        if not row.is_readable:
            err.print(f"{row.name}: {row.reason}", style="yellow", markup=False)


def _nothing(query: Query, older: int) -> str:
    """Why there are no rows, and what to do."""
    root = query.index.root
    if not query.which.is_empty:
        return f"no run in {root} matches these filters. `cldctl status --all` shows every run."
    if older:
        return f"no recent runs in {root}; {older:,} ended over a week ago. `cldctl status --all` shows them."
    return f"no runs in {root}. Start one: cldctl submit toy_demo"
