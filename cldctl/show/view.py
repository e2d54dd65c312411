"""Progress of several things on stderr: a bar each on a terminal, a line for each phase elsewhere."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from . import console
from .console import BAR, err
from .format import duration
from .tables import state_text
from .wrap import shortened

# Seconds before a file gets a line again about a phase of the same state, such as the pictures during a training.
SAME_EVERY_S = 60.0
_NAME = 24


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is shown of one thing.

    Attributes:
        done, total: steps or rows (``unit``).
        phase: what it does, in words; empty if the state says all.
        facts: more about it, the most important one first.
        elapsed_s, left_s: seconds since it began, and until it will be done; None if nobody knows.
        remark: what is unusual.
    """

    name: str
    done: int
    total: int
    state: str
    phase: str = ""
    unit: str = "steps"
    facts: Sequence[str] = ()
    elapsed_s: float | None = None
    left_s: float | None = None
    remark: str = ""

    @property
    def counted(self) -> str:
        return f"{self.done:,}/{self.total:,} {self.unit}"

    @property
    def line(self) -> str:
        """For a file."""
        what = " ".join(filter(None, (self.name, self.state, self.phase)))
        return "; ".join([f"{what}: {self.counted}", *self.facts, *([self.remark] if self.remark else [])])


class View:
    """A context in which progress is shown on stderr."""

    def __init__(self) -> None:
        self._live = Live(console=err, auto_refresh=False) if console.shows_bars() else None
        self._shown: dict[str, Shown] = {}
        # Of each thing: its newest line, and when phases of its state got a line.
        self._last: dict[str, tuple[str, ...]] = {}
        self._printed: dict[str, dict[tuple[str, ...], float]] = {}

    def __enter__(self) -> "View":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, shown: Shown) -> None:
        """Show how far something is; of the same name, instead of what was shown before."""
        if self._live is None:
            self._print(shown)
            return
        self._shown[shown.name] = shown
        self._live.update(drawn(list(self._shown.values())), refresh=True)

    def _print(self, shown: Shown) -> None:
        if not console.shows_phases():
            return
        key, last = (shown.state, shown.phase, str(bool(shown.remark))), self._last.get(shown.name)
        if key == last:
            return
        if last is None or last[0] != shown.state:
            self._printed[shown.name] = {}
        printed, now = self._printed[shown.name], time.monotonic()
        self._last[shown.name] = key
        if key not in printed or now - printed[key] >= SAME_EVERY_S:
            printed[key] = now
            err.print(shown.line)


def drawn(several: Sequence[Shown]) -> RenderableType:
    """A block for one thing, a line each for several."""
    if len(several) == 1:
        (one,) = several
        head = Text.assemble((shortened(one.name, err.width // 2), "bold"), "  ", state_text(one.state))
        head.append(f"  {one.phase}" if one.phase else "")
        remark = [Text(one.remark, style="yellow", no_wrap=True, overflow="ellipsis")] if one.remark else []
        head.no_wrap, head.overflow = True, "ellipsis"
        return Group(head, _bar_and(one, err.width), *remark)
    width = min(max(len(it.name) for it in several), _NAME)
    doing = max(len(it.phase or it.state) for it in several)
    table = Table.grid(padding=(0, 2))
    for it in several:
        what = Text(it.phase) if it.phase else state_text(it.state)
        room = err.width - width - doing - 4
        table.add_row(Text(shortened(it.name, width)), what, _bar_and(it, room))
    return table


def _bar_and(it: Shown, width: int) -> RenderableType:
    """A bar, and of what is known as much as there is room for: how long it will still take goes last."""
    left = [] if it.left_s is None else [f"{duration(it.left_s)} left"]
    elapsed = [] if it.elapsed_s is None else [f"{duration(it.elapsed_s)} elapsed"]
    share = f"{100 * it.done / it.total:3.0f}%" if it.total else "  0%"
    texts = [share, it.counted, *it.facts, *elapsed, *left]
    for text in (*reversed(it.facts[1:]), *elapsed, share, *it.facts[:1], it.counted):
        if BAR + sum(2 + len(part) for part in texts) > width and text in texts:
            texts.remove(text)
    line = Table.grid(padding=(0, 2))
    line.add_row(ProgressBar(total=it.total or 1, completed=it.done, width=BAR), Text("  ".join(texts), no_wrap=True))
    return line
