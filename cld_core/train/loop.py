"""The train loop of an attempt: steps, saves and rollbacks, until the steps are done or a rank is asked to stop.

It never submits, requeues or polls: it gets a stop flag and returns why it ended. When a loss or gradient explodes, it
continues from the last good checkpoint with fresh noise. The number of rollbacks is bounded: the ledger counts those to
each checkpoint, so a new attempt does not start from zero. Reaching a later checkpoint gives new credit, so that a run
that makes progress is not given up.
"""

import contextlib
import faulthandler
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cld_core import numerics
from cld_core.checkpoint.files import newest_good, set_aside
from cld_core.checkpoint.load import load
from cld_core.checkpoint.write import CheckpointWriter, SnapshotWriter
from cld_core.config import Recipe
from cld_core.errors import CldError, NonFiniteError
from cld_core.ranks import Consensus, Ranks
from cld_core.run import Lease, RunFolder, events
from cld_core.stop import StopCode, StopFlag

from .health import EVERY, Stragglers
from .monitoring import Monitor
from .periodic import Periodic
from .step import Trainer

# Training waits for the write before the next one; who watches is told if that takes so many seconds already.
_WORTH_TELLING_S = 1.0
# Seconds for which the last save is repeated: after the last step (the other ranks wait no longer than ten minutes),
# and after SIGTERM, which leaves KillWait (30 s on most clusters). After SIGUSR2, a share of the notice.
_AT_THE_END_S = 480.0
_TERM_S = 20.0
_NOTICE_S, _SHARE = 90, 2 / 3
# Runs have far fewer attempts.
_ROLLBACK_KEY = 1_000_000


@dataclass(frozen=True)
class Outcome:
    """Where the loop ended and why; `StopCode.NONE` means that all steps are done."""

    step: int
    code: StopCode


