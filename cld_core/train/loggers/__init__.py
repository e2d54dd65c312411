"""What a run reports while it trains: `progress.json`, TensorBoard, and what the `monitor` section
of the recipe adds.

Only rank 0 reports. A logger belongs to one attempt. A further one is a file with a class that has
the methods of `Logger`, its keys in `cld_core.config.train`, and a line in `LOGGERS`.
"""

import contextlib
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import methodcaller
from typing import Any, Literal, Protocol

from torch import Tensor

from cld_core.config import Recipe
from cld_core.config.loader import to_yaml
from cld_core.config.schema import leaves
from cld_core.files import Dropping, write_json
from cld_core.registration import resolve, table
from cld_core.run import RunFolder, events
from cld_core.run.folder import ReportedProgress
from cld_core.sanitize import fenced, local_time, one_line

# By name, "module:attribute" of a class that is called with an `About`. Each of them may be slow or
# fail: they run in threads of their own.
_SHIPPED = {
    "tensorboard": "cld_core.train.loggers:TensorboardLogger",
    "wandb": "cld_core.train.loggers.wandb_logger:WandbLogger",
    "mlflow": "cld_core.train.loggers.mlflow_logger:MlflowLogger",
}
LOGGERS = table("loggers", _SHIPPED)
TITLES = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases", "mlflow": "MLflow"}
# Reports that wait at most; what comes then is dropped.
_MOST = 2_000
# Seconds before a logger that could not be opened, or has failed, is tried again.
_AGAIN_S = 30.0
# Seconds that the end of an attempt waits for loggers. SIGTERM leaves 30 for all that there is to
# do.
CLOSE_S = 10.0
# Seconds between two writes of `progress.json`: often enough for status, rarely enough for a shared
# disk.
PROGRESS_EVERY_S = 1.0
# The weight of the newest loss in the smoothed one, an exponential mean over reports. The first ten
# have equal weights.
_NEWEST = 0.1
# The sections that a model and its training depend on.
_SECTIONS = ("data", "sde", "network", "objective", "optim", "train", "sampling")
# Characters of a text from a ledger.
_TEXT = 300

# How the training ended that a logger was for: "stopped" continues in another attempt.
End = Literal["finished", "stopped", "failed"]
# Called with how often something could not be written, and with the first reason, once that is
# over.
Over = Callable[[int, str], object]


@dataclass(frozen=True, kw_only=True)
class About:
    """What is logged.

    Attributes:
        attempt: its number, from 0.
        first_step: the number of steps that were done when it began.
    """

    folder: RunFolder
    recipe: Recipe
    attempt: int
    first_step: int


