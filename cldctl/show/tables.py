"""What all views of runs share: how a table is drawn, and how states, attempts and usage are
written."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cld_core.sanitize import printable
from cldctl.runs.status import RunStatus
from cldctl.runs.usage import Estimate, Folder

from .console import age, count, duration, number, out, shortened

Cell = str | Text | ProgressBar

# More rows than this are plain lines: rich takes a millisecond for each.
MANY = 200
_BAR, _GAP = 12, 3
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
# A start within so many seconds is one at once.
AT_ONCE_S = 5.0
# The least width of a column of names and of one of sentences, and the largest width of sentences
# in a pipe.
_NAME, _SENTENCE, _LONGEST = 20, 36, 80


def table(
    columns: Mapping[str, Sequence[Cell]],
    *,
    left: Collection[str] = (),
    optional: Sequence[str] = (),
    names: str | None = None,
    wraps: str | None = None,
    title: str | None = None,
) -> RenderableType:
    """A table without a frame, which pipes well; on a terminal that is too narrow for it, a list
    for each row.

    Args:
        columns: the cells of each heading.
        left: headings of the columns that are no numbers.
        optional: headings of columns that a terminal leaves out if there is no room for them, the
            first one first; it leaves out those that are empty anyway.
        names: heading of the column whose cells lose their middle if there is no room for them.
        wraps: heading of a column of sentences, which may take several lines.
    """
    widths = {
        heading: max([len(heading), *map(_width, cells)]) for heading, cells in columns.items()
    }
    least = {names: _NAME, wraps: _SENTENCE}

    def needed() -> int:
        return sum(
            min(width, least.get(heading, width)) + _GAP for heading, width in widths.items()
        )

    for heading in optional if out.is_terminal else ():
        if all(str(cell) in ("-", "") for cell in columns.get(heading, ())):
            widths.pop(heading, None)
    for heading in optional:
        if needed() > out.width:
            widths.pop(heading, None)
    shown = {heading: columns[heading] for heading in widths}
    above = [] if title is None else [Text(title, style="bold")]
    if needed() > out.width:
        return Group(*above, *_lists(columns))
    if names is not None:
        widths[names] = min(widths[names], out.width - needed() + min(widths[names], _NAME))
        shown[names] = [shortened(str(cell), widths[names]) for cell in columns[names]]
    if len(next(iter(shown.values()), ())) > MANY:
        return Group(*above, _plain(shown, widths, left))
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in shown:
        is_number = heading not in left
        limit = _LONGEST if heading == wraps and not out.is_terminal else None
        drawn.add_column(
            heading,
            justify="right" if is_number else "left",
            no_wrap=is_number,
            overflow="fold",
            max_width=limit,
        )
    for row in zip(*shown.values(), strict=True):
        # A string is searched for markup, which is slow.
        drawn.add_row(*(Text(printable(cell)) if isinstance(cell, str) else cell for cell in row))
    return Group(*above, drawn)


def _lists(columns: Mapping[str, Sequence[Cell]]) -> Iterator[RenderableType]:
    first, *others = columns
    for cell, *row in zip(*columns.values(), strict=True):
        yield from (Text(f"{first} {cell}"), facts(zip(others, row, strict=True)), Text())


def _plain(
    columns: Mapping[str, Sequence[Cell]], widths: Mapping[str, int], left: Collection[str]
) -> Text:
    fields = (f"{{:{'<' if heading in left else '>'}{width}}}" for heading, width in widths.items())
    line = f" {(_GAP * ' ').join(fields)} "
    rows = (map(str, cells) for cells in zip(*columns.values(), strict=True))
    shown = [line.format(*(printable(cell, keep="") for cell in row)) for row in rows]
    rule = " " + "─" * (sum(widths.values()) + _GAP * (len(widths) - 1))
    return Text(
        "\n".join(["", line.format(*columns), rule, *shown]), no_wrap=True, overflow="ignore"
    )


def _width(cell: Cell) -> int:
    return _BAR if isinstance(cell, ProgressBar) else len(str(cell))


def facts(lines: Iterable[tuple[str, RenderableType]]) -> Table:
    """Names and values, a line each."""
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(style="dim", no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, value in lines:
        drawn.add_row(name, Text(printable(value)) if isinstance(value, str) else value)
    return drawn


def state_text(state: str) -> Text:
    """The word for a state, in its colour."""
    return Text(state, style=STYLES.get(state, ""))


def progress_bar(row: RunStatus) -> ProgressBar:
    """How much of the training is done."""
    return ProgressBar(total=row.steps or 1, completed=row.step, width=_BAR)


def attempts(
    rows: Sequence[Mapping[str, Any]], *, reason: str | None = None, title: str | None = None
) -> RenderableType:
    """Attempts as `status` knows them, or as `why` does, with what each gained, lost and waited.

    Args:
        reason: is shown elsewhere, so that an attempt's detail is left out if it is the same.
    """
    columns = attempt_columns(rows, age, reason)
    optional = (
        ("to", "job", "when", "from", "node")
        if "gained" in columns
        else ("when", "node", "from", "ran", "job")
    )
    return table(
        columns, left=("node", "ended by"), optional=optional, wraps="ended by", title=title
    )


def attempt_columns(
    rows: Sequence[Mapping[str, Any]],
    when: Callable[[float | None], str],
    reason: str | None = None,
) -> dict[str, Sequence[Cell]]:
    """The columns of `attempts`; ``when`` writes the time of a start."""
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
    return columns


def _nodes(row: Mapping[str, Any]) -> str:
    """One or two names, or one and how many more."""
    hosts = row.get("hosts") or ([row["host"]] if row.get("host") else [])
    return ",".join(hosts) or "-" if len(hosts) <= 2 else f"{hosts[0]}+{len(hosts) - 1}"


def _end(row: Mapping[str, Any], reason: str | None) -> str:
    detail = row.get("detail")
    return (row["cause"] or "-") + (f": {detail}" if detail and detail != reason else "")


def short_keys(keys: Sequence[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Keys of recipes with their headings: the last part of each, or the key if another heading is
    the same."""
    shorts = [key.rpartition(".")[2] for key in keys]
    return {
        key: short if shorts.count(short) == 1 and short not in taken else key
        for key, short in zip(keys, shorts, strict=True)
    }


