"""What a run reports while it trains: `progress.json`, TensorBoard and the loggers of the recipe.

Only rank 0 reports. A logger belongs to one attempt. To add one, write a file with a class that has
the methods of `Logger`, its keys in `cld_core.config.train`, and a line in `LOGGERS`.
"""

import contextlib
import math
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import methodcaller
from typing import Any, Literal, Protocol

from torch import Tensor

from cld_core.config import Recipe
from cld_core.config.loader import to_yaml
from cld_core.config.schema import leaves
from cld_core.files import Dropping, write_json
from cld_core.plugins import resolve, table
from cld_core.records import record
from cld_core.run import RunFolder, events
from cld_core.run.folder import ReportedProgress
from cld_core.sanitize import fenced, local_time, one_line

# By name, "module:attribute" of a class that takes a `LoggedAttempt`. A logger may be slow or
# fail: each runs in a thread of its own.
_SHIPPED = {
    "tensorboard": "cld_core.train.loggers:TensorboardLogger",
    "wandb": "cld_core.train.loggers.wandb_logger:WandbLogger",
    "mlflow": "cld_core.train.loggers.mlflow_logger:MlflowLogger",
}
LOGGERS = table("loggers", _SHIPPED)
TITLES = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases", "mlflow": "MLflow"}
# Reports that may wait for a logger; further ones are dropped.
_MOST = 2_000
# Seconds before a logger that failed is opened again.
_AGAIN_S = 30.0
# Seconds that the end of an attempt waits for loggers. SIGTERM leaves 30 s for everything.
CLOSE_S = 10.0
# Seconds between two writes of `progress.json`: often enough for status, rarely enough for a shared
# disk.
PROGRESS_EVERY_S = 1.0
# The weight of the newest interval between two reports in the shown rate, an exponential mean.
_NEWEST_RATE = 0.3
# The weight of the newest loss in the smoothed loss, an exponential mean over reports. The first
# ten have equal weights.
_NEWEST_LOSS = 0.1
# The sections that a model and its training depend on.
_SECTIONS = ("data", "sde", "network", "objective", "optim", "train", "sampling")
# Most characters of a text from a ledger.
_TEXT = 300

# How the training of a logger ended. After "stopped", another attempt may continue it.
End = Literal["finished", "stopped", "failed"]
# Called once writing works again, with the number of failures and the first reason.
Over = Callable[[int, str], object]


@record
class LoggedAttempt:
    """The attempt of a run that a logger reports.

    Attributes:
        attempt: its number, from 0.
        first_step: the number of steps that were done when it began.
    """

    folder: RunFolder
    recipe: Recipe
    attempt: int
    first_step: int