@dataclass(frozen=True)
class Training:
    """The training of one attempt on this rank: a segment, and one more after each rollback.

    Attributes:
        attempt: its number, from 0.
        lease: held on rank 0 alone.
        node: what the scheduler calls this machine.
    """

    folder: RunFolder
    recipe: Recipe
    ranks: Ranks
    stop: StopFlag
    attempt: int
    first_step: int
    lease: Lease | None
    node: str = ""

    def run(self) -> Outcome:
        """Train until the steps are done or a rank was asked to stop; everything is saved when this returns.

        Raises:
            NonFiniteError: a gradient or loss was not finite or exploded, and rolling back did not help.
            SaveError: a checkpoint could not be written.
            LeaseLostError: another job owns the run folder.
            RankError: one of these happened on rank 0, and this is another rank.
        """
        spec = self.recipe.train
        saving = None if self.lease is None else self._saving(self.lease)
        # A run that is to be repeatable does not leave the choice of kernels to a stopwatch each time it starts.
        with (
            numerics.using(tf32=spec.tf32, fixed_shapes=spec.on_resume != "exact"),
            contextlib.closing(Watchdog(spec.hang_timeout_s)) as watchdog,
        ):
            outcome = self._segments(saving, watchdog)
        self._settle(saving, outcome.code)
        return outcome

    def _segments(self, saving: "Saving | None", watchdog: "Watchdog") -> Outcome:
        """Train, and roll back as often as allowed."""
        step, ranks = self.first_step, self.ranks
        rollbacks = ranks.from_first(self.folder.ledger.full_history().rollbacks() if ranks.is_first else None)
        while True:
            try:
                return self._segment(step, rollbacks, saving, watchdog)
            except NonFiniteError as error:
                target, problem = ranks.from_first(self._roll_back(saving, error) if ranks.is_first else None)
                if problem is not None:
                    raise NonFiniteError(problem) from error
                step, rollbacks = target, rollbacks + 1

    def _segment(self, first_step: int, rollbacks: int, saving: "Saving | None", watchdog: "Watchdog") -> Outcome:
        began = self._now()
        with contextlib.ExitStack() as stack:
            watchdog.reset()
            trainer = self._trainer(first_step, rollbacks, watchdog)
            stack.callback(trainer.close)
            monitor = self._monitor(first_step, stack)
            periodic = Periodic(trainer, self.folder, monitor, self.stop)
            stragglers = Stragglers(self.ranks, self.node or socket.gethostname())
            every = self.recipe.train.log_every * EVERY

            def after_step(step: int) -> None:
                if monitor is not None and step == first_step + 1:
                    monitor.started(step, self._now() - began)
                periodic(step, watchdog.reset)
                if step % every == 0:
                    line, warning = stragglers.compare(trainer.interval.take_own_time())
                    if monitor is not None:
                        monitor.warn(line, warning)

            return self._steps(trainer, first_step, saving, monitor, watchdog, after_step)

    def _steps(
        self,
        trainer: Trainer,
        first_step: int,
        saving: "Saving | None",
        monitor: Monitor | None,
        watchdog: "Watchdog",
        after_step: Callable[[int], None],
    ) -> Outcome:
        """Train until `train.steps` or until a rank is asked to stop; all ranks end at the same step.

        Unless a rank failed, a checkpoint of the last step is being written when this returns.

        Raises:
            NonFiniteError: a gradient or loss was not finite or exploded; on all ranks, and nothing was changed by it.
        """
        spec, stop, consensus = self.recipe.train, self.stop, Consensus(self.ranks)
        settled = saving.settled if saving is not None else _nothing
        watchdog.reset()
        done, code = first_step, StopCode.NONE
        try:
            while done < spec.steps and code is StopCode.NONE:
                if (saving is not None and saving.failed) or (self.lease is not None and self.lease.lost):
                    stop.request(StopCode.FAILURE)
                # Beside the step, the ranks exchange whether to stop after it.
                consensus.begin(stop.code)
                try:
                    # A checkpoint is copied while the next gradients are computed.
                    trainer.step(done, before_update=settled)
                finally:
                    code = consensus.result()
                done += 1
                watchdog.reset()
                if code is StopCode.FAILURE:
                    return Outcome(done, code)
                ends = done == spec.steps or code is not StopCode.NONE
                if ends or done % spec.log_every == 0:
                    _report(trainer, monitor, done)
                if ends or done % spec.checkpoint_every == 0 or spec.is_milestone(done):
                    _save(trainer, saving, monitor, done)
                if spec.wants_snapshot(done):
                    # As for a checkpoint: what a rollback gives up must not be in a snapshot that stays.
                    trainer.check(done - 1)
                    if saving is not None:
                        saving.save_averages(done, trainer.averages_dict())
                if code is StopCode.NONE:
                    settled()
                    after_step(done)
        finally:
            watchdog.close()
        if monitor is not None:
            # What is left to do is to wait for the last checkpoint.
            monitor.write(done, "saving")
        return Outcome(done, code)

    def _trainer(self, first_step: int, rollbacks: int, watchdog: "Watchdog") -> Trainer:
        attempt = self.attempt if self.recipe.train.on_resume == "reseed" else 0
        # No other segment has the same key.
        trainer = Trainer(self.recipe, self.ranks, attempt + _ROLLBACK_KEY * rollbacks)
        if first_step > 0:
            # Mapped, not read at once, and copied from there to the device, so that no second copy takes its memory.
            trainer.load_state_dict(load(self.folder, first_step, model_digest=self.recipe.model_digest()))
            if self.ranks.is_first and trainer.power.begins:
                print(f"the power-function averages begin at step {first_step}", flush=True)
        watchdog.reset()
        trainer.warm_up()
        return trainer

    def _monitor(self, first_step: int, stack: contextlib.ExitStack) -> Monitor | None:
        if self.lease is None:
            return None
        monitor = Monitor(
            self.folder,
            attempt=self.attempt,
            first_step=first_step,
            steps=self.recipe.train.steps,
            may_write=self.lease.owned,
            recipe=self.recipe,
        )
        stack.push(monitor.leave)
        monitor.write(first_step)
        return monitor

    def _saving(self, lease: Lease) -> "Saving":
        spec = self.recipe.train
        # A checkpoint from elsewhere cannot be computed again.
        imported = self.folder.ledger.full_history().imported_step
        checkpoints = CheckpointWriter(
            self.folder,
            keep=spec.keep,
            milestone=lambda step: spec.is_milestone(step) or step == imported,
            check_owner=lease.check,
        )
        if not spec.ema_lengths:
            return Saving(checkpoints)
        half = spec.ema_precision == "fp16"
        return Saving(checkpoints, SnapshotWriter(self.folder, half=half, check_owner=lease.check))

    def _roll_back(self, saving: "Saving | None", error: NonFiniteError) -> tuple[int, str | None]:
        """The step to continue from, recorded in the ledger; or why rolling back is of no use."""
        folder, recipe = self.folder, self.recipe
        try:
            if saving is not None:
                saving.abandon()
            newest, _ = newest_good(folder, recipe.model_digest())
            set_aside(folder, after=newest or 0)
        except (CldError, OSError) as trouble:
            return 0, f"{error} Rolling back is impossible: {trouble}"
        target = newest or 0
        before, limit = folder.ledger.full_history().rollbacks(target), recipe.train.max_rollbacks
        if before >= limit:
            fix = "Lower optim.lr, or use `cldctl resume --from` with an earlier step"
            return 0, f"{error} {before} rollbacks to step {target}, each with fresh noise, did not help. {fix}."
        print(f"{error}\nrollback {before + 1} of at most {limit} to step {target}, with fresh noise", flush=True)
        event = events.RolledBack(attempt=self.attempt, to_step=target, reason=str(error)[:500])
        folder.ledger.note(event)
        return target, None

    def _settle(self, saving: "Saving | None", code: StopCode) -> None:
        """Wait until rank 0 has saved, and fail on all ranks if it could not."""

        def settle() -> None:
            if saving is not None and self.lease is not None:
                saving.wait(self._patience_s(code))
                # No checkpoint was written without asking; now it is only about what else follows.
                with contextlib.suppress(OSError):
                    self.lease.check()

        self.ranks.on_first(settle)

    def _patience_s(self, code: StopCode) -> float:
        """For how many seconds the last save may be repeated, so that there is time for what follows it."""
        if code is StopCode.USR2:
            return (self.recipe.cluster.signal_s or _NOTICE_S) * _SHARE
        return {StopCode.NONE: _AT_THE_END_S, StopCode.TERM: _TERM_S}.get(code, 0.0)

    def _now(self) -> float:
        """Seconds, when the device has done what it was told."""
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize(self.ranks.device)
        return time.perf_counter()


