"""What a command does while somebody waits: a bar or a spinner on a terminal, a line for each phase elsewhere."""

from types import TracebackType
from typing import TYPE_CHECKING

from rich.text import Text

from cld_core.texts import one_line

from . import console
from .console import err
from .format import duration

if TYPE_CHECKING:
    from rich.progress import Progress

# From so many columns on there is room for a whole bar, and for all that is known.
_WIDE = 100
_BAR = 20


class Working:
    """A context in which a command says what it does. On a terminal, nothing of it stays there.

    Args:
        what: the first phase, such as "loading mine".
        announced: print the first phase in a pipe, too. Not for a command that may still fail with a one-line error.
    """

    def __init__(self, what: str, *, announced: bool = False) -> None:
        self._announced = announced
        self._what, self._said = one_line(what), ""
        self._progress = None
        if console.shows_bars():
            self._progress = bars(is_transient=True)
            self._task = self._progress.add_task("", total=None, head=self._what, known="", left=None)

    def __enter__(self) -> "Working":
        if self._progress is not None:
            self._progress.start()
        if self._announced:
            self._say(self._what)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def phase(self, what: str) -> None:
        """Begin to do something else, of which nobody knows yet how far it is."""
        if one_line(what) != self._what:
            self._what = one_line(what)
            if self._progress is not None:
                self._progress.reset(self._task, total=None, head=self._what, known="", left=None)
            self._say(self._what)

    def at(self, done: int, total: int | None, unit: str = "") -> None:
        """Show how much of the phase is done: a count, if nobody knows of how much."""
        if self._progress is None:
            return
        count = f"{done:,}" if total is None else f"{done:,}/{total:,}"
        self._progress.update(self._task, completed=done, total=total, known=one_line(f"{count} {unit}"))

    def _say(self, what: str) -> None:
        if console.shows_phases() and what != self._said:
            self._said = what
            err.print(what, style="dim")


def bars(*, is_transient: bool = False) -> "Progress":
    """Bars of things with fields: ``head``, ``known`` and ``left``, what is left to do (None: by the rate so far)."""
    # Here, because it takes a while to import, and most commands show nothing.
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task
    from rich.table import Column

    class Field(ProgressColumn):
        def __init__(self, name: str, *, is_whole: bool = True) -> None:
            super().__init__(Column(no_wrap=is_whole))
            self._name = name

        def render(self, task: Task) -> Text:
            value = task.fields[self._name]
            if value is None:
                left = task.time_remaining if task.total is not None else None
                value = f"{duration(left)} left" if left is not None else duration(task.elapsed)
            return value if isinstance(value, Text) else Text(value)

    bar = BarColumn(bar_width=_BAR if err.width >= _WIDE else _BAR // 2)
    columns = (SpinnerColumn(), Field("head", is_whole=False), bar, Field("known"), Field("left"))
    return Progress(*columns, console=err, transient=is_transient)
