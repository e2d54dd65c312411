"""Tables, and the cells that all views of runs share: states, attempts, usage."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from rich import box, table
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.text import Text

from cld_core import metrics as registry
from cld_core.metrics import Number, Quantity
from cld_core.sanitize import printable

from .console import age, count, duration, hours, out, shortened

if TYPE_CHECKING:
    from cldctl.runs.status import RunStatus
    from cldctl.runs.usage import Folder

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


@dataclass(frozen=True)
class TextTable:
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
        columns = {heading: self.columns[heading] for heading in widths}
        above = [] if self.title is None else [Text(self.title, style="bold")]
        if needed() > out.width:
            return Group(*above, *self._lists())
        if self.names is not None:
            others = needed() - min(widths[self.names], _NAME)
            width = min(widths[self.names], out.width - others)
            widths[self.names] = width
            columns[self.names] = [shortened(str(cell), width) for cell in columns[self.names]]
        if len(next(iter(columns.values()), ())) > MANY:
            return Group(*above, _plain(columns, widths, self.left))
        grid = table.Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in columns:
            grid.add_column(heading, overflow="fold")
            column = grid.columns[-1]
            if heading not in self.left:
                column.justify = "right"
                column.no_wrap = True
            if heading == self.wraps and not out.is_terminal:
                column.max_width = _LONGEST
        for row in zip(*columns.values(), strict=True):
            grid.add_row(*map(_as_text, row))
        return Group(*above, grid)

    def _lists(self) -> Iterator[RenderableType]:
        first, *others = self.columns
        for cell, *row in zip(*self.columns.values(), strict=True):
            yield from (Text(f"{first} {cell}"), facts(zip(others, row, strict=True)), Text())


def columns_of(rows: Iterable[Mapping[str, Cell | None]]) -> dict[str, Sequence[Cell]]:
    """The columns of rows that have the same headings.

    None is a dash, and a column that has nothing else is left out.
    """
    rows = list(rows)
    columns: dict[str, Sequence[Cell]] = {}
    for heading in rows[0] if rows else ():
        cells = [row[heading] for row in rows]
        if any(cell is not None for cell in cells):
            columns[heading] = ["-" if cell is None else cell for cell in cells]
    return columns


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
    grid = table.Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in lines:
        grid.add_row(name, _as_text(value))
    return grid


def progress_bar(row: "RunStatus") -> ProgressBar:
    """How much of the training is done."""
    return ProgressBar(total=row.steps or 1, completed=row.step, width=_BAR)


def attempts(
    rows: Sequence[Mapping[str, Any]],
    *,
    when: Callable[[float | None], str] = age,
    reason: str | None = None,
    title: str | None = None,
) -> TextTable:
    """A table of attempts as `status` knows them, or as `why` does, with their gain and loss.

    Args:
        when: writes the time of a start.
        reason: a text shown elsewhere: an attempt's detail is left out if it is the same.
    """
    columns = columns_of(
        {
            "attempt": str(row["attempt"]),
            "when": when(row.get("started")),
            "node": _nodes(row),
            "job": str(row["job_id"] or "-"),
            "from": count(row["first_step"]),
            "to": count(row["last_step"]),
            "gained": count(row["gained"]) if "gained" in row else None,
            "lost": count(row["lost"]) if "lost" in row else None,
            "waited": duration(row["waited_s"]) if "waited_s" in row else None,
            "ran": duration(row.get("ran_s")),
            "ended by": _end(row, reason),
        }
        for row in rows
    )
    optional = ("when", "node", "from", "ran", "job")
    if "gained" in columns:
        optional = ("to", "job", "when", "from", "node")
    left = ("node", "ended by")
    return TextTable(columns, left=left, optional=optional, wraps="ended by", title=title)


def _nodes(row: Mapping[str, Any]) -> str:
    """One or two names of nodes, or one and how many more; a dash if they are unknown."""
    hosts = row.get("hosts") or [row.get("host") or "-"]
    return ",".join(hosts) if len(hosts) <= 2 else f"{hosts[0]}+{len(hosts) - 1}"


def _end(row: Mapping[str, Any], reason: str | None) -> str:
    cause = row["cause"] or "-"
    detail = row.get("detail")
    return f"{cause}: {detail}" if detail and detail != reason else cause


def numbers_of(entry: Mapping[str, Any]) -> dict[str, Number]:
    """The results of an evaluation as `status` knows it, by `Quantity.key`."""
    return {key: Number(**fields) for key, fields in entry["results"].items()}


def number_text(quantity: Quantity, number: Number | None, *, with_count: bool = False) -> str:
    """A result with its standard error and the share of lost samples; a dash for None.

    Args:
        with_count: add the number of samples or test points.
    """
    if number is None:
        return "-"
    text = f"{number.value:.{quantity.digits}f}"
    if number.stderr is not None:
        text += f" ± {number.stderr:.{quantity.digits}f}"
    if number.lost:
        text += f" ({100 * number.lost:.2g}% lost)"
    counts = counts_of({quantity.key: number}) if with_count else []
    return f"{text} ({', '.join(counts)})" if counts else text


def counts_of(
    numbers: Mapping[str, Number | None], show: Callable[[int], str] = count
) -> list[str]:
    """The numbers of samples and points of results: ["50,000 samples", "2,000 points"].

    Args:
        show: how a number is written.
    """
    counts: dict[str, None] = {}
    for metric, quantity in registry.quantities():
        number = numbers.get(quantity.key)
        if number is not None and number.n is not None:
            counts[f"{show(number.n)} {registry.ROWS[metric.rows].over}"] = None
    return list(counts)


def result_columns(
    lines: Sequence[Mapping[str, Number | None]], *, with_count: bool = False
) -> dict[str, Sequence[Cell]]:
    """A column for each quantity that any line has a result of."""
    columns: dict[str, Sequence[Cell]] = {}
    for quantity in registry.quantities_in(lines):
        columns[quantity.label] = [
            number_text(quantity, line.get(quantity.key), with_count=with_count) for line in lines
        ]
    return columns


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


def share(part: float, whole: float) -> str:
    """A percentage; a dash if the whole is 0."""
    return f"{100 * part / whole:.0f}%" if whole > 0 else "-"


def usage_table(folder: "Folder") -> RenderableType:
    """Runs, then groups, then totals by unit: a line each."""
    lines = [*folder.runs]
    for name, members in folder.groups.items():
        lines += ((f"group {name}", name, usage) for usage in members)
    lines += (("total", None, usage) for usage in folder.totals)
    has_set_aside = any(usage.set_aside for _, _, usage in lines)
    columns = columns_of(
        {
            "run": name,
            "group": group or None,
            "used": f"{hours(usage.used)} {usage.unit}",
            "useful": hours(usage.useful),
            "start-up": hours(usage.startup),
            "preempted": hours(usage.lost_to_preemption),
            "crashed": hours(usage.lost_to_crashes),
            "set aside": hours(usage.set_aside) if has_set_aside else None,
            "waited": duration(usage.waited_s),
            "goodput": share(usage.useful, usage.used),
            "attempts": str(usage.attempts),
        }
        for name, group, usage in lines
    )
    note = (
        "trainings only; preempted and crashed are hours lost to either; waited is the time of "
        "jobs in the queue"
    )
    time_columns = ("set aside", "start-up", "useful", "waited", "preempted", "crashed")
    optional = ("attempts", "group", *time_columns)
    usage_table = TextTable(columns, left=("run", "group"), optional=optional, names="run")
    return Group(usage_table, Text(note, style="dim"))
