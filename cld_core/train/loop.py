"""The train loop. It submits nothing, requeues nothing and asks no scheduler: handed a flag, it says why it ended."""

import faulthandler
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from cld_core.checkpoint import CheckpointWriter
from cld_core.consensus import Consensus
from cld_core.ranks import Ranks
from cld_core.recipe.schema import TrainSpec
from cld_core.stop import StopCode, StopFlag

from .monitoring import Monitor
from .step import Trainer


@dataclass(frozen=True)
class Outcome:
    """Where the loop ended and why: NONE means that all steps are done."""

    step: int
    code: StopCode


def run(
    trainer: Trainer,
    ranks: Ranks,
    stop: StopFlag,
    *,
    spec: TrainSpec,
    first_step: int,
    writer: CheckpointWriter | None,
    monitor: Monitor | None,
    healthy: Callable[[], bool] = lambda: True,
    periodic: Callable[[int, Callable[[], None]], None] | None = None,
) -> Outcome:
    """Train from ``first_step`` until `spec.steps` or until a rank is asked to stop; all ranks end at the same step.

    A checkpoint of the last step is under way when this returns, unless a rank failed.

    Args:
        writer, monitor: given on rank 0 alone.
        healthy: polled each step on rank 0; False ends the loop without a save.
        periodic: called on all ranks after each step with the number of steps done, and a function to call now and
            then while it computes.

    Raises:
        NonFiniteError: a gradient or loss was not finite or exploded; on all ranks, and nothing was changed by it.
    """
    alarm = _Alarm(spec.hang_timeout_s)
    consensus = Consensus(ranks)
    done, code = first_step, StopCode.NONE
    settled = writer.settled if writer is not None else _nothing
    try:
        while done < spec.steps and code is StopCode.NONE:
            if (writer is not None and writer.failed) or not healthy():
                stop.request(StopCode.FAILURE)
            consensus.begin(stop.code)
            try:
                # A checkpoint is copied while the next gradients are computed.
                trainer.step(done, before_update=settled)
            finally:
                code = consensus.result()
            done += 1
            alarm.put_off()
            ended = done == spec.steps or code is not StopCode.NONE
            if done % spec.log_every == 0 or ended:
                _report(trainer, monitor if code is not StopCode.FAILURE else None, done)
            due = done % spec.checkpoint_every == 0 or spec.is_milestone(done) or ended
            if due and code is not StopCode.FAILURE:
                # A checkpoint is what one goes back to, so nothing bad may lie before it.
                trainer.check(done - 1)
                if writer is not None:
                    writer.save(done, trainer.state_dict(), held_still=True)
            if periodic is not None and code is StopCode.NONE:
                settled()
                periodic(done, alarm.put_off)
    finally:
        alarm.cancel()
    if monitor is not None and code is not StopCode.FAILURE:
        monitor.write(done)
    return Outcome(done, code)


def _report(trainer: Trainer, monitor: Monitor | None, done: int) -> None:
    trainer.check(done - 1)
    scalars = trainer.take_scalars()
    trainer.check(done - 1, scalars["loss"])
    if monitor is not None:
        monitor.report(done, scalars)


def _nothing() -> None:
    """Where nobody writes there is nothing to wait for."""


class _Alarm:
    """Shows all stacks and ends the process when no step was finished for ``timeout_s`` seconds."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s, self._set = timeout_s, 0.0
        self.put_off()

    def put_off(self) -> None:
        now = time.monotonic()
        # Setting it costs a thread, so not at every step.
        if now - self._set > min(5.0, self._timeout_s / 4):
            self._set = now
            faulthandler.dump_traceback_later(self._timeout_s, exit=True, file=sys.__stderr__ or sys.stderr)

    def cancel(self) -> None:
        faulthandler.cancel_dump_traceback_later()
