"""What a run reports while it trains: `progress.json`, TensorBoard and other loggers. Only rank 0 writes."""

import math
import time
from collections.abc import Callable, Mapping
from operator import methodcaller
from types import TracebackType
from typing import TYPE_CHECKING

from cld_core.files import Dropping, write_json
from cld_core.run import events
from cld_core.run.folder import ReportedProgress

from . import loggers
from .loggers import About, End, Work

if TYPE_CHECKING:
    from torch import Tensor

# Seconds between two writes of `progress.json`: often enough for status, rarely enough for a shared disk.
PROGRESS_EVERY_S = 1.0
# The weight of the newest loss in the smoothed one, an exponential mean over reports. The first ten have equal weights.
_NEWEST = 0.1


class Monitor:
    """Measures the rate of training, and writes it with the loss to `progress.json`, its loggers and the log.

    What cannot be written is dropped, and noted in the log and in the ledger: none of it is worth a training.

    Args:
        may_write: whether this process still owns the run folder; checked before `progress.json` is replaced.
        speaks: False on ranks other than the first, which report nothing.
    """

    def __init__(self, about: About, *, may_write: Callable[[], bool], speaks: bool = True) -> None:
        self._folder, self._steps = about.folder, about.recipe.train.steps
        self._may_write, self._speaks = may_write, speaks
        self._loggers = loggers.opened(about, self._noting) if speaks else []
        for name, text in loggers.texts_about(about).items() if speaks else ():
            self._tell(methodcaller("text", f"run/{name}", text, about.first_step))
        self._writing = Dropping("progress.json", self._noting("progress.json"))
        self._pictures = Dropping("a picture of samples", self._noting("pictures"))
        self._since = time.perf_counter()
        self._since_step = about.first_step
        self._written = 0.0
        self._losses = 0
        self._progress = ReportedProgress(
            attempt=about.attempt,
            step=about.first_step,
            steps=self._steps,
            loss=None,
            steps_per_s=None,
            time=time.time(),
            phase="starting",
        )

    def report(self, step: int, scalars: dict[str, float]) -> None:
        """Report that ``step`` steps are done; ``scalars["loss"]``, if any, is the mean since the last report."""
        now = time.perf_counter()
        progress = self._progress
        loss = scalars.get("loss")
        rate = progress["steps_per_s"]
        if step > self._since_step:
            fresh = (step - self._since_step) / max(now - self._since, 1e-9)
            rate = progress["steps_per_s"] = fresh if rate is None else 0.7 * rate + 0.3 * fresh
        self._since, self._since_step = now, step
        progress["loss"] = loss
        if loss is not None and math.isfinite(loss):
            self._losses += 1
            before = progress.get("smoothed_loss", loss)
            progress["smoothed_loss"] = before + max(_NEWEST, 1 / self._losses) * (loss - before)
        self._plot("train", scalars if rate is None else {**scalars, "steps_per_s": rate}, step)
        if now - self._written > PROGRESS_EVERY_S:
            self.write(step)

    def say(self, line: str) -> None:
        """Write a line to the log."""
        if self._speaks:
            print(line, flush=True)

    def enter(self, phase: str, step: int) -> None:
        """Say in `progress.json` what the training does from now on ("saving", "evaluating", ...), if that is new."""
        if phase != self._progress["phase"]:
            self._progress["phase"] = phase
            self._replace(step)

    def warn(self, line: str, warning: str | None) -> None:
        """Write a line to the log; what is wrong, if anything, is part of `progress.json` until the next call."""
        self.say(line)
        if warning is None:
            self._progress.pop("warning", None)
        elif warning != self._progress.get("warning"):
            self.say(f"warning: {warning}")
            self._progress["warning"] = warning

    def add(self, step: int, scalars: dict[str, float]) -> None:
        """Plot results of periodic work beside the training curves."""
        self._plot("periodic", scalars, step)

    def add_picture(self, step: int, pixels: "Tensor") -> None:
        """Show a picture of samples, uint8 (H, W, C)."""
        self._tell(lambda logger: logger.picture("periodic/samples", pixels, step))

    def save_picture(self, draw: Callable[[], object]) -> None:
        """Let ``draw`` write a picture into the run folder."""
        self._pictures.attempt(draw)

    def started(self, step: int, seconds: float) -> None:
        """Report how long it took from loading to the end of the first step, which compiles; the rate leaves it out."""
        self._plot("train", {"first_step_s": seconds}, step)
        self.say(f"first step done after {seconds:.1f} s")
        self.resume_clock(step)
        self.enter("training", step)

    def resume_clock(self, step: int) -> None:
        """Do not count the time since the last report, at the same step, as training time."""
        self._since, self._since_step = time.perf_counter(), step

    def write(self, step: int, phase: str | None = None) -> None:
        """Replace `progress.json`, and print the same to the log; ``phase`` as for `enter`."""
        progress = self._progress
        progress["phase"] = phase or progress["phase"]
        before, self._written = self._written, time.perf_counter()
        if before > 0:
            progress["every_s"] = round(self._written - before, 3)
        self._replace(step)
        loss = "-" if progress["loss"] is None else f"{progress['loss']:.5g}"
        if "smoothed_loss" in progress:
            loss += f" (smoothed {progress['smoothed_loss']:.5g})"
        rate = "-" if progress["steps_per_s"] is None else f"{progress['steps_per_s']:.4g}"
        self.say(f"step {step}/{self._steps} loss {loss} steps/s {rate}")

    def _replace(self, step: int) -> None:
        self._progress["step"], self._progress["time"] = step, time.time()
        if self._may_write():
            self._writing.attempt(lambda: write_json(self._folder.progress_file, self._progress))

    def close(self, end: End = "finished") -> None:
        """Let the loggers write what is left. Those that are slow get a few seconds."""
        loggers.close(self._loggers, end, loggers.CLOSE_S)

    def leave(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close at the end of a `with` block: what it ended by, and the last step, say how the training ended."""
        done: End = "finished" if self._since_step >= self._steps else "stopped"
        self.close("failed" if kind is not None else done)

    def _plot(self, group: str, scalars: Mapping[str, float], step: int) -> None:
        values = {f"{group}/{name}": value for name, value in scalars.items()}
        self._tell(lambda logger: logger.scalars(values, step))

    def _tell(self, work: Work) -> None:
        for logger in self._loggers:
            logger.tell(work)

    def _noting(self, what: str) -> Callable[[int, str], object]:
        """What notes in the ledger that something was dropped for a while."""

        def note(count: int, reason: str) -> None:
            self._folder.ledger.note(events.Dropped(what=what, count=count, reason=reason))

        return note
