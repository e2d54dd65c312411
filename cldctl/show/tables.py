"""What all views of runs share: how a table is drawn, and how states, results, attempts and tunings are written."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cld_core.evaluation import registry
from cld_core.evaluation.definitions import Quantity
from cld_core.texts import printable
from cldctl.runs.state import STATES
from cldctl.runs.status import RunStatus

from .console import out
from .format import age, count, duration, number, shortened

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
    empty = [heading for heading in optional if out.is_terminal and _is_empty(columns.get(heading, ()))]
    for heading in (*empty, *optional):
        if heading in empty or not _fits(widths, least):
            widths.pop(heading, None)
    shown = {heading: columns[heading] for heading in widths}
    if not _fits(widths, least):
        return _under(title, *_lists(columns))
    if names is not None:
        others = sum(min(width, least.get(it, width)) for it, width in widths.items() if it != names)
        widths[names] = min(widths[names], max(out.width - others - _GAP * len(widths), _NAME))
        shown[names] = [shortened(str(cell), widths[names]) for cell in columns[names]]
    if len(next(iter(shown.values()), ())) > MANY:
        return _under(title, Text("\n".join(_lines(shown, widths, right)), no_wrap=True, overflow="ignore"))
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


def _fits(widths: Mapping[str, int], least: Mapping[str | None, int]) -> bool:
    """Whether there is room for columns, of which some may be as narrow as ``least`` says."""
    needed = sum(min(width, least.get(heading, width)) for heading, width in widths.items())
    return needed + _GAP * len(widths) <= out.width


def _lines(columns: Mapping[str, Sequence[Cell]], widths: Mapping[str, int], right: Collection[str]) -> Iterator[str]:
    sides = {heading: str.rjust if heading in right else str.ljust for heading in widths}
    yield ""
    for cells in (list(columns), None, *zip(*columns.values(), strict=True)):
        if cells is None:
            yield " " + "─" * (sum(widths.values()) + _GAP * (len(widths) - 1))
        else:
            texts = (
                sides[heading](printable(str(cell), keep=""), width)
                for (heading, width), cell in zip(widths.items(), cells, strict=True)
            )
            yield f" {(_GAP * ' ').join(texts)} "


def _is_empty(cells: Sequence[Cell]) -> bool:
    return all(str(cell) in ("-", "") for cell in cells)


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


def present_in(evals: Sequence[Mapping[str, Any]]) -> list[Quantity]:
    """The numbers that any of these evaluations has, in the order of the table of metrics."""
    return [
        quantity for _, quantity in registry.quantities() if any(quantity.key in entry["results"] for entry in evals)
    ]


def result_of(entry: Mapping[str, Any], quantity: Quantity, *, with_count: bool = False) -> str:
    """A result of an evaluation's row of ``status``; a dash if it has none.

    Args:
        with_count: add of how many samples or test points it is.
    """
    result = entry["results"].get(quantity.key)
    if not result:
        return "-"
    text, of = result_text(quantity, result["value"], result["stderr"]), counts_of(entry, [quantity])
    return f"{text} ({', '.join(of)})" if with_count and of else text


def counts_of(
    entry: Mapping[str, Any], quantities: Iterable[Quantity] | None = None, show: Callable[[int], str] = count
) -> list[str]:
    """Of how many samples and test points the results of an evaluation are: ["50,000 samples", "2,000 points"].

    Args:
        quantities: of which results; None for all.
    """
    keys = None if quantities is None else {quantity.key for quantity in quantities}
    words = (
        f"{show(result['n'])} {registry.ROWS[metric.rows].over}"
        for metric, quantity in registry.quantities()
        if (result := entry["results"].get(quantity.key)) and result.get("n") is not None
        if keys is None or quantity.key in keys
    )
    return list(dict.fromkeys(words))


def result_text(quantity: Quantity, value: float, stderr: float | None) -> str:
    """A result and its standard error, with the decimals of its kind."""
    error = "" if stderr is None else f" ± {stderr:.{quantity.digits}f}"
    return f"{value:.{quantity.digits}f}{error}"


def cell_text(quantity: Quantity, row: Mapping[str, Any]) -> str:
    """`result_text` of a row of a sweep (`evals.table.rows`) that has the result, with the share of lost samples."""
    text = result_text(quantity, row[quantity.key], row[f"{quantity.key}_stderr"])
    share = row.get(f"{quantity.key}_nonfinite")
    return f"{text} ({100 * share:.2g}% lost)" if share else text


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


def tuning_columns(entries: Sequence[Mapping[str, Any]]) -> dict[str, Sequence[Cell]]:
    """Tunings: how far they are, rms distances from the network's flow, and what was gained."""
    return {
        "tuning": [it["id"] for it in entries],
        "state": [it["state"] for it in entries],
        "NFE": [str(it["nfe"]) for it in entries],
        "step": [count(it["checkpoint_step"]) for it in entries],
        "rows": [f"{count(it['rows_done'])}/{count(it['rows'])}" for it in entries],
        "kept": [it["kept"] or "-" for it in entries],
        "untuned rms": [number(it["rms"].get("untuned"), 3) for it in entries],
        "rms": [number(it["rms"].get(it["kept"]), 3) for it in entries],
        "gain": ["-" if it["gain"] is None else f"{it['gain']:.1f}x" for it in entries],
    }


def short_keys(keys: Sequence[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Keys of recipes with their headings: the last part of each, or the key if another heading is the same."""
    shorts = [key.rpartition(".")[2] for key in keys]
    return {
        key: short if shorts.count(short) == 1 and short not in taken else key
        for key, short in zip(keys, shorts, strict=True)
    }