class Logger(Protocol):
    """Receives the reports of a training.

    Its methods are called in one thread. Within an attempt steps never fall, but an attempt that
    resumes from an earlier checkpoint repeats steps.
    """

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Plot values by their name, such as "train/loss"."""

    def text(self, name: str, markdown: str, step: int) -> None:
        """Show a text."""

    def picture(self, name: str, pixels: Tensor, step: int) -> None:
        """Show a picture, uint8 (H, W, C)."""

    def close(self, end: End) -> None:
        """Write everything that is left."""


Work = Callable[[Logger], object]


class Monitor:
    """Reports the rate and loss of training to `progress.json`, the loggers and the log.

    A report that cannot be written is dropped, and noted in the log and in the ledger; training
    continues.

    Args:
        may_write: whether this process still owns the run folder; checked before `progress.json` is
            replaced. None on ranks other than the first, which report nothing.

    Attributes:
        pictures: writes pictures of samples into the run folder, or drops them.
    """

    def __init__(self, about: LoggedAttempt, *, may_write: Callable[[], bool] | None) -> None:
        self._folder = about.folder
        self._steps = about.recipe.train.steps
        self._may_write = may_write
        self._loggers: list[Background] = []
        if may_write is not None:
            self._open_loggers(about)
        self._writing = Dropping("progress.json", partial(self._dropped, "progress.json"))
        self.pictures = Dropping("a picture of samples", partial(self._dropped, "pictures"))
        self._reported_at = time.perf_counter()
        self._reported_step = about.first_step
        self._written_at = 0.0
        self._printed_step: int | None = None
        self._loss_count = 0
        self._progress = ReportedProgress(
            attempt=about.attempt,
            step=about.first_step,
            steps=self._steps,
            loss=None,
            steps_per_s=None,
            time=time.time(),
            phase="starting",
        )

    def _open_loggers(self, about: LoggedAttempt) -> None:
        """Open TensorBoard, the loggers that the recipe switches on, and those of its plug-ins."""
        # Its packages take seconds to load, which in a thread would hold up the first steps.
        import torch.utils.tensorboard  # noqa: F401

        of_plugins = [name for name in LOGGERS if name not in _SHIPPED]
        for name in ["tensorboard", *about.recipe.monitor.chosen(), *of_plugins]:
            logger = Background(
                TITLES.get(name, name), partial(_made, name, about), partial(self._dropped, name)
            )
            self._loggers.append(logger)
        for name, text in texts_about(about).items():
            self.tell(methodcaller("text", f"run/{name}", text, about.first_step))

    def report(self, step: int, scalars: dict[str, float]) -> None:
        """Report that ``step`` steps are done.

        Args:
            scalars: what to plot. ``scalars["loss"]``, if any, is the mean since the last report.
        """
        now = time.perf_counter()
        progress = self._progress
        loss = scalars.get("loss")
        rate = progress["steps_per_s"]
        if step > self._reported_step:
            latest = (step - self._reported_step) / max(now - self._reported_at, 1e-9)
            rate = latest if rate is None else (1 - _NEWEST_RATE) * rate + _NEWEST_RATE * latest
            progress["steps_per_s"] = rate
        self._reported_at = now
        self._reported_step = step
        progress["loss"] = loss
        if loss is not None and math.isfinite(loss):
            self._loss_count += 1
            before = progress.get("smoothed_loss", loss)
            progress["smoothed_loss"] = before + max(_NEWEST_LOSS, 1 / self._loss_count) * (
                loss - before
            )
        self.plot("train", scalars if rate is None else {**scalars, "steps_per_s": rate}, step)
        if now - self._written_at > PROGRESS_EVERY_S:
            self.write(step)

    def say(self, line: str) -> None:
        """Write a line to the log."""
        if self._may_write is not None:
            print(line, flush=True)

    def enter(self, phase: str, step: int) -> None:
        """Write a change of phase ("saving", "evaluating", ...) to `progress.json`."""
        if phase != self._progress["phase"]:
            self._progress["phase"] = phase
            self._replace(step)

    def warn(self, line: str, warning: str | None) -> None:
        """Write a line to the log, and keep ``warning`` in `progress.json` until the next call."""
        self.say(line)
        if warning is None:
            self._progress.pop("warning", None)
        elif warning != self._progress.get("warning"):
            self.say(f"warning: {warning}")
            self._progress["warning"] = warning

    def plot(self, group: str, scalars: Mapping[str, float], step: int) -> None:
        """Plot values of a group: "train", or "periodic" for the results of `Periodic`."""
        values = {f"{group}/{name}": value for name, value in scalars.items()}
        self.tell(lambda logger: logger.scalars(values, step))

    def tell(self, work: Work) -> None:
        """Call ``work`` with each logger, in its thread."""
        for logger in self._loggers:
            logger.tell(work)

    def started(self, step: int, seconds: float) -> None:
        """Report the seconds from loading to the end of the first step, which compiles.

        They do not count in the rate.
        """
        self.plot("train", {"first_step_s": seconds}, step)
        self.say(f"first step done after {seconds:.1f} s")
        self.resume_clock(step)
        self.enter("training", step)

    def resume_clock(self, step: int) -> None:
        """Do not count the time since the last report, at the same step, as training time."""
        self._reported_at = time.perf_counter()
        self._reported_step = step

    def write(self, step: int, phase: str | None = None) -> None:
        """Replace `progress.json`, with a new ``phase`` if one is passed.

        It is also printed to the log, once a step.
        """
        progress = self._progress
        progress["phase"] = phase or progress["phase"]
        now = time.perf_counter()
        if self._written_at > 0:
            progress["every_s"] = round(now - self._written_at, 3)
        self._written_at = now
        self._replace(step)
        if step == self._printed_step:
            return
        self._printed_step = step
        loss = "-" if progress["loss"] is None else f"{progress['loss']:.5g}"
        if "smoothed_loss" in progress:
            loss += f" (smoothed {progress['smoothed_loss']:.5g})"
        rate = "-" if progress["steps_per_s"] is None else f"{progress['steps_per_s']:.4g}"
        self.say(f"step {step}/{self._steps} loss {loss} steps/s {rate}")

    def _replace(self, step: int) -> None:
        self._progress["step"] = step
        self._progress["time"] = time.time()
        if self._may_write is not None and self._may_write():
            self._writing.attempt(lambda: write_json(self._folder.progress_file, self._progress))

    def close(self, kind: type[BaseException] | None = None, *error: object) -> None:
        """Let the loggers write what is left, for a few seconds.

        Args:
            kind, error: the arguments of ``__exit__``, if a `with` block ends.
        """
        end: End = "stopped"
        if kind is not None:
            end = "failed"
        elif self._reported_step >= self._steps:
            end = "finished"
        close(self._loggers, end, CLOSE_S)

    def _dropped(self, what: str, count: int, reason: str) -> None:
        """Note in the ledger that something was dropped for a while."""
        self._folder.ledger.note(events.Remarked("dropped", what=what, count=count, reason=reason))


def close(loggers: Sequence["Background"], end: End, within_s: float) -> None:
    """Let loggers write what is left, all at the same time, for ``within_s`` seconds."""
    deadline = time.monotonic() + within_s
    for logger in loggers:
        logger.begin_close(end)
    for logger in loggers:
        logger.leave(deadline)


def _made(name: str, about: LoggedAttempt) -> Logger:
    logger: Logger = resolve(LOGGERS[name])(about)
    return logger


class Background:
    """Runs a logger in another thread.

    Reports that the logger cannot take are dropped, with one warning; their number is noted in the
    ledger.

    Args:
        title: the logger's name in messages.
        make: opens the logger, in the thread; called again after it or the logger fails.
        over: called once reports are taken again, with the number of dropped ones and the reason.
    """

    def __init__(self, title: str, make: Callable[[], Logger], over: Over) -> None:
        self._make = make
        self._dropping = Dropping(f"the log in {title}", over)
        self._works: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        # The error of each report, or None. The training thread warns and writes to the ledger.
        self._outcomes: deque[Exception | None] = deque()
        self._end: End = "stopped"
        self._deserted = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"log in {title}", daemon=True)
        self._thread.start()

    def tell(self, work: Work) -> None:
        """Let the thread call ``work`` with the logger, after all earlier calls."""
        self._review()
        if self._works.qsize() < _MOST:
            self._works.put(work)
        else:
            self._dropping.failed(OSError("it is too slow"))

    def begin_close(self, end: End) -> None:
        """Ask the logger to close after the reports that wait; returns at once."""
        self._end = end
        self._works.put(None)

    def leave(self, deadline: float) -> None:
        """Wait until a time of `time.monotonic`, and drop the reports that are left then."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        self._deserted.set()
        self._review()
        if self._thread.is_alive():
            self._dropping.failed(TimeoutError("it does not answer in time"))
            self._dropping.count += max(0, self._works.qsize() - 1)
        self._dropping.ended()

    def _review(self) -> None:
        """Count what failed and what succeeded in the thread since the last call."""
        while self._outcomes:
            error = self._outcomes.popleft()
            if error is None:
                self._dropping.succeeded()
            else:
                self._dropping.failed(_as_os_error(error))

    def _run(self) -> None:
        logger: Logger | None = None
        failure: Exception | None = None
        not_before = 0.0
        while (work := self._works.get()) is not None and not self._deserted.is_set():
            if logger is None and time.monotonic() < not_before:
                self._outcomes.append(failure)
                continue
            failure = None
            try:
                logger = logger or self._make()
                work(logger)
            except Exception as error:
                # The failed logger is closed if that is possible; a new one continues its curves.
                if logger is not None:
                    with contextlib.suppress(Exception):
                        logger.close("stopped")
                logger = None
                failure = error
                not_before = time.monotonic() + _AGAIN_S
            self._outcomes.append(failure)
        if logger is not None:
            try:
                logger.close(self._end)
            except Exception as error:
                self._outcomes.append(error)


