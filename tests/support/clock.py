"""Time that passes only in `sleep`, in place of the module `time` of the code under test."""

from time import strftime


class Clock:
    """Calls ``then`` with the time after each `sleep`."""

    def __init__(self, now=0.0, then=lambda now: None):
        self.now = now
        self.then = then

    def time(self):
        return self.now

    def monotonic(self):
        return self.now

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.then(self.now)

    def strftime(self, form):
        return strftime(form)