class Logger(Protocol):
    """Takes what a training reports. Steps may come again, after a resume from an earlier
    checkpoint.

    Its methods are called in one thread, with steps that do not fall within an attempt.
    """

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Plot values by their name, such as "train/loss"."""

    def text(self, name: str, markdown: str, step: int) -> None:
        """Show a text."""

    def picture(self, name: str, pixels: Tensor, step: int) -> None:
        """Show a picture, uint8 (H, W, C)."""

    def close(self, end: End) -> None:
        """Write what is left."""


Work = Callable[[Logger], object]


class Monitor:
    """Measures the rate of training, and writes it with the loss to `progress.json`, its loggers
    and the log.

    What cannot be written is dropped, and noted in the log and in the ledger: none of it is worth a
    training.

    Args:
        may_write: whether this process still owns the run folder; checked before `progress.json` is
            replaced. None on ranks other than the first, which report nothing.

    Attributes:
        pictures: writes pictures of samples into the run folder, or drops them.
    """

    def __init__(self, about: About, *, may_write: Callable[[], bool] | None) -> None:
        self._folder, self._steps = about.folder, about.recipe.train.steps
        self._may_write = may_write
        self._loggers: list[Background] = []
        if may_write is not None:
            self._open_loggers(about)
        self._writing = Dropping("progress.json", partial(self._dropped, "progress.json"))
        self.pictures = Dropping("a picture of samples", partial(self._dropped, "pictures"))
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

    def _open_loggers(self, about: About) -> None:
        """TensorBoard, the loggers that the recipe switches on, and those of its plug-ins."""
        # Its packages take seconds to load, which in a thread would hold up the first steps.
        import torch.utils.tensorboard  # noqa: F401

        own = [name for name in LOGGERS if name not in _SHIPPED]
        for name in ["tensorboard", *about.recipe.monitor.chosen(), *own]:
            made, over = partial(_made, name, about), partial(self._dropped, name)
            self._loggers.append(Background(TITLES.get(name, name), made, over))
        for name, text in texts_about(about).items():
            self.tell(methodcaller("text", f"run/{name}", text, about.first_step))

    def report(self, step: int, scalars: dict[str, float]) -> None:
        """Report that ``step`` steps are done; ``scalars["loss"]``, if any, is the mean since the
        last report."""
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
        self.plot("train", scalars if rate is None else {**scalars, "steps_per_s": rate}, step)
        if now - self._written > PROGRESS_EVERY_S:
            self.write(step)

    def say(self, line: str) -> None:
        """Write a line to the log."""
        if self._may_write is not None:
            print(line, flush=True)

    def enter(self, phase: str, step: int) -> None:
        """Say in `progress.json` what the training does from now on ("saving", "evaluating", ...),
        if that is new."""
        if phase != self._progress["phase"]:
            self._progress["phase"] = phase
            self._replace(step)

    def warn(self, line: str, warning: str | None) -> None:
        """Write a line to the log; what is wrong, if anything, is part of `progress.json` until the
        next call."""
        self.say(line)
        if warning is None:
            self._progress.pop("warning", None)
        elif warning != self._progress.get("warning"):
            self.say(f"warning: {warning}")
            self._progress["warning"] = warning

    def plot(self, group: str, scalars: Mapping[str, float], step: int) -> None:
        """Plot values of a group: "train", or "periodic" for what is computed now and then."""
        values = {f"{group}/{name}": value for name, value in scalars.items()}
        self.tell(lambda logger: logger.scalars(values, step))

    def tell(self, work: Work) -> None:
        """Let each logger do something."""
        for logger in self._loggers:
            logger.tell(work)

    def started(self, step: int, seconds: float) -> None:
        """Report how long it took from loading to the end of the first step, which compiles; the
        rate leaves it out."""
        self.plot("train", {"first_step_s": seconds}, step)
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
        if self._may_write is not None and self._may_write():
            self._writing.attempt(lambda: write_json(self._folder.progress_file, self._progress))

    def close(self, kind: type[BaseException] | None = None, *error: object) -> None:
        """Let the loggers write what is left. Those that are slow get a few seconds.

        At the end of a `with` block, what it ended by, and the last step, say how the training
        ended.
        """
        done: End = "finished" if self._since_step >= self._steps else "stopped"
        close(self._loggers, done if kind is None else "failed", CLOSE_S)

    def _dropped(self, what: str, count: int, reason: str) -> None:
        """Note in the ledger that something was dropped for a while."""
        self._folder.ledger.note(events.Remarked("dropped", what=what, count=count, reason=reason))


def close(loggers: Sequence["Background"], end: End, within_s: float) -> None:
    """Let loggers write what is left, all at the same time: together they get a few seconds."""
    deadline = time.monotonic() + within_s
    for logger in loggers:
        logger.begin_close(end)
    for logger in loggers:
        logger.leave(deadline)


def _made(name: str, about: About) -> Logger:
    logger: Logger = resolve(LOGGERS[name])(about)
    return logger


class Background:
    """Hands everything to a logger in another thread.

    What the logger does not take, whatever the reason, is dropped: one warning says so, and the
    ledger how much it was.

    Args:
        title: what messages call the logger.
        make: opens the logger, in the thread; called again if that or a later call fails.
        over: see `Dropping`.
    """

    def __init__(self, title: str, make: Callable[[], Logger], over: Over) -> None:
        self._make = make
        self._dropping = Dropping(f"the log in {title}", over)
        self._works: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        # What became of each report. The ledger and the warnings belong to the thread that trains.
        self._outcomes: deque[Exception | None] = deque()
        self._end: End = "stopped"
        self._deserted = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"log in {title}", daemon=True)
        self._thread.start()

    def tell(self, work: Work) -> None:
        """Let the thread call ``work`` with the logger, after what it was told before."""
        self._review()
        if self._works.qsize() < _MOST:
            self._works.put(work)
        else:
            self._dropping.failed(OSError("it is too slow"))

    def begin_close(self, end: End) -> None:
        """Let the logger end after what is left, without waiting for it."""
        self._end = end
        self._works.put(None)

    def leave(self, deadline: float) -> None:
        """Wait for the end until a moment of `time.monotonic`, and drop what is left then."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        self._deserted.set()
        self._review()
        if self._thread.is_alive():
            self._dropping.failed(TimeoutError("it does not answer in time"))
            self._dropping.count += max(0, self._works.qsize() - 1)
        self._dropping.ended()

    def _review(self) -> None:
        """Report what the thread has met since the last call."""
        while self._outcomes:
            if (outcome := self._outcomes.popleft()) is None:
                self._dropping.succeeded()
            else:
                self._dropping.failed(_as_os_error(outcome))

    def _run(self) -> None:
        logger: Logger | None = None
        not_before, last = 0.0, Exception()
        while (work := self._works.get()) is not None and not self._deserted.is_set():
            if logger is None and time.monotonic() < not_before:
                self._outcomes.append(last)
                continue
            try:
                logger = logger or self._make()
                work(logger)
            except Exception as error:
                # Another one continues its curve.
                if logger is not None:
                    with contextlib.suppress(Exception):
                        logger.close("stopped")
                logger = None
                last = error
                not_before = time.monotonic() + _AGAIN_S
                self._outcomes.append(error)
            else:
                self._outcomes.append(None)
        if logger is not None:
            try:
                logger.close(self._end)
            except Exception as error:
                self._outcomes.append(error)


