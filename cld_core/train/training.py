"""The training of one attempt on this rank: from its first step to the last saved one, rollbacks included."""

import contextlib
import socket
from dataclasses import dataclass

from cld_core import numerics
from cld_core.checkpoint.load import load
from cld_core.checkpoint.write import CheckpointWriter, SnapshotWriter
from cld_core.config import Recipe
from cld_core.ranks import Ranks
from cld_core.run import Lease, RunFolder, pending
from cld_core.stop import StopCode, StopFlag

from . import loop, rollback, tuning
from .forms import Choice
from .jointly import on_first
from .monitoring import Monitor
from .pace import EVERY, Stragglers
from .periodic import Heartbeat, Periodic
from .saving import Saving
from .step import Trainer
from .watchdog import Watchdog

# Seconds for which the last save is repeated: after the last step (the other ranks wait no longer than ten minutes),
# and after SIGTERM, which leaves KillWait (30 s on most clusters). After SIGUSR2, a share of the notice.
_AT_THE_END_S = 480.0
_TERM_S = 20.0
_NOTICE_S, _SHARE = 90, 2 / 3


@dataclass(frozen=True)
class Training:
    """What the segments of an attempt share: an attempt has one segment, and one more after each rollback.

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

    def run(self) -> loop.Outcome:
        """Train until the steps are done or a rank was asked to stop; everything is saved when this returns.

        Raises:
            NonFiniteError: a gradient or loss was not finite or exploded, and rolling back did not help.
            SaveError: a checkpoint could not be written.
            LeaseLostError: another job owns the run folder.
            RankError: one of these happened on rank 0, and this is another rank.
        """
        saving = None if self.lease is None else self._saving(self.lease)
        spec = self.recipe.train

        # A run that is to be repeatable does not leave the choice of kernels to a stopwatch each time it starts.
        with (
            numerics.using(tf32=spec.tf32, fixed_shapes=spec.on_resume != "exact"),
            contextlib.closing(Watchdog(spec.hang_timeout_s)) as watchdog,
        ):
            outcome = self._trained(saving, watchdog)
        self._settle(saving, outcome.code)
        return outcome

    def _trained(self, saving: Saving | None, watchdog: Watchdog) -> loop.Outcome:
        try:
            choice = tuning.decide(
                self.recipe,
                self.ranks,
                ledger=self.folder.ledger,
                lease=self.lease,
                stop=self.stop,
                heartbeat=watchdog.reset,
            )
        except tuning.Stopped as stopped:
            return loop.Outcome(self.first_step, stopped.code)

        def segment(first_step: int, rollbacks: int) -> loop.Outcome:
            return self._segment(first_step, rollbacks, saving, choice, watchdog)

        return rollback.guarded(
            segment,
            self.folder,
            self.recipe,
            self.ranks,
            saving,
            attempt=self.attempt,
            first_step=self.first_step,
        )

    def _saving(self, lease: Lease) -> Saving:
        spec = self.recipe.train
        # A checkpoint from elsewhere cannot be computed again.
        imported = pending.history(self.folder.ledger).imported_step
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

    def _segment(
        self, first_step: int, rollbacks: int, saving: Saving | None, choice: Choice, watchdog: Watchdog
    ) -> loop.Outcome:
        clock = tuning.clock_of(self.ranks.device)
        began = clock()
        with contextlib.ExitStack() as stack:
            watchdog.reset()
            trainer = self._trainer(first_step, rollbacks, choice, watchdog)
            stack.callback(trainer.close)
            monitor = self._monitor(first_step, stack)
            periodic = Periodic(trainer, self.folder, monitor, self.stop)
            stragglers = Stragglers(self.ranks, self.node or socket.gethostname())
            every = self.recipe.train.log_every * EVERY

            def after_step(step: int, heartbeat: Heartbeat) -> None:
                if monitor is not None and step == first_step + 1:
                    monitor.started(step, clock() - began)
                periodic(step, heartbeat)
                if step % every == 0:
                    line, warning = stragglers.compare(trainer.pace)
                    if monitor is not None:
                        monitor.warn(line, warning)

            return loop.run(
                trainer,
                self.ranks,
                self.stop,
                spec=self.recipe.train,
                watchdog=watchdog,
                first_step=first_step,
                saving=saving,
                monitor=monitor,
                healthy=lambda: self.lease is None or not self.lease.lost,
                periodic=after_step,
            )

    def _trainer(self, first_step: int, rollbacks: int, choice: Choice, watchdog: Watchdog) -> Trainer:
        attempt = self.attempt if self.recipe.train.on_resume == "reseed" else 0
        trainer = Trainer(self.recipe, self.ranks, rollback.noise_key(attempt, rollbacks), choice)
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

    def _settle(self, saving: Saving | None, code: StopCode) -> None:
        """Wait until rank 0 has saved, and fail on all ranks if it could not."""

        def settle() -> None:
            if saving is not None and self.lease is not None:
                saving.wait(self._patience_s(code))
                # No checkpoint was written without asking; now it is only about what else follows.
                with contextlib.suppress(OSError):
                    self.lease.check()

        on_first(self.ranks, settle)

    def _patience_s(self, code: StopCode) -> float:
        """For how many seconds the last save may be repeated, so that there is time for what follows it."""
        if code is StopCode.USR2:
            return (self.recipe.cluster.signal_s or _NOTICE_S) * _SHARE
        return {StopCode.NONE: _AT_THE_END_S, StopCode.TERM: _TERM_S}.get(code, 0.0)
