"""Two loops in the background: one asks what the runs are doing, the other reads the files of what is on the screen.

The first asks as `status --watch` does, and may have to wait for a scheduler; the second waits for nobody.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cld_core.run import RunFolder
from cld_core.texts import one_line
from cldctl.runs import selection, survey
from cldctl.runs.index import Index
from cldctl.runs.selection import Selection
from cldctl.runs.state import OVER
from cldctl.runs.status import RunStatus
from cldctl.runs.survey import Answers

from .detail import Detail, detail_of
from .losses import Losses

# Seconds between two looks, as of `status --watch`.
EVERY_S = 1.0
# Waits up to so many seconds; whether the loop is to end.
Wait = Callable[[float], bool]


@dataclass(frozen=True)
class Look:
    """What was seen in one look.

    Attributes:
        rows: oldest first; of a look that failed, those of the one before.
        older: how many more ended over a week ago.
        remarks: what is worth knowing about the answers of clusters, and about folders that cannot be seen.
        problem: why nothing could be seen.
        found: all runs of the folder, those that are not listed, too.
    """

    rows: Sequence[RunStatus] = ()
    older: int = 0
    answers: Answers = field(default_factory=lambda: Answers({}))
    remarks: Sequence[str] = ()
    problem: str | None = None
    found: Sequence[RunStatus] = ()


class Looker:
    """Asks what the runs of a folder are doing.

    Args:
        which: the runs that are shown.
        everything: show those that ended long ago, too.
    """

    def __init__(self, root: Path, which: Selection, *, everything: bool) -> None:
        self.root = root
        self._which, self._everything = which, everything
        self._index: Index | None = None
        self._last = Look()
        # When the look that goes on has begun, by the monotonic clock; None between two.
        self.since: float | None = None

    def look(self) -> Look:
        """Ask once. It never raises."""
        self.since = time.monotonic()
        try:
            self._last = self._look()
        except Exception as error:
            text = one_line(error) or type(error).__name__
            self._last = replace(self._last, remarks=(), problem=f"{self.root}: {text}")
        finally:
            self.since = None
        return self._last

    def _look(self) -> Look:
        self._index = self._index or Index(self.root)
        found = self._index.look(max_age_s=survey.TO_LOOK_S)
        rows = shown = self._which.of(found.rows)
        if not self._everything and self._which.is_empty:
            since = time.time() - selection.RECENT_S
            shown = [row for row in rows if selection.is_since(row, since)]
        closed = [f"{name}: {reason}" for name, reason in found.closed.items()]
        remark = [found.answers.remark] if found.answers.remark else []
        return Look(shown, len(rows) - len(shown), found.answers, [*remark, *closed], found=found.rows)

    def go_on(self, publish: Callable[[Look], object], wait: Wait) -> None:
        """Look again and again."""
        while True:
            publish(self.look())
            if wait(EVERY_S):
                return


@dataclass(frozen=True)
class Wanted:
    """What is on the screen: the run that is selected, and those whose curves are shown."""

    selected: RunStatus | None = None
    shown: Sequence[RunStatus] = ()
    answers: Answers = field(default_factory=lambda: Answers({}))


class Reader:
    """Reads the files of what is on the screen: the loss of every run, everything about the selected one."""

    def __init__(self) -> None:
        self.losses = Losses()
        # Why the last read failed.
        self.problem: str | None = None
        self._wanted = Wanted()
        self._changed = threading.Event()
        self._is_over = False
        # Of runs whose curve is complete, the row that it was read for.
        self._complete: dict[Path, RunStatus] = {}

    def want(self, wanted: Wanted) -> None:
        """Read this from now on; if another run is selected, or other ones are shown, at once."""
        before, self._wanted = self._wanted, wanted
        if _names(before) != _names(wanted):
            self._changed.set()

    def end(self) -> None:
        self._is_over = True
        self._changed.set()

    def read(self) -> Detail | None:
        """Read once; everything about the run that is selected."""
        wanted = self._wanted
        detail = None if wanted.selected is None else detail_of(wanted.selected, wanted.answers)
        rows = [*([wanted.selected] if wanted.selected else []), *wanted.shown]
        for row in rows:
            self._read_losses(row)
        kept = {Path(row.path) for row in rows}
        self.losses.forget_others(kept)
        self._complete = {path: row for path, row in self._complete.items() if path in kept}
        return detail

    def _read_losses(self, row: RunStatus) -> None:
        path = Path(row.path)
        before = self._complete.get(path)
        if before is not None and row.state in OVER and before.step == row.step and before.state == row.state:
            return
        if self.losses.look(RunFolder(path)):
            # There is more of it: the other runs come first.
            self._complete.pop(path, None)
            self._changed.set()
        else:
            self._complete[path] = row

    def go_on(self, publish: Callable[[Detail | None], object]) -> None:
        """Read again and again, until `end`, whatever goes wrong: `problem` says what."""
        while not self._is_over:
            self._changed.clear()
            detail = None
            try:
                detail, self.problem = self.read(), None
            except Exception as error:
                text = one_line(error) or type(error).__name__
                self.problem = f"the files of runs cannot be read: {text}"
            publish(detail)
            self._changed.wait(EVERY_S)


def _names(wanted: Wanted) -> tuple[str | None, list[str]]:
    return None if wanted.selected is None else wanted.selected.path, [row.path for row in wanted.shown]
