"""Views of runs: the tables and details of `cldctl status`, and the answer of `cldctl why`."""

import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group as Lines
from rich.console import RenderableType, group
from rich.live import Live
from rich.text import Text

from cld_core.run import RunFolder
from cld_core.run.state import ALIVE, STATES
from cld_core.sanitize import one_line
from cldctl.clusters.base import HELD
from cldctl.runs import selection, survey
from cldctl.runs.index import Index, RunListing
from cldctl.runs.selection import command
from cldctl.runs.status import WAITING, RunStatus, named_status

from .console import age, count, duration, err, number, out, short, state_text
from .tables import (
    MANY,
    Cell,
    TextTable,
    attempts,
    columns_of,
    counts_of,
    facts,
    numbers_of,
    progress_bar,
    result_columns,
    short_keys,
    usage_line,
)

if TYPE_CHECKING:
    from cldctl.runs.logs import FirstFailure
    from cldctl.runs.why import Why

# `why` shows so many of the newest attempts, of the last lines of a log, and of the newest
# evaluations and tunings, so that its answer fits on a screen.
_MOST_ATTEMPTS = 4
_MOST_LINES = 6
_MOST_WORKS = 4
# The results that the overview has room for, with their labels and decimals.
_SHOWN = {"nll": ("NLL bound", 3), "bpd": ("bits/dim", 3), "fid": ("FID", 2)}
_EVAL = "eval"
# Headings of the table of a group that its swept keys cannot have.
_HEADINGS = ("run", "state", "step", "loss", "steps/s", "ETA", "saved", "attempts", "job", "tags")
# Lines of a screen that are not rows: headings, the last line and the cursor; with groups, and
# without.
_AROUND = 10
_AROUND_RUNS = 6


def overview(rows: Sequence[RunStatus]) -> TextTable:
    """A table of runs, with the newest result of each."""
    results = newest_results(rows)
    return _drawn(rows, run_columns(rows, results=results), results)


def run_columns(
    rows: Sequence[RunStatus],
    swept: Mapping[str, Sequence[Cell]] | None = None,
    results: Mapping[str, Sequence[Cell]] | None = None,
) -> dict[str, Sequence[Cell]]:
    """The columns of every table of runs: of `status`, and of the page.

    Args:
        swept: columns of the values in which the runs of a group differ.
        results: columns of results: `newest_results` or `all_results`.
    """
    columns = columns_of(
        {
            "state": state_text(row.state),
            # How old a state is whose cluster does not answer.
            "as of": None if row.as_of is None else age(row.as_of),
            "step": f"{short(row.step)}/{short(row.steps)}",
            "loss": number(row.shown_loss),
            "steps/s": number(row.steps_per_s, 3),
            "ETA": duration(row.eta_s),
            "saved": short(row.checkpoint_step),
            "attempts": str(len(row.attempts)),
            "last end": (row.attempts[-1]["cause"] if row.attempts else None) or "-",
            "job": f"{row.cluster} {row.job_id}" if row.job_id else "-",
        }
        for row in rows
    )
    columns = {"run": [row.name for row in rows], **(swept or {}), **columns, **(results or {})}
    if any(row.tags for row in rows):
        columns["tags"] = [" ".join(row.tags) for row in rows]
    return columns


def _drawn(
    rows: Sequence[RunStatus],
    columns: Mapping[str, Sequence[Cell]],
    results: Collection[str] = (),
    last: Collection[str] = (),
) -> TextTable:
    """Draw the columns of runs, on a terminal with a progress bar after the step.

    Args:
        results: headings of results that are texts, and that a narrow terminal may leave out.
        last: headings that a narrow terminal leaves out last.
    """
    left = ("run", "state", "as of", "", "last end", "job", "tags", *results)
    first = ("tags", "", "job", "last end", "attempts", "saved", *results)
    optional = (*first, "steps/s", "loss", "ETA", *last)
    cells_of: dict[str, Sequence[Cell]] = {}
    for heading, cells in columns.items():
        cells_of[heading] = cells
        if heading == "step" and out.is_terminal and len(rows) <= MANY:
            cells_of[""] = [progress_bar(row) for row in rows]
    return TextTable(cells_of, left=left, optional=optional, names="run")


def newest_results(rows: Sequence[RunStatus]) -> dict[str, list[str]]:
    """One column with the newest result of each run.

    The heading is the label of the results if all are of one kind, so that the cells need not
    repeat it.
    """
    present = set()
    for row in rows:
        for entry in row.evals:
            present |= {name for name in _SHOWN if entry[name] is not None}
    heading = _SHOWN[present.pop()][0] if len(present) == 1 else _EVAL
    is_labelled = heading == _EVAL
    return {heading: [newest_result(row.evals, row.step, is_labelled=is_labelled) for row in rows]}