def _as_os_error(error: Exception) -> OSError:
    """An error of a library as an `OSError`, which `Dropping` counts."""
    if isinstance(error, OSError) and error.strerror:
        return error
    return OSError(f"{type(error).__name__}: {one_line(error)}".removesuffix(": "))


def hyperparameters(recipe: Recipe) -> dict[str, bool | int | float | str]:
    """The keys of a recipe that its training depends on, without those that are null."""
    sections = {name: section for name, section in recipe.to_share().items() if name in _SECTIONS}
    by_key = {}
    for key, value in leaves(sections).items():
        if value is not None:
            by_key[key] = value if isinstance(value, bool | int | float | str) else str(value)
    return by_key


def texts_about(about: LoggedAttempt) -> dict[str, str]:
    """Texts in Markdown: "recipe", without what may be secret, and "attempt".

    The latter is a table of where the attempt runs and with what, and why the one before it ended.
    """
    texts = {"recipe": fenced(to_yaml(about.recipe.to_share()), "yaml")}
    facts: dict[str, object] = {"attempt": about.attempt, "from step": about.first_step}
    try:
        attempts = about.folder.ledger.full_history().attempts
    except OSError:
        return texts  # Training continues while the ledger cannot be read.
    for attempt in attempts:
        if attempt.attempt == about.attempt:
            versions = [f"{name} {version}" for name, version in attempt.versions.items()]
            facts["began"] = local_time(attempt.started, "%Y-%m-%d %H:%M:%S")
            facts["job"] = attempt.job_id
            facts["machines"] = ", ".join(dict.fromkeys(attempt.hosts)) or attempt.host
            facts["GPU"] = attempt.gpu
            facts["code"] = attempt.code
            facts["versions"] = ", ".join(versions)
        if attempt.attempt == about.attempt - 1:
            where = "" if attempt.last_step is None else f" at step {attempt.last_step}"
            why = f": {attempt.detail}" if attempt.detail else ""
            facts["the one before"] = f"{attempt.cause or 'end unknown'}{where}{why}"
    rows = [f"| {name} | {_cell(fact)} |" for name, fact in facts.items() if fact not in (None, "")]
    return {**texts, "attempt": "\n".join(["| | |", "| -- | -- |", *rows])}


