"""The list of runs: alive ones first, newest first, those of a group together below a heading that folds them."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.console import RenderableType
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DataTable

from cld_core.texts import one_line
from cldctl.runs.selection import Selection
from cldctl.runs.state import ALIVE, OVER, RESUMABLE, WAITS
from cldctl.runs.status import RunStatus
from cldctl.show.format import duration, number, short
from cldctl.show.runs import states
from cldctl.show.tables import state_text

from .detail import LossCurve

# Keys that show runs of some states only, what they are called, and the states; none for all.
FILTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "0": ("all", ()),
    "1": ("alive", ALIVE),
    "2": ("running", ("RUNNING",)),
    "3": ("waiting", WAITS),
    "4": ("stopped", ("STOPPED", "CANCELLED")),
    "5": ("failed", ("FAILED", "LOST")),
    "6": ("finished", ("FINISHED",)),
}
_COLUMNS = ("run", "state", "step", "ETA", "loss", "curve", "steps/s", "why")
_CURVE = 10


@dataclass(frozen=True)
class Line:
    """A run, or the heading of a group of several runs.

    Attributes:
        row: the run; None of a group.
        group: the group, also of a run below its heading.
        members: of a group, those of its runs that are listed.
    """

    row: RunStatus | None
    group: str | None = None
    members: tuple[RunStatus, ...] = ()
    is_folded: bool = False

    @property
    def name(self) -> str:
        return self.row.name if self.row is not None else self.group or ""

    @property
    def key(self) -> str:
        return f"{'group' if self.row is None else 'run'} {self.name}"


def arranged(rows: Iterable[RunStatus], turned: Collection[str] = ()) -> list[Line]:
    """The lines of a list of runs.

    Args:
        turned: names of groups that somebody has folded or unfolded. The others are folded once all their runs are
            over.
    """
    by_name = sorted(rows, key=lambda row: row.name)
    groups: dict[str, list[RunStatus]] = {}
    for row in sorted(by_name, key=lambda row: (row.state not in OVER, row.created or 0.0), reverse=True):
        # A run without a group is one of its own; no group has the name of its path.
        groups.setdefault(row.group or row.path, []).append(row)
    lines: list[Line] = []
    for name, members in groups.items():
        if len(members) == 1:
            lines.append(Line(members[0]))
            continue
        is_folded = all(row.state in OVER for row in members) != (name in turned)
        lines.append(Line(None, name, tuple(members), is_folded))
        lines += [] if is_folded else [Line(row, name) for row in members]
    return lines


def matching(rows: Iterable[RunStatus], key: str, words: str) -> list[RunStatus]:
    """The runs of the states of a key of `FILTERS`, in which each of the words is found.

    A word is looked for in name, group, tags, note, user, state and reason, in any case.
    """
    chosen = Selection(states=frozenset(FILTERS[key][1])).of(rows)
    return [row for row in chosen if all(word in _text(row) for word in words.lower().split())]


def _text(row: RunStatus) -> str:
    parts = (row.name, row.group, *row.tags, row.note, row.user, row.state, row.reason)
    return " ".join(part for part in parts if part).lower()


class RunTable(DataTable[RenderableType]):
    """The list on the screen.

    Args:
        losses: what is known of the losses of a run.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,l", "screen.logs", "Logs"),
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
        Binding("home,g", "scroll_top", "First", show=False),
        Binding("end,G", "scroll_bottom", "Last", show=False),
        Binding("left", "scroll_left", "Scroll left", show=False),
        Binding("right", "scroll_right", "Scroll right", show=False),
    ]

    def __init__(self, losses: Callable[[RunStatus], Sequence[float]]) -> None:
        super().__init__(cursor_type="row", fixed_columns=1)
        self._losses = losses
        self.lines: list[Line] = []

    def on_mount(self) -> None:
        for name in _COLUMNS:
            self.add_column(Text(name), key=name, width=_CURVE if name == "curve" else None)

    @property
    def selected(self) -> Line | None:
        return self.lines[self.cursor_row] if 0 <= self.cursor_row < len(self.lines) else None

    @property
    def visible_rows(self) -> list[RunStatus]:
        shown = self.lines[self.scroll_offset.y :][: self.size.height]
        return [line.row for line in shown if line.row is not None]

    def show(self, lines: Sequence[Line]) -> None:
        """Show other lines; the same run stays selected, or the one that takes its place."""
        before, cells = self.selected, {line.key: self._cells_of(line) for line in lines}
        self.lines = list(lines)
        if list(cells) == [key.value for key in self.rows]:
            for key, row in cells.items():
                for column, old, new in zip(_COLUMNS, self.get_row(key), row, strict=True):
                    if old != new:
                        self.update_cell(key, column, new, update_width=True)
        else:
            place = self.cursor_row
            self.clear()
            for key, row in cells.items():
                self.add_row(*row, key=key)
            keys = list(cells)
            self.move_cursor(row=keys.index(before.key) if before is not None and before.key in keys else place)

    def _cells_of(self, line: Line) -> list[RenderableType]:
        row = line.row
        if row is None:
            name = Text(f"{'▸' if line.is_folded else '▾'} {line.name}", "bold", no_wrap=True)
            steps = sum(row.step for row in line.members), sum(row.steps or 0 for row in line.members)
            about = {"state": Text(f"{len(line.members)} runs", "dim"), "why": Text(states(line.members))}
            cells = {"run": name, "step": _right("/".join(map(short, steps))), **about}
            return [cells.get(column, Text()) for column in _COLUMNS]
        losses = self._losses(row)
        style = "red" if row.state in ("FAILED", "LOST") else "yellow" if row.state in WAITS else "dim"
        return [
            Text("  " * (line.group is not None) + one_line(row.name), no_wrap=True),
            state_text(row.state),
            _right(f"{short(row.step)}/{short(row.steps)}"),
            _right(duration(row.eta_s)),
            _right(number(row.shown_loss)),
            LossCurve(losses, _CURVE) if losses else Text(),
            _right(number(row.steps_per_s, 3)),
            Text(one_line(_why(row)), style, no_wrap=True),
        ]


def _right(text: str) -> Text:
    return Text(text, justify="right", no_wrap=True)


def _why(row: RunStatus) -> str:
    """Why a run waits, failed or stopped; else its note."""
    last = row.attempts[-1]["cause"] if row.attempts and row.state in RESUMABLE else None
    return row.reason or last or row.note or ""