def _as_os_error(error: Exception) -> OSError:
    """An error of a library as one that is reported and forgotten."""
    if isinstance(error, OSError) and error.strerror:
        return error
    return OSError(f"{type(error).__name__}: {one_line(error)}".removesuffix(": "))


def hyperparameters(recipe: Recipe) -> dict[str, bool | int | float | str]:
    """The keys of a recipe that say how it trains, without those that are null."""
    content = {name: section for name, section in recipe.to_share().items() if name in _SECTIONS}
    values = ((key, value) for key, value in leaves(content).items() if value is not None)
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in values
    }


def texts_about(about: About) -> dict[str, str]:
    """Texts in Markdown: the recipe without what may be secret, and which attempt this is.

    The latter is a table of where and with what it runs, and why the one before it ended.
    """
    texts = {"recipe": fenced(to_yaml(about.recipe.to_share()), "yaml")}
    facts: dict[str, object] = {"attempt": about.attempt, "from step": about.first_step}
    try:
        attempts = about.folder.ledger.full_history().attempts
    except OSError:
        return texts  # A ledger that cannot be read at this moment keeps nothing from training.
    # Without a scheduler or a ledger, there is less to tell.
    for attempt in attempts:
        if attempt.attempt == about.attempt:
            facts |= {
                "began": local_time(attempt.started, "%Y-%m-%d %H:%M:%S"),
                "job": attempt.job_id,
                "machines": ", ".join(dict.fromkeys(attempt.hosts)) or attempt.host,
                "GPU": attempt.gpu,
                "code": attempt.code,
                "versions": ", ".join(
                    f"{name} {version}" for name, version in attempt.versions.items()
                ),
            }
        if attempt.attempt == about.attempt - 1:
            where = "" if attempt.last_step is None else f" at step {attempt.last_step}"
            why = f": {attempt.detail}" if attempt.detail else ""
            facts["the one before"] = f"{attempt.cause or 'end unknown'}{where}{why}"
    rows = "\n".join(
        f"| {name} | {_cell(value)} |" for name, value in facts.items() if value not in (None, "")
    )
    return {**texts, "attempt": f"| | |\n| -- | -- |\n{rows}"}


def _cell(value: object) -> str:
    """A text inside of a table of Markdown, which shows it as it is written."""
    text = one_line(value, _TEXT)
    return "".join(
        f"\\{character}" if character in "\\`*_{}[]<>()#|!~&$" else character for character in text
    )


class TensorboardLogger:
    """What a run plots, with its hyper-parameters, in a file that begins with the first report."""

    def __init__(self, about: About) -> None:
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
        """The file; TensorBoard forgets what earlier ones have beyond the step that it begins with.

        A point at step n is of n steps done, so one that is there at the first step stays.
        """
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter
            from torch.utils.tensorboard.summary import hparams

            folder = str(self._about.folder.tensorboard)
            self._writer = SummaryWriter(folder, purge_step=step + 1, max_queue=100, flush_secs=30)
            # For the tab HPARAMS. In the run's own file, so that all attempts are one session of
            # it, and without a step, so that no later attempt makes TensorBoard forget it. Which
            # metrics there are is left to TensorBoard, which finds those of evaluations, too.
            _, start, _ = hparams(hyperparameters(self._about.recipe), {})
            self._writer._get_file_writer().add_summary(start)
        return self._writer
