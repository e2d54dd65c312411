"""The flag that signals set. Loads no torch, so that a job can listen before slow imports."""

import signal
from enum import IntEnum
from types import FrameType
from typing import ClassVar


class StopCode(IntEnum):
    """The reason to stop. The highest one of all ranks counts."""

    NONE = 0
    USR2 = 1  # notice of preemption or of the time limit
    TERM = 2  # end
    FAILURE = 3  # this rank cannot continue: a save failed, the lease is lost


class Stopped(Exception):
    """Computing ends early: this process has to stop, or another one has finished the work."""


class StopFlag:
    """Whether, and why, this process has to stop. It is read between steps and batches.

    Attributes:
        interrupted: whether this process received Ctrl-C, after which it exits cleanly.
    """

    interrupted: ClassVar[bool] = False

    def __init__(self) -> None:
        self.code = StopCode.NONE

    @property
    def is_set(self) -> bool:
        return self.code is not StopCode.NONE

    def check(self) -> None:
        """Raise `Stopped` if this process has to stop."""
        if self.is_set:
            raise Stopped

    def request(self, code: StopCode) -> None:
        self.code = max(self.code, code)

    def listen(self, *, interrupt: bool = False) -> "StopFlag":
        """Let SIGUSR2 and SIGTERM, and with ``interrupt`` also SIGINT, only set the flag."""
        signal.signal(signal.SIGUSR2, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        if interrupt:
            signal.signal(signal.SIGINT, self._on_signal)
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        StopFlag.interrupted |= number == signal.SIGINT
        self.request(StopCode.USR2 if number == signal.SIGUSR2 else StopCode.TERM)
