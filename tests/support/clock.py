"""Time that passes only while somebody sleeps: in place of the module `time` of the code under test."""

from collections.abc import Callable
from time import strftime


class Clock:
    """Calls ``then`` with the time whenever somebody has slept."""

    def __init__(self, now: float = 0.0, then: Callable[[float], object] = lambda now: None) -> None:
        self.now, self.then = now, then

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.then(self.now)

    def strftime(self, form: str) -> str:
        return strftime(form)
