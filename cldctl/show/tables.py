"""Tables, and the cells that all views of runs share: states, attempts, usage."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from rich import box, table
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.text import Text

from cld_core.sanitize import printable
from cldctl.runs.status import RunStatus
from cldctl.runs.usage import Folder, TimeEstimate

from .console import age, count, duration, number, out, shortened

Cell = str | Text | ProgressBar

# A table of more rows is drawn as plain lines: rich takes a millisecond for each row.
MANY = 200
# Widths, in columns: a progress bar; the space between two columns; the least of a column of names,
# and of sentences; the largest of sentences in a pipe.
_BAR = 12
_GAP = 3
_NAME = 20
_SENTENCE = 36
_LONGEST = 80
# The styles in which states are shown.
STYLES = {
    "RUNNING": "bold green",
    "REQUEUED": "yellow",
    "PENDING": "yellow",
    "FAILED": "bold red",
    "LOST": "bold red",
    "STOPPED": "magenta",
    "CANCELLED": "dim",
    "FINISHED": "green",
}
# A job that starts within so many seconds "begins at once".
AT_ONCE_S = 5.0


@dataclass(frozen=True)
class Table:
    """A table for every output; rich draws it without a frame, so that it pipes well.

    On a terminal that is too narrow for it, each row becomes a list of facts.

    Attributes:
        columns: the cells by heading.
        left: headings of the columns that are not numbers.
        optional: headings of columns that a narrow terminal leaves out, the first one first. A
            terminal always leaves them out if all their cells are empty.
        names: heading of a column whose cells lose their middle on a narrow terminal.
        wraps: heading of a column of sentences, which may take several lines.
    """

    columns: Mapping[str, Sequence[Cell]]
    _: KW_ONLY
    left: Collection[str] = ()
    optional: Sequence[str] = ()
    names: str | None = None
    wraps: str | None = None
    title: str | None = None

    def __rich__(self) -> RenderableType:
        widths = {}
        for heading, cells in self.columns.items():
            widths[heading] = max([len(heading), *map(_width, cells)])
        least = {self.names: _NAME, self.wraps: _SENTENCE}

        def needed() -> int:
            return sum(
                min(width, least.get(heading, width)) + _GAP for heading, width in widths.items()
            )

        for heading in self.optional if out.is_terminal else ():
            if all(str(cell) in ("-", "") for cell in self.columns.get(heading, ())):
                widths.pop(heading, None)
        for heading in self.optional:
            if needed() > out.width:
                widths.pop(heading, None)
        shown = {heading: self.columns[heading] for heading in widths}
        above = [] if self.title is None else [Text(self.title, style="bold")]
        if needed() > out.width:
            return Group(*above, *self._lists())
        if self.names is not None:
            others = needed() - min(widths[self.names], _NAME)
            width = min(widths[self.names], out.width - others)
            widths[self.names] = width
            shown[self.names] = [shortened(str(cell), width) for cell in shown[self.names]]
        if len(next(iter(shown.values()), ())) > MANY:
            return Group(*above, _plain(shown, widths, self.left))
        drawn = table.Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in shown:
            drawn.add_column(heading, overflow="fold")
            column = drawn.columns[-1]
            if heading not in self.left:
                column.justify = "right"
                column.no_wrap = True
            if heading == self.wraps and not out.is_terminal:
                column.max_width = _LONGEST
        for row in zip(*shown.values(), strict=True):
            drawn.add_row(*map(_as_text, row))
        return Group(*above, drawn)

    def _lists(self) -> Iterator[RenderableType]:
        first, *others = self.columns
        for cell, *row in zip(*self.columns.values(), strict=True):
            yield from (Text(f"{first} {cell}"), facts(zip(others, row, strict=True)), Text())


def _as_text(cell: RenderableType) -> RenderableType:
    """Strings as texts: rich searches strings for markup, which is slow."""
    return Text(printable(cell)) if isinstance(cell, str) else cell


def _plain(
    columns: Mapping[str, Sequence[Cell]], widths: Mapping[str, int], left: Collection[str]
) -> Text:
    """The table as plain lines."""

    def line(cells: Iterable[object]) -> str:
        padded = []
        for (heading, width), cell in zip(widths.items(), cells, strict=True):
            text = printable(str(cell), keep="")
            padded.append(text.ljust(width) if heading in left else text.rjust(width))
        return f" {(_GAP * ' ').join(padded)} "

    rule = " " + "─" * (sum(widths.values()) + _GAP * (len(widths) - 1))
    rows = map(line, zip(*columns.values(), strict=True))
    return Text("\n".join(["", line(columns), rule, *rows]), no_wrap=True, overflow="ignore")


def _width(cell: Cell) -> int:
    return _BAR if isinstance(cell, ProgressBar) else len(str(cell))


def facts(lines: Iterable[tuple[str, RenderableType]]) -> table.Table:
    """Names and values, a line each."""
    drawn = table.Table.grid(padding=(0, 2))
    drawn.add_column(style="dim", no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, value in lines:
        drawn.add_row(name, _as_text(value))
    return drawn


def state_text(state: str) -> Text:
    """The word for a state, in its colour."""
    return Text(state, style=STYLES.get(state, ""))


def progress_bar(row: RunStatus) -> ProgressBar:
    """How much of the training is done."""
    return ProgressBar(total=row.steps or 1, completed=row.step, width=_BAR)


def attempts(
    rows: Sequence[Mapping[str, Any]],
    *,
    when: Callable[[float | None], str] = age,
    reason: str | None = None,
    title: str | None = None,
) -> Table:
    """A table of attempts as `status` knows them, or as `why` does, with their gain and loss.

    Args:
        when: writes the time of a start.
        reason: a text shown elsewhere: an attempt's detail is left out if it is the same.
    """
    columns: dict[str, Sequence[Cell]] = {
        "attempt": [str(row["attempt"]) for row in rows],
        "when": [when(row.get("started")) for row in rows],
        "node": [_nodes(row) for row in rows],
        "job": [str(row["job_id"] or "-") for row in rows],
        "from": [count(row["first_step"]) for row in rows],
        "to": [count(row["last_step"]) for row in rows],
    }
    if any("gained" in row for row in rows):
        columns |= {name: [count(row[name]) for row in rows] for name in ("gained", "lost")}
        columns["waited"] = [duration(row["waited_s"]) for row in rows]
    columns["ran"] = [duration(row.get("ran_s")) for row in rows]
    columns["ended by"] = [_end(row, reason) for row in rows]
    optional = ("when", "node", "from", "ran", "job")
    if "gained" in columns:
        optional = ("to", "job", "when", "from", "node")
    left = ("node", "ended by")
    return Table(columns, left=left, optional=optional, wraps="ended by", title=title)


def _nodes(row: Mapping[str, Any]) -> str:
    """One or two names of nodes, or one and how many more; a dash if they are unknown."""
    hosts = row.get("hosts") or [row.get("host") or "-"]
    return ",".join(hosts) if len(hosts) <= 2 else f"{hosts[0]}+{len(hosts) - 1}"


def _end(row: Mapping[str, Any], reason: str | None) -> str:
    cause = row["cause"] or "-"
    detail = row.get("detail")
    return f"{cause}: {detail}" if detail and detail != reason else cause


def short_keys(keys: Sequence[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Headings for keys of recipes: the last part of the key, or the whole key if that is taken."""
    shorts = [key.rpartition(".")[2] for key in keys]
    headings = {}
    for key, short in zip(keys, shorts, strict=True):
        headings[key] = short if shorts.count(short) == 1 and short not in taken else key
    return headings


