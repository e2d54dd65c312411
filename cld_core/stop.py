"""The flag that a signal sets, and nothing else. Loads no torch: a job listens before it loads
anything slow."""

import signal
from enum import IntEnum
from types import FrameType
from typing import ClassVar


class StopCode(IntEnum):
    """Why to stop, by rank of importance: the highest of all ranks wins."""

    NONE = 0
    USR2 = 1  # notice of preemption or of the time limit
    TERM = 2  # end
    FAILURE = 3  # this rank cannot go on: a save failed, the lease is lost


class StopFlag:
    """What the train loop is handed: says whether, and why, this rank was asked to stop.

    Attributes:
        interrupted: whether somebody pressed Ctrl-C in this process, after which what it does ends
            in order.
    """

    interrupted: ClassVar[bool] = False

    def __init__(self) -> None:
        self.code = StopCode.NONE

    def request(self, code: StopCode) -> None:
        self.code = max(self.code, code)

    def listen(self, *, interrupt: bool = False) -> "StopFlag":
        """Let SIGUSR2 and SIGTERM (with ``interrupt`` also SIGINT) set the flag, and do nothing
        else."""
        signal.signal(signal.SIGUSR2, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        if interrupt:
            signal.signal(signal.SIGINT, self._on_signal)
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        StopFlag.interrupted |= number == signal.SIGINT
        self.request(StopCode.USR2 if number == signal.SIGUSR2 else StopCode.TERM)