def all_results(rows: Sequence[RunStatus]) -> Mapping[str, Sequence[Cell]]:
    """A column for each kind of results, with the newest of each run and its number of samples."""
    newest: list[dict[str, Any]] = []
    for row in rows:
        newest.append({})
        for entry in row.evals:
            newest[-1] |= numbers_of(entry)
    return result_columns(newest, with_count=True)


def swept_values(rows: Sequence[RunStatus]) -> dict[str, list[str]]:
    """A column for each swept key of the groups of the runs, with the value of each run."""
    keys = list(dict.fromkeys(key for row in rows for key in row.sweep))
    heads = short_keys(keys, _HEADINGS)
    return {head: [row.sweep.get(key, "-") for row in rows] for key, head in heads.items()}


def newest_result(
    evals: Sequence[Mapping[str, Any]], step: int, *, is_labelled: bool = True
) -> str:
    """The newest result; without one, how many shards are done and why the others are not computed.

    Args:
        evals: the evaluations of a run as `status` knows them.
        step: the step of the run. The result of a checkpoint before it names its step.
        is_labelled: write the label of a result before it.
    """
    if not evals:
        return "-"
    with_results = [entry for entry in evals if any(entry[name] is not None for name in _SHOWN)]
    # A stopped evaluation, or one with other metrics, does not hide the results of an earlier one.
    is_newest_shown = evals[-1]["state"] == "RUNNING" or not with_results
    entry = evals[-1] if is_newest_shown else with_results[-1]
    results = []
    for name, (label, digits) in _SHOWN.items():
        if entry[name] is not None:
            prefix = f"{label} " if is_labelled else ""
            results.append(f"{prefix}{entry[name]:.{digits}f}")
    if not results:
        what = "shards" if entry["state"] == "RUNNING" else entry.get("cause")
        return f"{entry['shards_done']}/{entry['shards']} {what}" if what else "-"
    remarks = counts_of(numbers_of(entry), show=short)
    if entry["checkpoint_step"] < step:
        remarks.append(f"step {short(entry['checkpoint_step'])}")
    return ", ".join(results) + (f" ({', '.join(remarks)})" if remarks else "")


def overview_with_groups(
    rows: Sequence[RunStatus],
    height: int | None = None,
    *,
    is_grouped: bool = True,
    is_sorted: bool = False,
) -> RenderableType:
    """A table of runs, and below it a table of groups of several runs.

    Args:
        height: the lines of the screen: runs and groups that are alive come first, and those that
            do not fit are counted. None to show all.
        is_grouped: False to show the runs of groups among the others.
        is_sorted: keep the order of the rows.
    """
    groups: dict[str, list[RunStatus]] = {}
    for row in rows:
        if is_grouped and row.group is not None:
            groups.setdefault(row.group, []).append(row)
    several = {name: members for name, members in groups.items() if len(members) > 1}
    items: list[Sequence[RunStatus]] = [[row] for row in rows if row.group not in several]
    items += several.values()
    visible, note = _on_screen(items, height, is_sorted=is_sorted)
    runs = [item[0] for item in visible if len(item) == 1]
    shown_groups = [item for item in visible if len(item) > 1]
    tables = [overview(runs)] if runs or not shown_groups else []
    if shown_groups:
        tables.append(_groups(shown_groups))
    return Lines(*tables, *note)


def _on_screen(
    items: Sequence[Sequence[RunStatus]], height: int | None, *, is_sorted: bool = False
) -> tuple[Sequence[Sequence[RunStatus]], list[Text]]:
    """The items that fit on the screen, alive ones first, and a line that counts the others.

    Args:
        items: each a run, or the runs of a group of several.
    """
    if height is None:
        return items, []
    has_groups = any(len(item) > 1 for item in items)
    room = max(height - (_AROUND if has_groups else _AROUND_RUNS), 1)
    if len(items) <= room:
        return items, []
    newest_first = [*reversed(items)]
    ranked = sorted(newest_first, key=_rank)
    fitting = {id(item) for item in ranked[:room]}
    visible = [item for item in items if id(item) in fitting]
    if not is_sorted:
        visible.sort(key=lambda item: _rank(item) >= len(ALIVE))
    numbers = Counter(row.state for item in ranked[room:] for row in item)
    running = f" ({numbers['RUNNING']:,} RUNNING)" if numbers["RUNNING"] else ""
    text = f"… and {numbers.total():,} more{running}: --all, or --state, --since, --tag"
    return visible, [Text(text, style="dim")]


