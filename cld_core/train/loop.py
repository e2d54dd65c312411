"""The train loop of an attempt: steps, saves and rollbacks, until the steps are done or a rank is asked to stop.

It never submits, requeues or polls: it gets a stop flag and returns why it ended. When a loss or gradient explodes, it
continues from the last good checkpoint with fresh noise. The number of rollbacks is bounded: the ledger counts those to
each checkpoint, so a new attempt does not start from zero. Reaching a later checkpoint gives new credit, so that a run
that makes progress is not given up.
"""

import faulthandler
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from cld_core import numerics
from cld_core.checkpoint import Writer, checkpoints, load, snapshots
from cld_core.config import Recipe
from cld_core.errors import CldError, NonFiniteError
from cld_core.ranks import Consensus, Ranks
from cld_core.run import Lease, RunFolder, events
from cld_core.run.checkpoints import newest_good, set_aside
from cld_core.stop import StopCode, StopFlag

from .health import EVERY, Stragglers
from .loggers import About
from .monitoring import Monitor, Periodic
from .step import Trainer

# Seconds for which the last save is repeated: after the last step (the other ranks wait no longer than ten minutes),
# and after SIGTERM, which leaves KillWait (30 s on most clusters). After SIGUSR2, a share of the notice.
_AT_THE_END_S = 480.0
_TERM_S = 20.0
_NOTICE_S, _SHARE = 90, 2 / 3
# Runs have far fewer attempts.
_ROLLBACK_KEY = 1_000_000


@dataclass(frozen=True)
class Training:
    """The training of one attempt on this rank: a segment, and one more after each rollback.

    Attributes:
        attempt: its number, from 0.
        lease: held on rank 0 alone.
        hosts: on rank 0, what the launcher calls the machine of each rank; empty on the others.
    """

    folder: RunFolder
    recipe: Recipe
    ranks: Ranks
    stop: StopFlag
    attempt: int
    first_step: int
    lease: Lease | None
    hosts: Sequence[str]
    # On rank 0 alone, by the kind of file; each has at most one write in flight.
    _writers: dict[str, Writer] = field(default_factory=dict, init=False)

    def run(self) -> tuple[int, StopCode]:
        """Train until the steps are done or a rank was asked to stop; everything is saved when this returns.

        Returns:
            The step, and why it ended there; `StopCode.NONE` means that all steps are done.

        Raises:
            NonFiniteError: a gradient or loss was not finite or exploded, and rolling back did not help.
            SaveError: a checkpoint could not be written.
            LeaseLostError: another job owns the run folder.
            RankError: one of these happened on rank 0, and this is another rank.
        """
        spec = self.recipe.train
        if self.lease is not None:
            self._open_writers(self.lease)
        # A run that is to be repeatable does not leave the choice of kernels to a stopwatch each time it starts.
        with (
            numerics.using(tf32=spec.tf32, fixed_shapes=spec.on_resume != "exact"),
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
            check_owner=lease.check,
        )
        if spec.ema_lengths:
            half = spec.ema_precision == "fp16"
            self._writers["snapshot"] = snapshots(self.folder, half=half, check_owner=lease.check)

    def _segments(self, watchdog: "Watchdog") -> tuple[int, StopCode]:
        """Train, and roll back as often as allowed."""
        step = self.first_step
        rollbacks = self.ranks.on_first(lambda: self.folder.ledger.full_history().rollbacks())
        while True:
            try:
                return self._segment(step, rollbacks, watchdog)
            except NonFiniteError as error:
                step = self.ranks.on_first(partial(self._roll_back, error))
                rollbacks += 1

    def _segment(self, first_step: int, rollbacks: int, watchdog: "Watchdog") -> tuple[int, StopCode]:
        """Train until `train.steps` or until a rank is asked to stop; all ranks end at the same step.

        Unless a rank failed, a checkpoint of the last step is being written when this returns.

        Raises:
            NonFiniteError: a gradient or loss was not finite or exploded; on all ranks, and nothing was changed by it.
        """
        spec, stop, began = self.recipe.train, self.stop, self._now()
        consensus = Consensus(self.ranks)
        stragglers = Stragglers(self.ranks, self.hosts)
        with ExitStack() as stack:
            watchdog.reset()
            trainer = self._trainer(first_step, rollbacks, watchdog)
            stack.callback(trainer.close)
            monitor = self._monitor(first_step, stack)
            periodic = Periodic(trainer, self.folder, monitor, stop, watchdog.reset)
            stack.callback(watchdog.close)
            watchdog.reset()
            done, code = first_step, StopCode.NONE
            while done < spec.steps:
                if any(one.failed for one in self._writers.values()) or (self.lease is not None and self.lease.lost):
                    stop.request(StopCode.FAILURE)
                # Beside the step, the ranks exchange whether to stop after it.
                consensus.begin(stop.code)
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
                if ends or done % spec.checkpoint_every == 0 or spec.is_milestone(done):
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

    def _monitor(self, first_step: int, stack: ExitStack) -> Monitor:
        about = About(folder=self.folder, recipe=self.recipe, attempt=self.attempt, first_step=first_step)
        monitor = Monitor(about, may_write=None if self.lease is None else self.lease.owned)
        stack.push(monitor.close)
        monitor.write(first_step)
        return monitor

    def _save(
        self, kind: str, step: int, trainer: Trainer, state: Callable[[], dict[str, Any]], monitor: Monitor
    ) -> None:
        # A rollback returns to a checkpoint, and must give up no snapshot: all steps before either must be good.
        trainer.check(step - 1)
        if kind not in self._writers:
            return
        if self._writers[kind].is_busy:
            monitor.enter("saving", step)
        self._writers[kind].save(step, state())
        monitor.enter("training", step)

    def _end_writes(self, wait: Callable[[Writer], None]) -> None:
        """Wait for all writers, also if the first fails: its error is raised when no thread is left."""
        with ExitStack() as stack:
            for writer in reversed(self._writers.values()):
                stack.callback(wait, writer)

    def _roll_back(self, error: NonFiniteError) -> int:
        """The step to continue from, recorded in the ledger.

        Raises:
            NonFiniteError: rolling back is of no use; says why.
        """
        folder, recipe = self.folder, self.recipe
        try:
            self._end_writes(Writer.abandon)
            newest, _ = newest_good(folder, recipe.model_digest())
            set_aside(folder, after=newest or 0)
        except (CldError, OSError) as trouble:
            raise NonFiniteError(f"{error} Rolling back is impossible: {trouble}") from trouble
        target = newest or 0
        before, limit = folder.ledger.full_history().rollbacks(target), recipe.train.max_rollbacks
        if before >= limit:
            fix = "Lower optim.lr, or use `cldctl resume --from` with an earlier step"
            text = f"{error} {before} rollbacks to step {target}, each with fresh noise, did not help. {fix}."
            raise NonFiniteError(text)
        print(f"{error}\nrollback {before + 1} of at most {limit} to step {target}, with fresh noise", flush=True)
        event = events.RolledBack(attempt=self.attempt, to_step=target, reason=str(error)[:500])
        folder.ledger.note(event)
        return target

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
