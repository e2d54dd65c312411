"""The train loop. It never submits, requeues or polls: it gets a stop flag and returns why it ended."""

from collections.abc import Callable
from dataclasses import dataclass

from cld_core.config.train import TrainSpec
from cld_core.consensus import Consensus
from cld_core.ranks import Ranks
from cld_core.stop import StopCode, StopFlag

from .monitoring import Monitor
from .saving import Saving
from .step import Trainer
from .watchdog import Watchdog

# Training waits for the write before the next one; who watches is told if that takes so many seconds already.
_WORTH_TELLING_S = 1.0


@dataclass(frozen=True)
class Outcome:
    """Where the loop ended and why; `StopCode.NONE` means that all steps are done."""

    step: int
    code: StopCode


def run(
    trainer: Trainer,
    ranks: Ranks,
    stop: StopFlag,
    *,
    spec: TrainSpec,
    watchdog: Watchdog,
    first_step: int,
    saving: Saving | None,
    monitor: Monitor | None,
    healthy: Callable[[], bool] = lambda: True,
    periodic: Callable[[int, Callable[[], None]], None] | None = None,
) -> Outcome:
    """Train from ``first_step`` until `spec.steps` or until a rank is asked to stop; all ranks end at the same step.

    Unless a rank failed, a checkpoint of the last step is being written when this returns.

    Args:
        watchdog: reset after each step, and closed when this returns.
        saving, monitor: given on rank 0 alone.
        healthy: checked at each step on rank 0; False ends the loop without a report or a save.
        periodic: called on all ranks after each step with the number of steps done, and with a function to call
            regularly while it computes.

    Raises:
        NonFiniteError: a gradient or loss was not finite or exploded; on all ranks, and nothing was changed by it.
    """
    consensus = Consensus(ranks)
    watchdog.reset()
    settled = saving.settled if saving is not None else _nothing
    done, code = first_step, StopCode.NONE
    try:
        while done < spec.steps and code is StopCode.NONE:
            if (saving is not None and saving.failed) or not healthy():
                stop.request(StopCode.FAILURE)
            code = _step(trainer, consensus, stop, done, settled)
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
                _save_averages(trainer, saving, done)
            if periodic is not None and code is StopCode.NONE:
                settled()
                periodic(done, watchdog.reset)
    finally:
        watchdog.close()
    if monitor is not None:
        # What is left to do is to wait for the last checkpoint.
        monitor.write(done, "saving")
    return Outcome(done, code)


def _step(trainer: Trainer, consensus: Consensus, stop: StopFlag, step: int, settled: Callable[[], None]) -> StopCode:
    """One optimiser step, and beside it the exchange of whether to stop after it."""
    consensus.begin(stop.code)
    try:
        # A checkpoint is copied while the next gradients are computed.
        trainer.step(step, before_update=settled)
    finally:
        code = consensus.result()
    return code


def _report(trainer: Trainer, monitor: Monitor | None, done: int) -> None:
    trainer.check(done - 1)
    scalars = trainer.take_scalars()
    trainer.check(done - 1, scalars.get("loss"))
    if monitor is not None:
        monitor.report(done, scalars)


def _save(trainer: Trainer, saving: Saving | None, monitor: Monitor | None, done: int) -> None:
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


def _save_averages(trainer: Trainer, saving: Saving | None, done: int) -> None:
    # As for a checkpoint: what a rollback gives up must not be in a snapshot that stays.
    trainer.check(done - 1)
    if saving is not None:
        saving.save_averages(done, trainer.averages_dict())


def _nothing() -> None:
    """Without a writer there is nothing to wait for."""