def _rank(item: Sequence[RunStatus]) -> int:
    """The rank of a run or group on a short screen: running, then waiting, then over."""
    return min(ALIVE.index(row.state) if row.state in ALIVE else len(ALIVE) for row in item)


def _groups(groups: Sequence[Sequence[RunStatus]]) -> TextTable:
    columns = columns_of(
        {
            "group": rows[0].group,
            "runs": str(len(rows)),
            "states": states(rows),
            "done": f"{_share(rows):.0%}",
        }
        for rows in groups
    )
    return TextTable(columns, left=("group", "states"), names="group", wraps="states")


def states(rows: Iterable[RunStatus]) -> str:
    """How many runs are in which state: "1 RUNNING, 4 FINISHED"."""
    numbers = Counter(row.state for row in rows)
    return ", ".join(f"{numbers[state]} {state}" for state in STATES if state in numbers)


def _share(rows: Sequence[RunStatus]) -> float:
    steps = sum(row.steps or 0 for row in rows)
    return sum(min(row.step, row.steps or 0) for row in rows) / steps if steps else 0.0


def group_details(
    name: str, members: Sequence[RunStatus], height: int | None = None
) -> RenderableType:
    """A table of the runs of a group: swept values, state, progress and the newest results.

    Args:
        height: the lines of the screen: runs that do not fit are counted. None to show all.
    """
    visible, note = _on_screen([[row] for row in members], height and height - 1)
    rows = [row for (row,) in visible]
    swept = swept_values(rows)
    results = all_results(rows)
    if not swept:
        run_table = _drawn(rows, run_columns(rows, results=results), results)
    else:
        # The results stay on a narrow terminal: a group is compared by them. On a screen of few
        # lines, the swept values go before each run becomes a list.
        last = ("step",) if height is None else ("step", *swept)
        run_table = _drawn(rows, run_columns(rows, swept, results), last=last)
    reasons = []
    if height is None:
        reasons = [Text(f"{row.name}: {row.reason}", "yellow") for row in rows if row.reason]
    title = Text.assemble("group ", (name, "bold"), f"  {states(members)}")
    return Lines(title, run_table, *reasons, *note)


@group()
def details(row: RunStatus) -> Iterator[RenderableType]:
    """Everything about a run: facts, attempts, evaluations, sweeps, tunings."""
    from .evaluations import by_step, evaluations, remarks, tunings

    swept = {name for entry in row.sweeps for name in entry["evaluations"]}
    alone = [entry for entry in row.evals if entry["id"] not in swept]
    yield facts(_facts(row))
    if row.attempts:
        yield Text()
        yield attempts(row.attempts, reason=row.reason, title="attempts")
    if alone:
        yield Text()
        yield evaluations(alone)
        yield from remarks(alone)
    for drawn in by_step(alone):
        yield Text()
        yield drawn
    yield from _sweeps(row)
    if row.tunings:
        reasons = (
            Text(f"{it['id']}: {it['reason']}", "yellow") for it in row.tunings if it["reason"]
        )
        yield Text()
        yield tunings(row.tunings)
        yield from reasons
    yield Text()


def _facts(row: RunStatus) -> Iterator[tuple[str, Cell]]:
    state = state_text(row.state)
    if row.as_of is not None:
        state.append(f" as of {age(row.as_of)}")
    # The reason of a run that waits includes its phase.
    if row.phase and not (row.phase == WAITING and row.reason):
        state.append(f"  {row.phase}")
    if row.reason:
        state.append(f"  {row.reason}")
    yield "run", Text(row.name, style="bold")
    yield "state", state
    share = f"  ({100 * row.step / row.steps:.1f}%)" if row.steps else ""
    yield "step", f"{count(row.step)} of {count(row.steps)}{share}"
    if out.is_terminal:
        yield "", progress_bar(row)
    if row.loss is None:
        yield "loss", "-"
    else:
        yield "loss", f"{number(row.smoothed_loss, 5)} (smoothed), last {number(row.loss, 5)}"
    if row.steps_per_s is not None:
        yield "rate", f"{number(row.steps_per_s, 3)} steps/s, ETA {duration(row.eta_s)}"
    saved = row.checkpoint_step
    yield "checkpoint", "none" if saved is None else f"step {count(saved)}"
    yield "updated", age(row.updated)
    if row.tags:
        yield "tags", " ".join(row.tags)
    if row.note is not None:
        yield "note", row.note
    if row.job_id is not None:
        where = f" on {row.host}" if row.host else ""
        yield "job", f"{row.cluster} {row.job_id}{where}"
    yield "folder", row.path
    yield from _remarks(row)


