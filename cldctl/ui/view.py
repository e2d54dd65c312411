"""Progress of several things: a bar each on a terminal, a line from time to time elsewhere."""

import time

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from .console import err

# Seconds between two lines if stderr is not a terminal, and between two that are the same.
LINE_EVERY_S, SAME_EVERY_S = 5.0, 60.0


class View:
    """A context in which progress is shown on stderr."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}", markup=False),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", markup=False),
            TextColumn("{task.fields[text]}", markup=False),
        )
        self._progress = Progress(*columns, console=err, expand=True) if err.is_terminal else None
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, tuple[float, str, str]] = {}

    def __enter__(self) -> "View":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, name: str, done: int, total: int, state: str, text: str) -> None:
        """Show that ``done`` of ``total`` steps or rows are complete."""
        if self._progress is not None:
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(name, total=total, state=state, text=text)
            self._progress.update(self._tasks[name], completed=done, total=total, state=state, text=text)
            return
        line = f"{name} {state} {done}/{total} {text}"
        when, before, last = self._printed.get(name, (0.0, "", ""))
        every = SAME_EVERY_S if line == last else LINE_EVERY_S
        if state != before or time.monotonic() - when > every:
            self._printed[name] = (time.monotonic(), state, line)
            err.print(line, markup=False, soft_wrap=True)
