"""One attempt of a run: take the lease, choose where to start, train, and record how it ended.

Samples, likelihood bounds and FIDs of the averaged weights are computed now and then, by all ranks
together.

The train loop (`Session`) never submits, requeues or polls: it gets a stop flag and returns why it
ended. When a loss or gradient explodes, it continues from the last good checkpoint with fresh
noise. The number of rollbacks is bounded: the ledger counts those to each checkpoint, so a new
attempt does not start from zero. Reaching a later checkpoint gives new credit, so that a run that
makes progress is not given up.
"""

import contextlib
import dataclasses
import os
import re
import socket
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from cld_core import cpu, pictures
from cld_core import metrics as registry
from cld_core.checkpoint import Writer, checkpoints, load, snapshots
from cld_core.config import Recipe
from cld_core.data.source import identity_or_nothing
from cld_core.errors import (
    CheckpointError,
    CldError,
    LeaseHeldError,
    LeaseLostError,
    NonFiniteError,
    SaveError,
    UsageError,
)
from cld_core.evaluate.request import periodic_request
from cld_core.evaluate.rows import Table, remark_on
from cld_core.files import passes, retried
from cld_core.model import Model
from cld_core.nets import execution
from cld_core.ranks import Consensus, Ranks
from cld_core.registration import resolve
from cld_core.run import Lease, RunFolder, code, events
from cld_core.run import recipe as frozen
from cld_core.run.checkpoints import clear_unfinished, newest_good, set_aside, verify
from cld_core.run.evaluations import EvalRequest
from cld_core.run.events import Cause
from cld_core.run.identity import are_other_data, versions
from cld_core.run.shards import share
from cld_core.run.work import Outcome, Start, Training
from cld_core.samplers import Samples, concatenated
from cld_core.stop import StopCode, StopFlag
from cld_core.tasks import joined

from .health import EVERY, Stragglers, Watchdog
from .loggers import About, Monitor
from .step import Trainer

T = TypeVar("T")