def _remarks(row: RunStatus) -> Iterator[tuple[str, Text]]:
    """The origin, usage, code, changes and problems of a run."""
    if row.started_from is not None:
        yield "begun", Text(row.started_from)
    if row.usage is not None and row.usage["used"] > 0:
        yield "usage", Text(usage_line(row.usage))
    if row.code == "live":
        yield "code", Text("the live checkout")
    yield from (("changed", Text(change, "yellow")) for change in row.changes)
    yield from (("problem", Text(problem, "yellow")) for problem in row.problems)


def _sweeps(row: RunStatus) -> Iterator[RenderableType]:
    from cld_core.run.evaluations import Sweep
    from cldctl.evals.results import rows as sweep_rows

    from .evaluations import remarks, sweep_table

    evals = {entry["id"]: entry for entry in row.evals}
    run = RunFolder(row.path)
    for entry in row.sweeps:
        sweep = Sweep.load(run.evals / entry["id"])
        if sweep is not None:
            title = (
                f"{entry['id']}: {entry['done']} of {len(entry['evaluations'])} evaluations "
                f"complete"
            )
            yield from (
                Text(),
                Text(title, style="bold"),
                sweep_table(sweep, sweep_rows(run, sweep), evals),
            )
            yield from remarks([evals[name] for name in sweep.evaluations if name in evals])


@dataclass(frozen=True)
class Look:
    """The runs at one moment.

    Attributes:
        listing: all runs, including those that are not listed.
        rows: the listed runs.
        older: the number of runs that are left out because they ended over a week ago.
        problem: why the runs could not be read.
    """

    listing: RunListing = field(default_factory=RunListing)
    rows: Sequence[RunStatus] = ()
    older: int = 0
    problem: str | None = None


@dataclass
class Query:
    """Which runs are shown, and in which order.

    Attributes:
        which: the filters; they apply to chosen runs, too.
        everything: also show runs that ended over a week ago.
        chosen: runs named on the command line; empty for all runs of the folder.
        groups: groups named on the command line, whose runs are among ``chosen``.
    """

    index: Index
    which: selection.Selection
    everything: bool = False
    chosen: Sequence[RunFolder] = ()
    groups: Sequence[str] = ()
    sort: str = "created"
    reverse: bool = False

    def look(self) -> Look:
        """Read the state of the runs now."""
        if self.chosen:
            answers = survey.of_runs(self.chosen, max_age_s=survey.TO_LOOK_S)
            listing = RunListing([named_status(run, answers) for run in self.chosen], answers)
        else:
            listing = self.index.look(max_age_s=survey.TO_LOOK_S)
        rows = self.which.of(listing.rows)
        is_recent = not self.chosen and not self.everything and self.which.is_empty
        recent = selection.recent(rows) if is_recent else rows
        if not self.chosen or self.sort != "created":
            recent = selection.in_order(recent, self.sort, reverse=self.reverse)
        return Look(listing, recent, len(rows) - len(recent))

    def view(self, rows: Sequence[RunStatus], height: int | None) -> RenderableType:
        """Draw rows.

        Args:
            height: the lines of the screen: what does not fit is counted. None to show all.
        """
        others = [row for row in rows if row.group not in self.groups]
        if self.chosen and (height is None or len(self.groups) + len(others) == 1):
            tables = []
            for name in self.groups:
                members = [row for row in rows if row.group == name]
                tables.append(group_details(name, members, height))
            return Lines(*tables, *map(details, others))
        is_sorted = self.sort != "created"
        # With filters or an order, each run has its line.
        is_any = not self.everything and self.which.is_empty and not is_sorted
        is_grouped = bool(self.chosen) or (out.is_terminal and is_any)
        return overview_with_groups(rows, height, is_grouped=is_grouped, is_sorted=is_sorted)


def watch(query: Query) -> None:
    """Show runs on a terminal, again every second, until it is interrupted."""
    with Live(console=out, auto_refresh=False) as live:
        while True:
            look = query.look()
            remarks = [Text(remark, "yellow") for remark in look.listing.remarks]
            height = out.height - sum(len(remark.wrap(out, out.width)) for remark in remarks)
            live.update(Lines(*remarks, query.view(look.rows, height)), refresh=True)
            time.sleep(1.0)


