"""What a command does while somebody waits: a bar or a spinner on a terminal, a line for each phase elsewhere."""

from types import TracebackType

from cld_core.texts import one_line

from . import console
from .console import BAR, err


class Working:
    """A context in which a command says what it does. On a terminal, nothing of it stays there.

    Args:
        what: the first phase, such as "loading mine".
    """

    def __init__(self, what: str) -> None:
        self._what, self._said = one_line(what), ""
        self._progress = None
        if console.shows_bars():
            # Here, because it takes a while to import, and most commands show nothing.
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=BAR),
                TextColumn("{task.fields[count]}", markup=False),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}", markup=False),
            )
            self._progress = Progress(*columns, console=err, transient=True)
            self._task = self._progress.add_task(self._what, total=None, count="", left="")

    def __enter__(self) -> "Working":
        if self._progress is not None:
            self._progress.start()
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
                self._progress.reset(self._task, description=self._what, total=None, count="", left="")
            self._say(self._what)

    def at(self, done: int, total: int | None, unit: str = "") -> None:
        """Show how much of the phase is done: a count, if nobody knows of how much."""
        if self._progress is None:
            return
        count = f"{done:,}" if total is None else f"{done:,}/{total:,}"
        self._progress.update(self._task, completed=done, total=total, count=one_line(f"{count} {unit}"))
        left = self._progress.tasks[0].time_remaining
        if total is not None and left is not None:
            from .format import duration

            self._progress.update(self._task, left=f"{duration(left)} left" if done < total else "")

    def _say(self, what: str) -> None:
        if console.shows_phases() and what != self._said:
            self._said = what
            err.print(what, style="dim", soft_wrap=True)
