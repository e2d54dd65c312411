"""Two loops in the background: one asks what the runs are doing, the other reads the files of what is on the screen.

The first asks as `status --watch` does, and may have to wait for a scheduler; the second waits for nobody.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cld_core.run import RunFolder
from cldctl.page.curves import Curve
from cldctl.runs.index import Index
from cldctl.runs.selection import Selection
from cldctl.runs.state import OVER
from cldctl.runs.status import RunStatus, said
from cldctl.runs.survey import Answers
from cldctl.show.runs import Look, Query

from .detail import Detail, detail_of

# Seconds between two looks, as of `status --watch`.
EVERY_S = 1.0


class RunFeed:
    """Asks what the runs of a folder are doing.

    Args:
        which: the runs that are shown.
        everything: show those that ended long ago, too.
    """

    def __init__(self, root: Path, which: Selection, *, everything: bool) -> None:
        self.root = root
        self._which, self._everything = which, everything
        self._query: Query | None = None
        self._last = Look()
        # When the look that goes on has begun, by the monotonic clock; None between two.
        self.since: float | None = None

    def look(self) -> Look:
        """Ask once. It never raises: of a look that fails, the rows are those of the one before."""
        self.since = time.monotonic()
        try:
            self._query = self._query or Query(Index(self.root), self._which, self._everything)
            self._last = self._query.look()
        except Exception as error:
            self._last = replace(self._last, problem=f"{self.root}: {said(error)}")
        self.since = None
        return self._last

    def go_on(self, publish: Callable[[Look], object], wait: Callable[[float], bool]) -> None:
        """Look again and again.

        Args:
            wait: waits for so many seconds; returns whether to end.
        """
        while True:
            publish(self.look())
            if wait(EVERY_S):
                return


class FileFeed:
    """Reads the files of what is on the screen: the loss of every run, everything about the selected one.

    Attributes:
        curves: by the path of a run.
        problem: why the last read failed.
    """

    def __init__(self) -> None:
        self.curves: dict[str, Curve] = {}
        self.problem: str | None = None
        self._selected: RunStatus | None = None
        self._shown: Sequence[RunStatus] = ()
        self._answers = Answers({})
        self._changed = threading.Event()
        self._is_over = False
        # Of runs whose curve is complete, the state and step that it was read for.
        self._complete: dict[str, tuple[str, int]] = {}

    def losses(self, row: RunStatus) -> Sequence[float]:
        """What is known of the losses of a run."""
        curve = self.curves.get(row.path)
        return () if curve is None else curve.shown

    def want(self, selected: RunStatus | None, shown: Sequence[RunStatus], answers: Answers) -> None:
        """Read this from now on; if another run is selected, at once."""
        is_other = selected is not None and (self._selected is None or self._selected.path != selected.path)
        self._selected, self._shown, self._answers = selected, shown, answers
        if is_other:
            self._changed.set()

    def end(self) -> None:
        self._is_over = True
        self._changed.set()

    def read(self) -> Detail | None:
        """Read once; everything about the run that is selected."""
        selected, rows = self._selected, self._shown
        detail = None if selected is None else detail_of(selected, self._answers)
        rows = [*([selected] if selected is not None else []), *rows]
        curves = {row.path: self.curves.get(row.path) or Curve() for row in rows}
        for row in rows:
            if row.state in OVER and self._complete.get(row.path) == (row.state, row.step):
                continue
            if curves[row.path].look(RunFolder(row.path)):
                # There is more of it: the other runs come first.
                self._changed.set()
            else:
                self._complete[row.path] = row.state, row.step
        self.curves = curves
        self._complete = {path: seen for path, seen in self._complete.items() if path in curves}
        return detail

    def go_on(self, publish: Callable[[Detail | None], object]) -> None:
        """Read again and again, until `end`, whatever goes wrong: `problem` says what."""
        while not self._is_over:
            self._changed.clear()
            detail = None
            try:
                detail, self.problem = self.read(), None
            except Exception as error:
                self.problem = f"the files of runs cannot be read: {said(error)}"
            publish(detail)
            self._changed.wait(EVERY_S)