def _cell(value: object) -> str:
    """A value as literal text, for a table in Markdown."""
    return re.sub(r"[\\`*_{}\[\]<>()#|!~&$]", r"\\\g<0>", one_line(value, _TEXT))


class TensorboardLogger:
    """Curves, texts and pictures for TensorBoard, with the hyper-parameters of the run.

    The file is opened at the first report.
    """

    def __init__(self, about: LoggedAttempt) -> None:
        self._about = about
        self._writer: Any = None

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._file(step).add_scalar(name, value, step)

    def text(self, name: str, markdown: str, step: int) -> None:
        self._file(step).add_text(name, markdown, step)

    def picture(self, name: str, pixels: Tensor, step: int) -> None:
        self._file(step).add_image(name, pixels.numpy(), step, dataformats="HWC")

    def close(self, end: End) -> None:
        if self._writer is not None:
            self._writer.close()

    def _file(self, step: int) -> Any:
        """The file. TensorBoard drops points of earlier files after the step that it begins with.

        A point at step n is of n steps done, so a point at that step stays.
        """
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter
            from torch.utils.tensorboard.summary import hparams

            folder = str(self._about.folder.tensorboard)
            self._writer = SummaryWriter(folder, purge_step=step + 1, max_queue=100, flush_secs=30)
            # For the tab HPARAMS. In the run's own file, so that all attempts are one session, and
            # without a step, so that no later attempt makes TensorBoard drop it. TensorBoard finds
            # the metrics, those of evaluations, too.
            _, start, _ = hparams(hyperparameters(self._about.recipe), {})
            self._writer._get_file_writer().add_summary(start)
        return self._writer