def usage_line(usage: Mapping[str, Any] | None) -> str:
    """What one run has used, in one line; ``usage`` is the field of ``status --json``. Empty if
    that is nothing."""
    if usage is None or (usage["used"] <= 0 and usage["waited_s"] < 1):
        return ""
    lost = {"lost_to_preemption": "lost to interruptions", "lost_to_crashes": "lost to crashes"}
    parts = {"useful": "useful", **{key: text for key, text in lost.items() if usage[key] > 0}}
    shares = [f"{share(usage[key], usage['used'])} {text}" for key, text in parts.items()]
    waited = f"; queued {duration(usage['waited_s'])}" if usage["waited_s"] >= 1 else ""
    used = f"{hours(usage['used'])} {usage['unit']}"
    return f"{used}: {', '.join(shares)}{waited}" if usage["used"] > 0 else used + waited


def hours(value: float) -> str:
    """Hours with three significant digits, for example 0.0123, 1.53, 1,234."""
    return f"{value:,.0f}" if value >= 100 else number(value, 3)


def share(part: float, whole: float) -> str:
    """A percentage; a dash of nothing."""
    return f"{100 * part / whole:.0f}%" if whole > 0 else "-"


def usage_table(folder: Folder) -> RenderableType:
    """Runs, then groups, then totals by unit: a line each."""
    lines = [
        *((name, group or "-", usage) for name, group, usage in folder.runs),
        *(
            (f"group {name}", name, usage)
            for name, usages in folder.groups.items()
            for usage in usages
        ),
        *(("total", "-", usage) for usage in folder.totals),
    ]
    names, of, usages = zip(*lines, strict=True)
    spent = {
        "useful": "useful",
        "start-up": "startup",
        "preempted": "lost_to_preemption",
        "crashed": "lost_to_crashes",
    }
    spent |= {"set aside": "set_aside"} if any(usage.set_aside for usage in usages) else {}
    columns: dict[str, Sequence[Cell]] = {
        "run": names,
        **({"group": of} if any(group != "-" for group in of) else {}),
        "used": [f"{hours(usage.used)} {usage.unit}" for usage in usages],
        **{
            heading: [hours(getattr(usage, name)) for usage in usages]
            for heading, name in spent.items()
        },
        "waited": [duration(usage.waited_s) for usage in usages],
        "goodput": [share(usage.useful, usage.used) for usage in usages],
        "attempts": [str(usage.attempts) for usage in usages],
    }
    note = (
        "trainings only; preempted and crashed are hours lost to either; waited is the time of "
        "jobs in the queue"
    )
    optional = (
        "attempts",
        "group",
        "set aside",
        "start-up",
        "useful",
        "waited",
        "preempted",
        "crashed",
    )
    return Group(
        table(columns, left=("run", "group"), optional=optional, names="run"),
        Text(note, style="dim"),
    )


_IF = "as the scheduler expects, or earlier if other jobs end before their limits"


def estimate_line(estimate: Estimate | None, start: float | None) -> str:
    """The line, which says also what nobody knows.

    Args:
        start: when the job would begin, seconds since 1970; None if nobody knows.
    """
    wait = 0.0 if start is None else start - time.time()
    begins = (
        ""
        if start is None
        else "; begins at once"
        if wait < AT_ONCE_S
        else f"; begins in {duration(wait)}, {_IF}"
    )
    if estimate is None:
        return f"estimate: no comparable run yet{begins}"
    others = f" and {len(estimate.runs) - 1} more" if len(estimate.runs) > 1 else ""
    source = f"at {number(estimate.rate, 3)} steps/s as in {estimate.runs[0]}{others}"
    cost = (
        f"{duration(estimate.seconds)} of training, {hours(estimate.hours)} {estimate.unit}, "
        f"{source}"
    )
    return f"estimate: {cost}{begins}"
