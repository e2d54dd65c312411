"""Time that passes only while somebody sleeps: in place of the module `time` of the code under test."""

import time


class Clock:
    time = staticmethod(time.time)

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
