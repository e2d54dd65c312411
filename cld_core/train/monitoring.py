"""What a run reports while it trains: `progress.json`, TensorBoard and other loggers. Only rank 0 writes."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from cld_core.config import Recipe
from cld_core.files import Dropping, write_json
from cld_core.run import RunFolder, events
from cld_core.run.folder import ReportedProgress

from . import loggers
from .loggers import About, End

if TYPE_CHECKING:
    from torch import Tensor

# Seconds between two writes of `progress.json`: often enough for status, rarely enough for a shared disk.
PROGRESS_EVERY_S = 1.0
# The weight of the newest loss in the smoothed one.
_NEWEST = 0.1


class Monitor:
    """Measures the rate of training, and writes it with the loss to `progress.json`, its loggers and the log.

    What cannot be written is dropped, and noted in the log and in the ledger: none of it is worth a training.

    Args:
        folder: the run.
        attempt: number of the attempt, from 0.
        first_step: the number of steps that were done when it began.
        steps: the step at which the run is finished.
        may_write: whether this process still owns the run folder; checked before `progress.json` is replaced.
        recipe: the one in force; None for the folder's.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        attempt: int,
        first_step: int,
        steps: int,
        may_write: Callable[[], bool],
        recipe: Recipe | None = None,
    ) -> None:
        self._folder, self._attempt, self._steps = folder, attempt, steps
        about = About(folder=folder, recipe=recipe or folder.recipe(), attempt=attempt, first_step=first_step)
        self._loggers = loggers.opened(about, self._noting)
        self._introduce(about)
        self._progress = Dropping("progress.json", self._noting("progress.json"))
        self._pictures = Dropping("a picture of samples", self._noting("pictures"))
        self._since, self._since_step = time.perf_counter(), first_step
        self._last_loss: float | None = None
        self._rate: float | None = None
        self._written, self._may_write = 0.0, may_write
        self._warning: str | None = None
        self._phase = "starting"
        self._every_s: float | None = None
        self._smoothed: float | None = None
        self._losses = 0

    def report(self, step: int, scalars: dict[str, float]) -> None:
        """Report that ``step`` steps are done; ``scalars["loss"]``, if any, is the mean since the last report."""
        now = time.perf_counter()
        if step > self._since_step:
            fresh = (step - self._since_step) / max(now - self._since, 1e-9)
            self._rate = fresh if self._rate is None else 0.7 * self._rate + 0.3 * fresh
        self._since, self._since_step = now, step
        self._last_loss = scalars.get("loss")
        self._smooth(self._last_loss)
        rate = {} if self._rate is None else {"steps_per_s": self._rate}
        self._plot("train", scalars | rate, step)
        if now - self._written > PROGRESS_EVERY_S:
            self.write(step)

    def _smooth(self, loss: float | None) -> None:
        if loss is not None and math.isfinite(loss):
            self._losses += 1
            # An exponential mean, in which the first losses have equal weights.
            before = loss if self._smoothed is None else self._smoothed
            self._smoothed = before + max(_NEWEST, 1 / self._losses) * (loss - before)

    def enter(self, phase: str, step: int) -> None:
        """Say in `progress.json` what the training does from now on ("saving", "evaluating", ...), if that is new."""
        if phase != self._phase:
            self._phase = phase
            self._replace(step)

    def warn(self, line: str | None, warning: str | None) -> None:
        """Write a line to the log; what is wrong, if anything, is part of `progress.json` until the next call."""
        if line is not None:
            print(line, flush=True)
        if warning is not None and warning != self._warning:
            print(f"warning: {warning}", flush=True)
        self._warning = warning

    def add(self, step: int, scalars: dict[str, float]) -> None:
        """Plot results of periodic work beside the training curves."""
        self._plot("periodic", scalars, step)

    def add_picture(self, step: int, pixels: "Tensor") -> None:
        """Show a picture of samples, uint8 (H, W, C)."""
        for logger in self._loggers:
            logger.picture("periodic/samples", pixels, step)

    def save_picture(self, draw: Callable[[], object]) -> None:
        """Let ``draw`` write a picture into the run folder."""
        self._pictures.attempt(draw)

    def started(self, step: int, seconds: float) -> None:
        """Report how long it took from loading to the end of the first step, which compiles; the rate leaves it out."""
        self._plot("train", {"first_step_s": seconds}, step)
        print(f"first step done after {seconds:.1f} s", flush=True)
        self.resume_clock(step)
        self.enter("training", step)

    def resume_clock(self, step: int) -> None:
        """Do not count the time since the last report, at the same step, as training time."""
        self._since, self._since_step = time.perf_counter(), step

    def write(self, step: int, phase: str | None = None) -> None:
        """Replace `progress.json`, and print the same to the log; ``phase`` as for `enter`."""
        self._phase = phase or self._phase
        before, self._written = self._written, time.perf_counter()
        if before > 0:
            self._every_s = round(self._written - before, 3)
        self._replace(step)
        loss = "-" if self._last_loss is None else f"{self._last_loss:.5g}"
        if self._smoothed is not None:
            loss += f" (smoothed {self._smoothed:.5g})"
        rate = "-" if self._rate is None else f"{self._rate:.4g}"
        print(f"step {step}/{self._steps} loss {loss} steps/s {rate}", flush=True)

    def _replace(self, step: int) -> None:
        progress = ReportedProgress(
            attempt=self._attempt,
            step=step,
            steps=self._steps,
            loss=self._last_loss,
            steps_per_s=self._rate,
            time=time.time(),
            phase=self._phase,
        )
        if self._every_s is not None:
            progress["every_s"] = self._every_s
        if self._smoothed is not None:
            progress["smoothed_loss"] = self._smoothed
        if self._warning is not None:
            progress["warning"] = self._warning
        if self._may_write():
            self._progress.attempt(lambda: write_json(self._folder.progress_file, progress))

    def close(self, end: End = "finished") -> None:
        """Let the loggers write what is left. Those that are slow get a few seconds."""
        loggers.close(self._loggers, end)

    def leave(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close at the end of a `with` block: what it ended by, and the last step, say how the training ended."""
        done: End = "finished" if self._since_step >= self._steps else "stopped"
        self.close("failed" if kind is not None else done)

    def _introduce(self, about: About) -> None:
        """Show the loggers the recipe, and which attempt this is."""
        texts = {"recipe": loggers.recipe_text(about.recipe)}
        # A ledger that cannot be read at this moment keeps nothing from training.
        with contextlib.suppress(OSError):
            texts["attempt"] = loggers.attempt_text(about)
        for name, text in texts.items():
            for logger in self._loggers:
                logger.text(f"run/{name}", text, about.first_step)

    def _plot(self, group: str, scalars: Mapping[str, float], step: int) -> None:
        values = {f"{group}/{name}": value for name, value in scalars.items()}
        for logger in self._loggers:
            logger.scalars(values, step)

    def _noting(self, what: str) -> Callable[[int, str], object]:
        """What notes in the ledger that something was dropped for a while."""

        def note(count: int, reason: str) -> None:
            self._folder.ledger.note(events.Dropped(what=what, count=count, reason=reason))

        return note
