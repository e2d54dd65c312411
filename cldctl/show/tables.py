"""What all views of runs share: how a table is drawn, and how states, results, attempts and tunings are written."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cld_core.sanitize import printable
from cldctl.runs.state import STATES
from cldctl.runs.status import RunStatus

from .console import out
from .format import age, count, duration, shortened

Cell = str | Text | ProgressBar

# More rows than this are plain lines: rich takes a millisecond for each.
MANY = 200
_BAR, _GAP = 12, 3
# The least width of a column of names and of one of sentences, and the largest width of sentences in a pipe.
_NAME, _SENTENCE, _LONGEST = 20, 36, 80


def table(
    columns: Mapping[str, Sequence[Cell]],
    *,
    right: Collection[str] = (),
    optional: Sequence[str] = (),
    names: str | None = None,
    wraps: str | None = None,
    title: str | None = None,
) -> RenderableType:
    """A table without a frame, which pipes well; on a terminal that is too narrow for it, a list for each row.

    Args:
        columns: the cells of each heading.
        right: headings of the columns of numbers.
        optional: headings of columns that a terminal leaves out if there is no room for them, the first one first; it
            leaves out those that are empty anyway.
        names: heading of the column whose cells lose their middle if there is no room for them.
        wraps: heading of a column of sentences, which may take several lines.
    """
    widths = {heading: max([len(heading), *map(_width, cells)]) for heading, cells in columns.items()}
    least = {names: _NAME, wraps: _SENTENCE}

    def needed() -> int:
        return sum(min(width, least.get(heading, width)) + _GAP for heading, width in widths.items())

    for heading in optional if out.is_terminal else ():
        if all(str(cell) in ("-", "") for cell in columns.get(heading, ())):
            widths.pop(heading, None)
    for heading in optional:
        if needed() > out.width:
            widths.pop(heading, None)
    if needed() > out.width:
        return _under(title, *_lists(columns))
    shown = {heading: columns[heading] for heading in widths}
    if names is not None:
        widths[names] = min(widths[names], out.width - needed() + min(widths[names], _NAME))
        shown[names] = [shortened(str(cell), widths[names]) for cell in columns[names]]
    if len(next(iter(shown.values()), ())) > MANY:
        return _under(title, _plain(shown, widths, right))
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in shown:
        is_number = heading in right
        limit = _LONGEST if heading == wraps and not out.is_terminal else None
        drawn.add_column(
            heading, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold", max_width=limit
        )
    for row in zip(*shown.values(), strict=True):
        # A string is searched for markup, which is slow.
        drawn.add_row(*(Text(printable(cell)) if isinstance(cell, str) else cell for cell in row))
    return _under(title, drawn)


def _under(title: str | None, *drawn: RenderableType) -> RenderableType:
    """What is drawn below a title, which is not folded to its width."""
    return Group(*([] if title is None else [Text(title, style="bold")]), *drawn)


def _lists(columns: Mapping[str, Sequence[Cell]]) -> Iterator[RenderableType]:
    first, *others = columns
    for cell, *row in zip(*columns.values(), strict=True):
        yield from (Text(f"{first} {cell}"), facts(zip(others, row, strict=True)), Text())


def _plain(columns: Mapping[str, Sequence[Cell]], widths: Mapping[str, int], right: Collection[str]) -> Text:
    fields = (f"{{:{'>' if heading in right else '<'}{width}}}" for heading, width in widths.items())
    line = f" {(_GAP * ' ').join(fields)} "
    rows = (map(str, cells) for cells in zip(*columns.values(), strict=True))
    shown = [line.format(*(printable(cell, keep="") for cell in row)) for row in rows]
    rule = " " + "─" * (sum(widths.values()) + _GAP * (len(widths) - 1))
    return Text("\n".join(["", line.format(*columns), rule, *shown]), no_wrap=True, overflow="ignore")


def _width(cell: Cell) -> int:
    return _BAR if isinstance(cell, ProgressBar) else len(str(cell))


def facts(lines: Iterable[tuple[str, Cell]]) -> Table:
    """Names and values, a line each."""
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(style="dim", no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, value in lines:
        drawn.add_row(name, Text(printable(value)) if isinstance(value, str) else value)
    return drawn


def state_text(state: str) -> Text:
    """The word for a state, in its colour."""
    return Text(state, style=STATES.get(state, ""))


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
    right = [heading for heading in columns if heading not in ("node", "ended by")]
    optional = ("to", "job", "when", "from", "node") if "gained" in columns else ("when", "node", "from", "ran", "job")
    return table(columns, right=right, optional=optional, wraps="ended by", title=title)


def attempt_columns(
    rows: Sequence[Mapping[str, Any]], when: Callable[[float | None], str], reason: str | None = None
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
    """Keys of recipes with their headings: the last part of each, or the key if another heading is the same."""
    shorts = [key.rpartition(".")[2] for key in keys]
    return {
        key: short if shorts.count(short) == 1 and short not in taken else key
        for key, short in zip(keys, shorts, strict=True)
    }