def usage_line(usage: Mapping[str, Any] | None) -> str:
    """The usage of a run (the field of ``status --json``) in one line; empty if it is nothing."""
    if usage is None or (usage["used"] <= 0 and usage["waited_s"] < 1):
        return ""
    used = usage["used"]
    line = f"{hours(used)} {usage['unit']}"
    if used > 0:
        line += f": {share(usage['useful'], used)} useful"
        if usage["lost_to_preemption"] > 0:
            line += f", {share(usage['lost_to_preemption'], used)} lost to interruptions"
        if usage["lost_to_crashes"] > 0:
            line += f", {share(usage['lost_to_crashes'], used)} lost to crashes"
    if usage["waited_s"] >= 1:
        line += f"; queued {duration(usage['waited_s'])}"
    return line


def hours(value: float) -> str:
    """Hours in at least three significant digits, such as 0.0123, 1.53 or 1,234."""
    return f"{value:,.0f}" if value >= 100 else number(value, 3)


def share(part: float, whole: float) -> str:
    """A percentage; a dash if the whole is 0."""
    return f"{100 * part / whole:.0f}%" if whole > 0 else "-"


def usage_table(folder: Folder) -> RenderableType:
    """Runs, then groups, then totals by unit: a line each."""
    lines = [(name, group or "-", usage) for name, group, usage in folder.runs]
    for name, members in folder.groups.items():
        lines += ((f"group {name}", name, usage) for usage in members)
    lines += (("total", "-", usage) for usage in folder.totals)
    names, groups, usages = zip(*lines, strict=True)
    columns: dict[str, Sequence[Cell]] = {"run": names}
    if any(group != "-" for group in groups):
        columns["group"] = groups
    columns |= {
        "used": [f"{hours(usage.used)} {usage.unit}" for usage in usages],
        "useful": [hours(usage.useful) for usage in usages],
        "start-up": [hours(usage.startup) for usage in usages],
        "preempted": [hours(usage.lost_to_preemption) for usage in usages],
        "crashed": [hours(usage.lost_to_crashes) for usage in usages],
    }
    if any(usage.set_aside for usage in usages):
        columns["set aside"] = [hours(usage.set_aside) for usage in usages]
    columns |= {
        "waited": [duration(usage.waited_s) for usage in usages],
        "goodput": [share(usage.useful, usage.used) for usage in usages],
        "attempts": [str(usage.attempts) for usage in usages],
    }
    note = (
        "trainings only; preempted and crashed are hours lost to either; waited is the time of "
        "jobs in the queue"
    )
    time_columns = ("set aside", "start-up", "useful", "waited", "preempted", "crashed")
    optional = ("attempts", "group", *time_columns)
    drawn = Table(columns, left=("run", "group"), optional=optional, names="run")
    return Group(drawn, Text(note, style="dim"))


def estimate_line(estimate: TimeEstimate | None, start: float | None) -> str:
    """How long a training will take, and when it begins, in one line.

    Args:
        estimate: None without a run that it can be estimated from.
        start: when the job is expected to begin, seconds since 1970; None if that is unknown.
    """
    if estimate is None:
        cost = "no comparable run yet"
    else:
        others = f" and {len(estimate.runs) - 1} more" if len(estimate.runs) > 1 else ""
        cost = (
            f"{duration(estimate.seconds)} of training, {hours(estimate.hours)} {estimate.unit}, "
            f"at {number(estimate.rate, 3)} steps/s as in {estimate.runs[0]}{others}"
        )
    if start is None:
        return f"estimate: {cost}"
    wait = start - time.time()
    if wait < AT_ONCE_S:
        return f"estimate: {cost}; begins at once"
    return (
        f"estimate: {cost}; begins in {duration(wait)}, as the scheduler expects, or earlier if "
        "other jobs end before their limits"
    )
