"""The list of runs as lines of text, which fit the width that there is: names are shortened first."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from cldctl.runs.state import WAITS
from cldctl.runs.status import RunStatus
from cldctl.show.format import duration, number, short, shortened
from cldctl.show.tables import state_text

from .arrange import GroupLine, Line, counts
from .fitting import cut, cut_in_the_middle, left, right
from .sparks import sparkline

# Columns of a name at least, or more if names that differ would look the same; and what a name gives to others at most.
_LEAST_NAME, _NAME = 12, 40
# Of why a run waits or failed, if the line has room for it.
_LEAST_WHY, _WHY = 16, 60
_SPARK = 10
# Columns that are left out if there is no room for them, the first of them first; the ETA goes last.
_LEFT_OUT = ("steps/s", "curve", "loss", "step", "ETA")


@dataclass(frozen=True)
class Layout:
    """How many columns everything has; a column that is left out is not in ``widths``."""

    name: int
    widths: dict[str, int]
    why: int


def layout(rows: Sequence[RunStatus], width: int) -> Layout:
    """What fits into ``width`` columns."""
    widths = {"state": 9, "step": 11, "curve": _SPARK, "loss": 8, "steps/s": 7, "ETA": 6}
    # A run of a group is set in.
    least = max((least_of(names, _LEAST_NAME) + inset for names, inset in _names(rows)), default=_LEAST_NAME)
    longest = max((cell_len(row.name) + 2 * (row.group is not None) for row in rows), default=_LEAST_NAME)

    def room() -> int:
        return width - 2 - sum(size + 1 for size in widths.values())

    for column in _LEFT_OUT:
        if room() < least:
            del widths[column]
    why = room() - min(longest, _NAME) - 1
    why = 0 if why < _LEAST_WHY else min(why, _WHY)
    name = room() - (why + 1 if why else 0)
    return Layout(min(name, max(longest, _LEAST_NAME)), widths, why)


def least_of(names: Iterable[object], least: int) -> int:
    """The smallest width, from ``least`` to a bound, at which names that differ still look different."""
    texts = {str(name) for name in names}
    for width in range(least, _NAME):
        if len({shortened(text, width) for text in texts}) == len(texts):
            return width
    return _NAME


def _names(rows: Sequence[RunStatus]) -> list[tuple[list[str], int]]:
    """The names of those that belong to no group, and of the others, with the columns that they are set in."""
    alone, members = ([row.name for row in rows if (row.group is not None) == is_member] for is_member in (False, True))
    return [(names, inset) for names, inset in ((alone, 0), (members, 2)) if names]


def heading(shape: Layout) -> Text:
    """The names of the columns."""
    cells = [left("  run", shape.name + 2), *(_heading(name, size) for name, size in shape.widths.items())]
    return Text(" ".join([*cells, *(["why"] if shape.why else [])]), "bold", no_wrap=True)


def _heading(name: str, width: int) -> str:
    return left("loss curve" if name == "curve" else name, width) if name in ("state", "curve") else right(name, width)


def run_line(row: RunStatus, shape: Layout, losses: Sequence[float], *, is_member: bool, is_chosen: bool) -> Text:
    """A run in one line."""
    mark = "› " if is_chosen else "  "
    name = ("  " if is_member else "") + cut_in_the_middle(row.name, shape.name - 2 * is_member)
    line = Text(no_wrap=True)
    line.append(mark + left(name, shape.name))
    state = state_text(row.state)
    state.truncate(shape.widths["state"], pad=True)
    line.append(" ").append_text(state)
    rest = [column for column in shape.widths if column != "state"]
    if not row.is_readable:
        return _with_reason(line, row, shape, rest, "red")
    after = [column for column in rest if column != "step"]
    if row.state in WAITS and row.reason and not shape.why and row.eta_s is None:
        if "step" in rest:
            line.append(" " + right(_CELLS["step"](row), shape.widths["step"]))
        return _with_reason(line, row, shape, after, "yellow")
    for column in rest:
        if column == "curve":
            line.append(" " + left(sparkline(losses, shape.widths[column]), shape.widths[column]), "cyan")
        else:
            line.append(" " + right(_CELLS[column](row), shape.widths[column]))
    if shape.why:
        line.append(" " + cut(why(row), shape.why), "dim")
    return line


def _with_reason(line: Text, row: RunStatus, shape: Layout, columns: Sequence[str], style: str) -> Text:
    """The reason instead of these columns, which are empty, and of what is behind them."""
    room = sum(shape.widths[column] + 1 for column in columns) - 1 + (shape.why + 1 if shape.why else 0)
    return line.append(" " + cut(row.reason or "", room), style) if room > 0 else line


def why(row: RunStatus) -> str:
    """Why a run waits, failed or stopped; else its note."""
    last = row.attempts[-1]["cause"] if row.attempts else None
    return row.reason or (f"{last}" if last and row.state in ("STOPPED", "FAILED", "LOST") else "") or row.note or ""


def group_line(line: GroupLine, width: int, *, is_chosen: bool) -> Text:
    """The heading of a group in one line: how many of its runs are in which state."""
    text = Text(no_wrap=True)
    text.append(f"{'› ' if is_chosen else '  '}{'▸' if line.is_folded else '▾'} ")
    states = "  ".join(f"{count} {state}" for state, count in counts(line.rows))
    room = width - 4 - 2 - cell_len(states)
    text.append(cut_in_the_middle(line.name, max(room, 8)), "bold")
    before = cell_len(text.plain)
    text.append("  " + cut(states, max(width - before - 2, 0)), "dim")
    return text


def line_text(line: Line, shape: Layout, width: int, losses: Sequence[float], *, is_chosen: bool) -> Text:
    """Any line of the list."""
    if isinstance(line, GroupLine):
        return group_line(line, width, is_chosen=is_chosen)
    return run_line(line.row, shape, losses, is_member=line.is_member, is_chosen=is_chosen)


def _rate(value: float | None) -> str:
    return "-" if value is None else short(round(value)) if value >= 1000 else number(value, 3)


_CELLS: dict[str, Callable[[RunStatus], str]] = {
    "step": lambda row: f"{short(row.step)}/{short(row.steps)}",
    "loss": lambda row: number(row.shown_loss),
    "steps/s": lambda row: _rate(row.steps_per_s),
    "ETA": lambda row: duration(row.eta_s),
}
