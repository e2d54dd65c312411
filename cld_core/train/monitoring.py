"""What a run reports while it trains: `progress.json`, TensorBoard and other loggers. Only rank 0 writes.

Samples, likelihood bounds and FIDs of the averaged weights are computed now and then, by all ranks together.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from operator import methodcaller
from typing import Any, TypeVar

import torch

from cld_core import metrics as registry
from cld_core import pictures
from cld_core.errors import CldError
from cld_core.evaluate.features import FeatureRows
from cld_core.evaluate.likelihood import ElboRows
from cld_core.evaluate.request import periodic_request
from cld_core.evaluate.rows import RowComputer, Table, remark_on
from cld_core.files import Dropping, write_json
from cld_core.model import Model
from cld_core.nets import execution
from cld_core.ranks import Consensus
from cld_core.registration import resolve
from cld_core.run import RunFolder, events
from cld_core.run.evaluations import EvalRequest
from cld_core.run.folder import ReportedProgress
from cld_core.run.shards import share
from cld_core.samplers import Samples, concatenated
from cld_core.stop import StopCode, StopFlag
from cld_core.tasks import joined

from . import loggers
from .loggers import About, End, Work
from .step import Trainer

T = TypeVar("T")

# Seconds between two writes of `progress.json`: often enough for status, rarely enough for a shared disk.
PROGRESS_EVERY_S = 1.0
# The weight of the newest loss in the smoothed one, an exponential mean over reports. The first ten have equal weights.
_NEWEST = 0.1


class Monitor:
    """Measures the rate of training, and writes it with the loss to `progress.json`, its loggers and the log.

    What cannot be written is dropped, and noted in the log and in the ledger: none of it is worth a training.

    Args:
        may_write: whether this process still owns the run folder; checked before `progress.json` is replaced. None on
            ranks other than the first, which report nothing.

    Attributes:
        pictures: writes pictures of samples into the run folder, or drops them.
    """

    def __init__(self, about: About, *, may_write: Callable[[], bool] | None) -> None:
        self._folder, self._steps = about.folder, about.recipe.train.steps
        self._may_write = may_write
        self._loggers = [] if may_write is None else loggers.opened(about, self._dropped)
        for name, text in {} if may_write is None else loggers.texts_about(about).items():
            self.tell(methodcaller("text", f"run/{name}", text, about.first_step))
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
        self.plot("train", scalars if rate is None else {**scalars, "steps_per_s": rate}, step)
        if now - self._written > PROGRESS_EVERY_S:
            self.write(step)

    def say(self, line: str) -> None:
        """Write a line to the log."""
        if self._may_write is not None:
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

    def plot(self, group: str, scalars: Mapping[str, float], step: int) -> None:
        """Plot values of a group: "train", or "periodic" for what is computed now and then."""
        values = {f"{group}/{name}": value for name, value in scalars.items()}
        self.tell(lambda logger: logger.scalars(values, step))

    def tell(self, work: Work) -> None:
        """Let each logger do something."""
        for logger in self._loggers:
            logger.tell(work)

    def started(self, step: int, seconds: float) -> None:
        """Report how long it took from loading to the end of the first step, which compiles; the rate leaves it out."""
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

        At the end of a `with` block, what it ended by, and the last step, say how the training ended.
        """
        done: End = "finished" if self._since_step >= self._steps else "stopped"
        loggers.close(self._loggers, done if kind is None else "failed", loggers.CLOSE_S)

    def _dropped(self, what: str, count: int, reason: str) -> None:
        """Note in the ledger that something was dropped for a while."""
        self._folder.ledger.note(events.Remarked("dropped", what=what, count=count, reason=reason))