def show(query: Query) -> None:
    """Print runs, or why there are none."""
    look = query.look()
    for remark in look.listing.remarks:
        err.print(remark, style="yellow")
    if not look.rows:
        err.print(nothing(query.index.root, query.which, look.older))
        return
    fits = out.is_terminal and not query.everything and not query.chosen
    out.print(query.view(look.rows, out.height if fits else None))
    if query.chosen:
        return
    if look.older:
        err.print(f"{look.older:,} that ended over a week ago: --all", style="dim")
    for row in look.rows:
        if not row.is_readable:
            err.print(f"{row.name}: {row.reason}", style="yellow")
    # Hundreds of tasks of an array may be held for the same reason: one line for all of them.
    held: dict[str, list[RunStatus]] = {}
    for row in look.rows:
        if HELD in (row.reason or ""):
            held.setdefault(str(row.reason).partition(HELD)[0], []).append(row)
    for rows in held.values():
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        err.print(f"{rows[0].name}{more}: {rows[0].reason}", style="yellow")


def nothing(root: Path, which: selection.Selection, older: int) -> str:
    """Why no runs are listed, and what to do."""
    if not which.is_empty:
        return f"no run in {root} matches these filters; --all shows every run"
    if older:
        return f"no recent runs in {root}; {older:,} ended over a week ago: --all"
    return f"no runs in {root}. Start one: cldctl submit toy_demo"


@group()
def explanation(why: "Why") -> Iterator[RenderableType]:
    """The answer of `cldctl why`, the most important first; it fits on a screen."""
    row = why.row
    yield Text.assemble(
        (row.name, "bold"), "  ", state_text(row.state), f"  {why.headline}", overflow="fold"
    )
    if why.waiting is not None and why.waiting.expected is not None:
        wait = duration(why.waiting.expected - time.time())
        yield _fact("begins", f"in {wait}, as the scheduler expects")
    if why.attempts:
        newest = why.attempts[-_MOST_ATTEMPTS:]
        yield attempts([{**attempt, "detail": None} for attempt in newest])
        if (earlier := len(why.attempts) - len(newest)) > 0:
            yield Text(f"{earlier} earlier attempts: cldctl status", style="dim")
    if why.failed is not None:
        yield from _failure(why.failed, RunFolder(row.path))
    yield from _unfinished(row)
    if why.excluded:
        yield _fact("avoids", f"nodes {', '.join(why.excluded)}")
    for name, remark in _remarks(row):
        yield _fact(name, remark.plain, str(remark.style))
    if why.do:
        yield _fact("do", why.do)
    name = "next"
    style = "bold"
    for text in why.next:
        fact = _fact(name, command(text, RunFolder(row.path)), style)
        # The terminal breaks the line, so that the command can be copied.
        fact.no_wrap = True
        fact.overflow = "ignore"
        yield fact
        name = "or"
        style = ""


def _fact(name: str, text: str, style: str = "") -> Text:
    return Text.assemble((f"{name:8}", "dim"), (text, style), overflow="fold")


def _unfinished(row: RunStatus) -> Iterator[Text]:
    """The newest evaluations and tunings that are not finished, a line each."""
    for name, entries, unit in (("eval", row.evals, "shards"), ("tuning", row.tunings, "rows")):
        left = [entry for entry in entries if entry["state"] != "FINISHED"]
        for entry in left[-_MOST_WORKS:]:
            done = f"{entry[f'{unit}_done']} of {entry[unit]} {unit}"
            reason = f": {entry['reason']}" if entry["reason"] else ""
            yield _fact(name, f"{entry['id']}  {entry['state']}, {done}{reason}")
        if len(left) > _MOST_WORKS:
            yield _fact("", f"{len(left) - _MOST_WORKS} more: cldctl status", "dim")


def _failure(failed: "FirstFailure", run: RunFolder) -> Iterator[Text]:
    when = f", {age(failed.time)}" if failed.time else ""
    reason = f": {one_line(failed.reason, out.width)}" if failed.reason else ""
    yield _fact("failed", f"{failed}{when}{reason}", "red")
    if failed.file is not None:
        yield _fact("", _shown(failed.file, run))
    for line in failed.lines[-_MOST_LINES:]:
        # A long line is cut, so that the answer fits on a screen; `logs --failed` shows all of it.
        yield Text(f"  {line}", style="dim", overflow="ellipsis", no_wrap=True)


def _shown(file: Path, run: RunFolder) -> str:
    """A path that can be opened from here; within the run, the relative one if it is shorter."""
    if not file.is_relative_to(run.path):
        return str(file)
    return min(os.path.relpath(file), str(file), key=len)