# Errors that are written in code or recipe, the same at each start: another attempt would meet them
# again.
_BUGS = (
    UsageError,
    NameError,
    TypeError,
    AttributeError,
    ImportError,
    SyntaxError,
    LookupError,
    ValueError,
    ArithmeticError,
    AssertionError,
    NotImplementedError,  # by torch, for an operation that a device does not have
)
_CAUSE_OF_CODE: dict[StopCode, Cause] = {
    StopCode.NONE: "finished",
    StopCode.USR2: "terminated",
    StopCode.TERM: "terminated",
}
_MAX_DETAIL = 500  # characters
# Its first line: NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build
# ...
_DRIVER = Path("/proc/driver/nvidia/version")
_VERSION = re.compile(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", re.MULTILINE)
# Seconds for which a start is repeated while the disk or the file system fails, and for which a
# line of the ledger is.
_START_WITHIN_S, _NOTE_WITHIN_S = 60.0, 10.0

# Seconds for which the last save is repeated: after the last step (the other ranks wait no longer
# than ten minutes), and after SIGTERM, which leaves KillWait (30 s on most clusters). After
# SIGUSR2, a share of the notice.
_AT_THE_END_S = 480.0
_TERM_S = 20.0
_NOTICE_S, _SHARE = 90, 2 / 3
# In the identity of a run that was not made without any checkpoint.
_FROM_ELSEWHERE = {"imported", "started_from"}
# Runs have far fewer attempts.
_ROLLBACK_KEY = 1_000_000

# What a signal meant, a cause of the ledger; None if nobody knows.
CauseOf = Callable[[StopCode], Cause | None]


@dataclass(frozen=True)
class SessionResult:
    """How an attempt ended: the cause as in the ledger, and the step that was reached and saved."""

    cause: Cause
    step: int
    code: StopCode = StopCode.NONE


class Periodic:
    """Called after every step; computes something at the steps that the recipe's `periodic` section
    names.

    The results depend on the weights and on `eval.seed`, not on the number of ranks. A failure,
    such as a solver that does not converge, is reported and training continues. A request to stop
    ends the work between two batches.

    Args:
        heartbeat: called after each batch.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: RunFolder,
        monitor: Monitor,
        stop: StopFlag,
        heartbeat: Callable[[], None],
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
        model = Model(
            trainer.recipe, trainer.ranks.device, net=trainer.net, data=trainer.source, step=step
        )
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
            pixels = pictures.pixels(drawn.x, model, labels)
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
        if (section := self._section("elbo", model, request, "likelihood bound")) is None:
            return
        names = [name for name in ("bpd", "nll", "stderr") if section.get(name) is not None]
        self._monitor.plot("periodic", {name: section[name] for name in names}, model.step)
        values = " ".join(f"{name} {section[name]:.4f}" for name in names)
        self._monitor.say(
            f"step {model.step}: likelihood bound of {request.points} test points: {values}"
        )

    def _fid(self, model: Model) -> None:
        assert self._fid_request is not None, "a recipe that wants FID has a request for it"
        request = dataclasses.replace(self._fid_request, checkpoint_step=model.step)
        if (section := self._section("fid", model, request, "FID")) is None:
            return
        self._monitor.plot(
            "periodic", {"fid": section["value"], "fid_nfe": section["nfe_mean"]}, model.step
        )
        self._monitor.say(
            f"step {model.step}: FID {section['value']:.4f} of {section['samples']} samples"
        )

    def _section(
        self, name: str, model: Model, request: EvalRequest, what: str
    ) -> dict[str, Any] | None:
        """The section of a report that a metric makes of rows that all ranks compute; None if there
        is none.

        There is none on ranks other than the first, nor anywhere if a rank was asked to stop or
        failed.
        """
        metric = registry.metric(name)
        rows = resolve(registry.ROWS[metric.rows].implementation)
        # What they need may be gone, which is found when they are made.
        parts = self._shared(
            what, request.sizes[metric.rows], lambda i, j: rows(model, request).compute(i, j)
        )
        if parts is None:
            return None
        try:
            section: dict[str, Any] = resolve(metric.section)(Table(model, request, joined(parts)))
        except (CldError, OSError) as error:
            self._monitor.say(f"no {what} this time: {error}")
            return None
        if (remark := metric.remark(section)) is not None:
            self._monitor.say(f"step {model.step}: {remark}")
        return section

    def _shared(self, what: str, n: int, compute: Callable[[int, int], T]) -> list[T] | None:
        """``compute`` over 0..n in batches, each rank a contiguous share; all parts in order on
        rank 0.

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


@dataclass(frozen=True)
class Session:
    """The training of one attempt on this rank: a segment, and one more after each rollback.

    Attributes:
        attempt: its number, from 0.
        checkpoint: the step of the checkpoint that it continues from; None: it begins with new
            weights.
        lease: held on rank 0 alone.
        hosts: on rank 0, what the launcher calls the machine of each rank; empty on the others.
    """

    folder: RunFolder
    recipe: Recipe
    ranks: Ranks
    stop: StopFlag
    attempt: int
    checkpoint: int | None
    lease: Lease | None
    hosts: Sequence[str]
    # On rank 0 alone, by the kind of file; each has at most one write in flight.
    _writers: dict[str, Writer] = field(default_factory=dict, init=False)

    def run(self) -> tuple[int, StopCode]:
        """Train until the steps are done or a rank was asked to stop; everything is saved when this
        returns.

        Returns:
            The step, and why it ended there; `StopCode.NONE` means that all steps are done.

        Raises:
            NonFiniteError: a gradient or loss was not finite or exploded, and rolling back did not
                help.
            SaveError: a checkpoint could not be written.
            LeaseLostError: another job owns the run folder.
            RankError: one of these happened on rank 0, and this is another rank.
        """
        spec = self.recipe.train
        if self.lease is not None:
            self._open_writers(self.lease)
        # A run that is to be repeatable does not leave the choice of kernels to a stopwatch each
        # time it starts.
        with (
            execution.using(tf32=spec.tf32, fixed_shapes=spec.on_resume != "exact"),
            closing(Watchdog(spec.hang_timeout_s)) as watchdog,
        ):
            step, code = self._segments(watchdog)
        self.ranks.on_first(lambda: self._settle(code))
        return step, code

    def _open_writers(self, lease: Lease) -> None:
        spec = self.recipe.train
        # A checkpoint from elsewhere cannot be computed again.
        imported = self.folder.ledger.full_history().imported_step
        self._writers["checkpoint"] = checkpoints(
            self.folder,
            keep=spec.keep,
            milestone=lambda step: spec.is_milestone(step) or step == imported,
            regular=spec.is_regular,
            check_owner=lease.check,
        )
        if spec.ema_lengths:
            half = spec.ema_precision == "fp16"
            self._writers["snapshot"] = snapshots(self.folder, half=half, check_owner=lease.check)

    def _segments(self, watchdog: Watchdog) -> tuple[int, StopCode]:
        """Train, and roll back as often as allowed."""
        checkpoint = self.checkpoint
        rollbacks = self.ranks.on_first(lambda: self.folder.ledger.full_history().rollbacks())
        while True:
            try:
                return self._segment(checkpoint, rollbacks, watchdog)
            except NonFiniteError as error:
                checkpoint = self.ranks.on_first(partial(self._roll_back, error))
                rollbacks += 1

    def _segment(
        self, checkpoint: int | None, rollbacks: int, watchdog: Watchdog
    ) -> tuple[int, StopCode]:
        """Train until `train.steps` or until a rank is asked to stop; all ranks end at the same
        step.

        Unless a rank failed, a checkpoint of the last step is being written when this returns.

        Raises:
            NonFiniteError: a gradient or loss was not finite or exploded; on all ranks, and nothing
                was changed by it.
        """
        spec = self.recipe.train
        stop, first_step = self.stop, checkpoint or 0
        began = self._now()
        consensus = Consensus(self.ranks)
        stragglers = Stragglers(self.ranks, self.hosts)
        with ExitStack() as stack:
            watchdog.reset()
            trainer = self._trainer(checkpoint, rollbacks, watchdog)
            stack.callback(trainer.close)
            about = About(
                folder=self.folder, recipe=self.recipe, attempt=self.attempt, first_step=first_step
            )
            monitor = Monitor(about, may_write=None if self.lease is None else self.lease.owned)
            stack.push(monitor.close)
            monitor.write(first_step)
            periodic = Periodic(trainer, self.folder, monitor, stop, watchdog.reset)
            stack.callback(watchdog.close)
            watchdog.reset()
            done, code = first_step, StopCode.NONE
            saved_at = time.monotonic()
            while done < spec.steps:
                if any(one.failed for one in self._writers.values()) or (
                    self.lease is not None and self.lease.lost
                ):
                    stop.request(StopCode.FAILURE)
                # Beside the step, the ranks exchange whether to stop, or to save, after it.
                consensus.begin(stop.code, saves=self._save_is_due(saved_at))
                try:
                    trainer.step(done)
                finally:
                    code = consensus.result()
                done += 1
                watchdog.reset()
                if code is StopCode.FAILURE:
                    return done, code
                ends = done == spec.steps or code is not StopCode.NONE
                if ends or done % spec.log_every == 0:
                    trainer.check(done - 1)
                    scalars = trainer.take_scalars()
                    trainer.check(done - 1, scalars.get("loss"))
                    monitor.report(done, scalars)
                if ends or spec.is_regular(done) or consensus.saves:
                    saved_at = time.monotonic()
                    self._save("checkpoint", done, trainer, trainer.state_dict, monitor)
                if spec.wants_snapshot(done):
                    self._save("snapshot", done, trainer, trainer.averages_dict, monitor)
                if code is not StopCode.NONE:
                    break
                if done == first_step + 1:
                    monitor.started(done, self._now() - began)
                periodic(done)
                if done % (spec.log_every * EVERY) == 0:
                    compared = stragglers.compare(trainer.interval.take_own_time())
                    if compared is not None:
                        monitor.warn(*compared)
            # What is left to do is to wait for the last checkpoint.
            monitor.write(done, "saving")
            return done, code

    def _trainer(self, checkpoint: int | None, rollbacks: int, watchdog: Watchdog) -> Trainer:
        attempt = self.attempt if self.recipe.train.on_resume == "reseed" else 0
        # No other segment has the same key.
        trainer = Trainer(self.recipe, self.ranks, attempt + _ROLLBACK_KEY * rollbacks)
        if checkpoint is not None:
            # Mapped, not read at once, and copied from there to the device, so that no second copy
            # takes its memory.
            trainer.load_state_dict(
                load(self.folder, checkpoint, model_digest=self.recipe.model_digest())
            )
            if self.ranks.is_first and trainer.power.begins:
                print(f"the power-function averages begin at step {checkpoint}", flush=True)
        watchdog.reset()
        trainer.warm_up()
        return trainer

    def _save_is_due(self, saved_at: float) -> bool:
        """Whether so much time has passed since a save that another is due; asked on rank 0 alone.

        A write in flight is not waited for, so a slow disk does not hold up the training.
        """
        minutes = self.recipe.train.checkpoint_minutes
        if minutes is None or time.monotonic() - saved_at < 60.0 * minutes:
            return False
        writer = self._writers.get("checkpoint")
        return writer is not None and not writer.is_busy

    def _save(
        self,
        kind: str,
        step: int,
        trainer: Trainer,
        state: Callable[[], dict[str, Any]],
        monitor: Monitor,
    ) -> None:
        # A rollback returns to a checkpoint, and must give up no snapshot: all steps before either
        # must be good.
        trainer.check(step - 1)
        if kind not in self._writers:
            return
        if self._writers[kind].is_busy:
            monitor.enter("saving", step)
        self._writers[kind].save(step, state())
        monitor.enter("training", step)

    def _end_writes(self, wait: Callable[[Writer], None]) -> None:
        """Wait for all writers, also if the first fails: its error is raised when no thread is
        left."""
        with ExitStack() as stack:
            for writer in reversed(self._writers.values()):
                stack.callback(wait, writer)

    def _roll_back(self, error: NonFiniteError) -> int | None:
        """The step of the checkpoint to continue from, if there is one, recorded in the ledger.

        Raises:
            NonFiniteError: rolling back is of no use; says why.
        """
        folder, recipe = self.folder, self.recipe
        try:
            self._end_writes(Writer.abandon)
            if recipe.train.on_resume == "exact":
                self._give_up_irregular()
            newest, _ = newest_good(folder, recipe.model_digest())
            set_aside(folder, after=newest or 0)
        except (CldError, OSError) as trouble:
            raise NonFiniteError(f"{error} Rolling back is impossible: {trouble}") from trouble
        target = newest or 0
        before, limit = folder.ledger.full_history().rollbacks(target), recipe.train.max_rollbacks
        if before >= limit:
            fix = "Lower optim.lr, or use `cldctl resume --from` with an earlier step"
            text = (
                f"{error} {before} rollbacks to step {target}, each with fresh noise, did not "
                f"help. {fix}."
            )
            raise NonFiniteError(text)
        print(
            f"{error}\nrollback {before + 1} of at most {limit} to step {target}, with fresh noise",
            flush=True,
        )
        event = events.RolledBack(attempt=self.attempt, to_step=target, reason=str(error)[:500])
        folder.ledger.note(event)
        return newest

    def _give_up_irregular(self) -> None:
        """Set aside what was saved by time or at a stop since the last regular checkpoint.

        Its step depends on the machine, and so would the noise after a rollback to it. If there is
        no regular checkpoint, it is all that the run has, and stays.
        """
        spec = self.recipe.train
        imported = self.folder.ledger.full_history().imported_step
        steps = self.folder.listed_steps()
        regular = [step for step in steps if spec.is_regular(step) or step == imported]
        if regular:
            set_aside(self.folder, after=max(regular))

    def _settle(self, code: StopCode) -> None:
        """Wait until everything is saved, for so long that there is time for what follows."""
        patience_s = {StopCode.NONE: _AT_THE_END_S, StopCode.TERM: _TERM_S}.get(code, 0.0)
        if code is StopCode.USR2:
            patience_s = (self.recipe.cluster.signal_s or _NOTICE_S) * _SHARE
        deadline = time.monotonic() + patience_s
        self._end_writes(lambda writer: writer.wait(max(0.0, deadline - time.monotonic())))
        # No checkpoint was written without asking; now it is only about what else follows.
        with suppress(OSError):
            if self.lease is not None:
                self.lease.check()

    def _now(self) -> float:
        """Seconds, when the device has done what it was told."""
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize(self.ranks.device)
        return time.perf_counter()


def run(
    folder: RunFolder,
    ranks: Ranks,
    stop: StopFlag,
    *,
    job_id: str,
    recipe: Recipe | None = None,
    restart: int = 0,
    log: Path | None = None,
    began: float | None = None,
    cause_of: CauseOf = lambda code: None,
    node: str = "",
) -> SessionResult:
    """Train the run of ``folder`` from its newest good checkpoint, on all ranks.

    Args:
        job_id: the launcher's name for this job.
        recipe: of the run, if it has been read.
        restart: earlier starts of this same job by the launcher.
        log: the file that the launcher writes its notices to; its current size is recorded in the
            ledger.
        began: when the job got its machines, seconds since 1970; None if nobody knows.
        cause_of: what a signal meant, asked on rank 0 once everything is saved.
        node: what the launcher calls this machine.

    Raises:
        LeaseHeldError, LeaseLostError: another job writes into this run.
        CheckpointError: no checkpoint fits, or a new one cannot be written.
        NonFiniteError: the gradient was not finite or exploded, and rolling back did not help.
        RecipeError: the frozen recipe is damaged.
        OSError: something cannot be read or written for a minute.
        RankError: rank 0 could not start or continue, and this is another rank.
    """
    # One name everywhere: the launcher's, by which nodes are avoided, too.
    node = node or socket.gethostname()
    if recipe is None:
        recipe = folder.recipe(within_s=_START_WITHIN_S, with_plugins=True)
    with _started(folder, recipe, ranks, job_id, restart) as (number, checkpoint, lease):
        first_step = checkpoint or 0
        # Before anything that may fail on one rank alone.
        hosts = tuple(ranks.gather(node) or ())
        if first_step >= recipe.train.steps:
            print(
                f"{folder.name} is finished: {first_step} steps are done. Nothing to do.",
                flush=True,
            )
            if lease is not None and folder.ledger.history().cause == "finished":
                folder.ledger.note(events.TurnedAway(job_id=job_id, why="finished"))
            elif lease is not None:
                # It was killed after its last save, or its ledger was lost.
                folder.ledger.note(
                    events.Started(attempt=number, job_id=job_id, step=first_step, restart=restart)
                )
                folder.ledger.note(events.Ended(attempt=number, cause="finished", step=first_step))
            return SessionResult("finished", first_step)
        training = Session(folder, recipe, ranks, stop, number, checkpoint, lease, hosts)
        if lease is None:
            step, signal = training.run()
            return SessionResult(_CAUSE_OF_CODE[signal], step, signal)
        if (edited := frozen.note(folder, _NOTE_WITHIN_S)) is not None:
            print(f"warning: {edited}", flush=True)
        if (problem := code.edited()) is not None:
            print(
                f"warning: {code.ROOT}: the code was changed after it was stored: {problem}",
                flush=True,
            )
        progress = folder.progress()
        # What it saved may be later than what it reported.
        silent = progress.get("attempt") == number - 1
        beginning = events.Started(
            attempt=number,
            job_id=job_id,
            step=first_step,
            pid=os.getpid(),
            host=node,
            hosts=hosts,
            restart=restart,
            reached=max(progress.get("step", 0), first_step) if silent else None,
            heard=progress.get("time") if silent else None,
            log_offset=None if log is None else os.path.getsize(log) if os.path.exists(log) else 0,
            warning=_warning(recipe, ranks),
            versions=versions(),
            code=code.running(folder.path),
            gpu=torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else None,
            driver=driver(ranks.device),
            data=identity_or_nothing(recipe.data, recipe.plugins),
            began=began,
            ranks=ranks.world_size,
            gpus=recipe.cluster.gpus * ranks.world_size // recipe.cluster.world_size,
            cores=ranks.world_size * (recipe.cluster.cpus_per_task or 1),
        )
        if are_other_data(beginning.data, folder.ledger.full_history().data):
            print(
                (
                    f"warning: {folder.name} trains on other data than before "
                    f"(data.name={recipe.data.name})"
                ),
                flush=True,
            )
        folder.ledger.note(beginning, within_s=_NOTE_WITHIN_S)
        return _recorded(training, cause_of)


@contextlib.contextmanager
def _started(
    folder: RunFolder, recipe: Recipe, ranks: Ranks, job_id: str, restart: int
) -> Iterator[tuple[int, int | None, Lease | None]]:
    """What `choose` says of the attempt, on all ranks, and on rank 0 the lease, which is held
    during the block."""
    held: list[Lease] = []

    def start() -> tuple[int, int | None]:
        try:
            held.append(
                Lease.acquire(
                    folder.leases, job_id=job_id, restart=restart, within_s=_START_WITHIN_S
                )
            )
            recipe.monitor.require_installed()
            return retried(lambda: choose(folder, recipe), _START_WITHIN_S)
        except LeaseHeldError as error:
            folder.ledger.note(events.TurnedAway(job_id=job_id, reason=str(error), why="held"))
            raise
        except Exception as error:
            # What passes is no reason not to start again.
            if not passes(error):
                event = events.GivenUp(job_id=job_id, reason=str(error), never_began=True)
                folder.ledger.note(event, within_s=_NOTE_WITHIN_S)
            raise

    try:
        yield *ranks.on_first(start), next(iter(held), None)
    finally:
        for lease in held:
            lease.release()


def choose(folder: RunFolder, recipe: Recipe) -> tuple[int, int | None]:
    """Number of an attempt, and the step of its checkpoint: the newest good one, or the one of
    `resume --from`.

    Without any checkpoint, a new run begins with new weights. Records damaged checkpoints, and sets
    those aside that are later than the chosen one.

    Raises:
        OSError: the checkpoints cannot be read at this moment. They are not taken for missing or
            damaged.
        NotFoundError, CheckpointError: the checkpoint that was asked for is missing or damaged,
            none of the checkpoints is usable, or they belong to another recipe.
    """
    history = folder.ledger.full_history()
    # Copies and archives of runs leave empty folders out.
    folder.checkpoints.mkdir(exist_ok=True)
    clear_unfinished(folder)
    newest, damaged = newest_good(folder, recipe.model_digest())
    for entry in damaged:
        print(entry.skipped, flush=True)
        folder.ledger.note(
            events.Remarked("damaged", what=f"step {entry.step}", reason=entry.reason)
        )
    if history.from_step is not None:
        verify(folder, history.from_step, model_digest=recipe.model_digest())
        newest = history.from_step
    elif newest is None and any(entry.finished for entry in damaged):
        text = f"none of its {len(damaged)} checkpoints is intact: {damaged[0].reason}"
        raise CheckpointError(f"{folder.path}: {text} To start over, submit the recipe again.")
    elif newest is None and folder.identity().keys() & _FROM_ELSEWHERE:
        text = (
            "the checkpoint that it was made with is missing, and new weights would be another run"
        )
        raise CheckpointError(f"{folder.path}: {text}. Submit or import it again.")
    moved = set_aside(folder, after=newest or 0)
    if moved:
        print(f"set aside the checkpoints of steps {', '.join(map(str, moved))}", flush=True)
    return len(history.attempts), newest


def _warning(recipe: Recipe, ranks: Ranks) -> str | None:
    """What makes this machine slow for the recipe; printed, too."""
    lacking = ranks.lacks_gpu(recipe.cluster.uses_gpu)
    emulated = ranks.device.type == "cpu" and cpu.emulates(recipe.train.precision)
    slow = cpu.warning(recipe.train.precision) if emulated else None
    warning = "; ".join(text for text in (lacking, slow) if text is not None) or None
    if warning is not None:
        print(f"warning: {warning}", flush=True)
    return warning


def _recorded(training: Session, cause_of: CauseOf) -> SessionResult:
    """Train on rank 0, and record in the ledger how it ended."""
    ledger = training.folder.ledger
    try:
        step, code = training.run()
    except LeaseLostError:
        raise  # The ledger belongs to the new owner.
    except BaseException as error:
        ledger.note(_failure(training, error), within_s=_NOTE_WITHIN_S)
        raise
    cause = (
        _CAUSE_OF_CODE[code] if code is StopCode.NONE else cause_of(code) or _CAUSE_OF_CODE[code]
    )
    detail = None if code is StopCode.NONE else f"SIG{code.name}"
    ended = events.Ended(attempt=training.attempt, cause=cause, step=step, detail=detail)
    ledger.note(ended, within_s=_NOTE_WITHIN_S)
    return SessionResult(cause, step, code)


def _failure(training: Session, error: BaseException) -> events.Ended:
    # Checkpoints beyond the first step are this attempt's, and may be later than what it last
    # reported.
    reported = training.folder.progress()
    mine = reported.get("attempt") == training.attempt
    saved = training.folder.checkpoint_steps()
    reached = max(training.checkpoint or 0, reported.get("step", 0) if mine else 0, *saved[-1:])
    cause: Cause = "crashed"
    if isinstance(error, NonFiniteError):
        cause = "nonfinite"
    elif isinstance(error, SaveError):
        cause, reached = "save_failed", max(reached, error.step)
    detail = _message(error, training.folder.name)[:_MAX_DETAIL]
    bug = isinstance(error, _BUGS)
    return events.Ended(attempt=training.attempt, cause=cause, step=reached, detail=detail, bug=bug)


def _message(error: BaseException, run: str) -> str:
    text = (
        str(error)
        if isinstance(error, CldError)
        else traceback.format_exception_only(error)[-1].strip()
    )
    # If a peer has died, gloo and NCCL report sockets.
    if "gloo" in text or "NCCL" in text:
        return (
            f"another rank is gone, killed or crashed; `cldctl logs {run} --rank N` shows the "
            f"last output of each"
        )
    return text


def driver(device: torch.device, file: Path = _DRIVER) -> str | None:
    """The version of the driver of a GPU; None for a CPU, and where nobody tells."""
    if device.type != "cuda":
        return None
    with contextlib.suppress(OSError):
        if (found := _VERSION.search(file.read_text(errors="replace"))) is not None:
            return found[1]
    return None


def compute(
    work: Training, ranks: Ranks, stop: StopFlag, pieces: Collection[int] | None, start: Start
) -> Outcome:
    """Train, as `Work.compute`."""
    ended = run(
        work.run,
        ranks,
        stop,
        job_id=start.job_id,
        recipe=work.recipe(_START_WITHIN_S, with_plugins=True),
        restart=start.restart,
        log=start.log,
        began=start.began,
        cause_of=start.cause_of,
        node=start.node,
    )
    print(
        f"rank {ranks.rank} of {ranks.world_size}: {ended.cause} at step {ended.step}", flush=True
    )
    return Outcome(ended.cause, ended.code)