def _report(trainer: Trainer, monitor: Monitor | None, done: int) -> None:
    trainer.check(done - 1)
    scalars = trainer.take_scalars()
    trainer.check(done - 1, scalars.get("loss"))
    if monitor is not None:
        monitor.report(done, scalars)


def _save(trainer: Trainer, saving: "Saving | None", monitor: Monitor | None, done: int) -> None:
    # A checkpoint is what a rollback returns to, so all steps before it must be good.
    trainer.check(done - 1)
    if saving is None:
        return
    waits = monitor is not None and saving.checkpoints.busy_s > _WORTH_TELLING_S
    if monitor is not None and waits:
        monitor.enter("saving", done)
    saving.save(done, trainer.state_dict())
    if monitor is not None and waits:
        monitor.enter("training", done)


def _nothing() -> None:
    """Without a writer there is nothing to wait for."""


class Saving:
    """The writers of a run, on rank 0; each has at most one write in flight (`CheckpointWriter`).

    Args:
        snapshots: writes those of power-function averages, if the recipe keeps any.
    """

    def __init__(self, checkpoints: CheckpointWriter, snapshots: SnapshotWriter | None = None) -> None:
        self.checkpoints, self.snapshots = checkpoints, snapshots
        self._writers = [checkpoints, *([snapshots] if snapshots is not None else [])]

    @property
    def failed(self) -> bool:
        """Whether a write failed; `wait` raises the error."""
        return any(writer.failed for writer in self._writers)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Begin to write a checkpoint of a state that does not change before `settled`; raises SaveError as `wait`."""
        self.checkpoints.save(step, state, held_still=True)

    def save_averages(self, step: int, averages: dict[str, Any]) -> None:
        """Begin to write a snapshot of averages that do not change before `settled`; raises SaveError as `wait`."""
        if self.snapshots is not None:
            self.snapshots.save(step, averages, held_still=True)

    def settled(self) -> None:
        """Wait until the state may change."""
        for writer in self._writers:
            writer.settled()

    def wait(self, within_s: float = 0.0) -> None:
        """Wait until nothing is in flight, as `CheckpointWriter.wait`; the checkpoint first.

        Raises:
            SaveError: a write failed.
        """
        deadline = time.monotonic() + within_s
        self._each(lambda writer: writer.wait(max(0.0, deadline - time.monotonic())))

    def abandon(self) -> None:
        """Wait until nothing is in flight, as `CheckpointWriter.abandon`; raises as it does."""
        self._each(lambda writer: writer.abandon())

    def _each(self, wait: Callable[[CheckpointWriter], None]) -> None:
        """Wait for all writers, also if the first fails: its error is raised when no thread is left."""
        with contextlib.ExitStack() as stack:
            for writer in reversed(self._writers):
                stack.callback(wait, writer)


class Watchdog:
    """Prints all stacks and ends the process if it was not reset for ``timeout_s`` seconds, until `close`."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s, self._set = timeout_s, -float("inf")
        self.reset()

    def reset(self) -> None:
        """Progress was made; starts the watch again after `close`."""
        now = time.monotonic()
        # Setting it starts a thread, so not at every step.
        if now - self._set > min(5.0, self._timeout_s / 4):
            self._set = now
            faulthandler.dump_traceback_later(self._timeout_s, exit=True, file=sys.__stderr__ or sys.stderr)

    def close(self) -> None:
        self._set = -float("inf")
        faulthandler.cancel_dump_traceback_later()