class Periodic:
    """Called after every step; computes something at the steps that the recipe's `periodic` section names.

    The results depend on the weights and on `eval.seed`, not on the number of ranks. A failure, such as a solver that
    does not converge, is reported and training continues. A request to stop ends the work between two batches.

    Args:
        heartbeat: called after each batch.
    """

    def __init__(
        self, trainer: Trainer, folder: RunFolder, monitor: Monitor, stop: StopFlag, heartbeat: Callable[[], None]
    ) -> None:
        self._trainer = trainer
        self._folder = folder
        self._monitor = monitor
        self._stop, self._heartbeat = stop, heartbeat
        self._spec = trainer.recipe.periodic
        # What FID needs is looked for now, not at the step where it is due.
        self._fid_request = periodic_request(trainer.recipe, "fid")

    def __call__(self, step: int) -> None:
        spec = self._spec
        works = [("drawing samples", self._sample)] * spec.wants("samples", step)
        works += [("evaluating", self._bound)] * spec.wants("elbo", step)
        works += [("evaluating", self._fid)] * spec.wants("fid", step)
        if not works:
            return
        trainer = self._trainer
        model = Model(trainer.recipe, trainer.ranks.device, net=trainer.net, data=trainer.source, step=step)
        model.path = self._folder.path
        trainer.net.eval()
        try:
            # Batch sizes vary here, and each of them would be timed.
            with trainer.ema.in_place(), execution.using(tf32=trainer.recipe.train.tf32):
                for phase, work in works:
                    self._monitor.enter(phase, step)
                    work(model)
        finally:
            trainer.net.train()
        self._monitor.resume_clock(step)
        self._monitor.enter("training", step)

    def _sample(self, model: Model) -> None:
        seed, labels = model.recipe.eval.seed, pictures.in_rows(model, self._spec.samples)

        def draw(first: int, last: int) -> Samples:
            rows = None if labels is None else labels[first:last]
            drawn = model.draw(last - first, seed=seed, first=first, label=rows)
            return Samples(drawn.x.cpu(), None, drawn.nfe_each.cpu())

        parts = self._shared("samples", self._spec.samples, draw)
        if parts is None:
            return
        drawn = concatenated(parts)
        if (remark := remark_on(drawn.x)) is not None:
            self._monitor.say(f"step {model.step}: {remark}")
        how = pictures.how(model, drawn)
        file, monitor = self._folder.samples / pictures.periodic_name(model.step), self._monitor

        def show() -> None:
            # Drawing opens files, too: fonts, on a disk that may be full.
            pixels = pictures.pixels(drawn.x, model, how)
            monitor.tell(lambda logger: logger.picture("periodic/samples", pixels, model.step))
            pictures.write(file, pixels, pictures.title(drawn.x, model, how))

        monitor.pictures.attempt(show)
        monitor.plot("periodic", {"nfe": drawn.nfe}, model.step)

    def _bound(self, model: Model) -> None:
        try:
            request = periodic_request(model.recipe, "elbo")
        except (CldError, OSError) as error:  # The same on all ranks, which see the same data.
            self._monitor.say(f"no likelihood bound this time: {error}")
            return
        assert request is not None, "a recipe that wants the bound has a request for it"
        if (section := self._section("elbo", ElboRows, model, request, "likelihood bound")) is None:
            return
        names = [name for name in ("bpd", "nll", "stderr") if section.get(name) is not None]
        self._monitor.plot("periodic", {name: section[name] for name in names}, model.step)
        values = " ".join(f"{name} {section[name]:.4f}" for name in names)
        self._monitor.say(f"step {model.step}: likelihood bound of {request.points} test points: {values}")

    def _fid(self, model: Model) -> None:
        assert self._fid_request is not None, "a recipe that wants FID has a request for it"
        request = dataclasses.replace(self._fid_request, checkpoint_step=model.step)
        if (section := self._section("fid", FeatureRows, model, request, "FID")) is None:
            return
        self._monitor.plot("periodic", {"fid": section["value"], "fid_nfe": section["nfe_mean"]}, model.step)
        self._monitor.say(f"step {model.step}: FID {section['value']:.4f} of {section['samples']} samples")

    def _section(
        self, metric: str, rows: type[RowComputer], model: Model, request: EvalRequest, what: str
    ) -> dict[str, Any] | None:
        """The section of a report that a metric makes of rows that all ranks compute; None if there is none.

        There is none on ranks other than the first, nor anywhere if a rank was asked to stop or failed.
        """
        (n,) = request.sizes.values()
        # What they need may be gone, which is found when they are made.
        if (parts := self._shared(what, n, lambda first, last: rows(model, request).compute(first, last))) is None:
            return None
        try:
            section = resolve(registry.metric(metric).section)(Table(model, request, joined(parts)))
        except (CldError, OSError) as error:
            self._monitor.say(f"no {what} this time: {error}")
            return None
        if (remark := registry.metric(metric).remark(section)) is not None:
            self._monitor.say(f"step {model.step}: {remark}")
        return section

    def _shared(self, what: str, n: int, compute: Callable[[int, int], T]) -> list[T] | None:
        """``compute`` over 0..n in batches, each rank a contiguous share; all parts in order on rank 0.

        None on the other ranks, and everywhere if a rank was asked to stop or failed.
        """
        ranks, size = self._trainer.ranks, self._spec.batch_size
        first, last = share(n, ranks.rank, ranks.world_size)
        largest = -(-n // ranks.world_size)
        rounds = -(-largest // size)
        consensus, own = Consensus(ranks), []
        problem: str | None = None
        for start in range(first, first + rounds * size, size):
            consensus.begin(self._stop.code)
            try:
                if start < last and problem is None:
                    own.append(compute(start, min(start + size, last)))
            except (CldError, OSError, torch.OutOfMemoryError) as error:
                problem = str(error)
            self._heartbeat()
            if consensus.result() is not StopCode.NONE:
                return None
        gathered: list[Any] | None = ranks.gather((own, problem))
        if gathered is None:
            return None
        for _, failure in gathered:
            if failure is not None:
                self._monitor.say(f"no {what} this time: {failure}")
                return None
        return [part for parts, _ in gathered for part in parts]
