"""The ranks agree at which step to stop."""

import torch

from cld_core.ranks import Ranks

from .stop import StopCode


class Consensus:
    """One integer of all ranks a step: the most important reason to stop of any of them.

    The exchange runs on the CPU (gloo) beside the step's computation, so no GPU waits for it.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._value = torch.zeros((), dtype=torch.int64)
        self._work: torch.distributed.Work | None = None

    def begin(self, code: StopCode) -> None:
        """Hand in this rank's reason at the start of a step."""
        self._value.fill_(int(code))
        if self._ranks.world_size > 1:
            reduce = torch.distributed.all_reduce
            self._work = reduce(
                self._value, op=torch.distributed.ReduceOp.MAX, group=self._ranks.control, async_op=True
            )

    def result(self) -> StopCode:
        """The reason that all ranks see, the same on each, at the end of the step."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        return StopCode(int(self._value))
