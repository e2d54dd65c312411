"""Programs that run at the same time, in a time that passes only while all of them sleep."""

import threading
from collections.abc import Callable

from tests.support.clock import Clock


class Over(BaseException):
    """The time is up."""


class Together(Clock):
    """A clock for several programs of this process, in place of the module `time`: one runs, the others sleep."""

    def __init__(self, until_s: float) -> None:
        super().__init__(now=1_000_000.0)
        self._end = self.now + until_s
        self._turn = threading.Condition()
        self._wakes: dict[int, float] = {}

    def sleep(self, seconds: float) -> None:
        me = threading.get_ident()
        with self._turn:
            self._wakes[me] = self.now + seconds
            self._turn.notify_all()
            self._turn.wait_for(lambda: self._next() == me)
            self.now = max(self.now, self._wakes[me])
        if self.now >= self._end:
            raise Over

    def _next(self) -> int:
        return min(self._wakes, key=lambda who: (self._wakes[who], who))

    def run(self, *programs: Callable[[], object]) -> list[object]:
        """Run programs until each returns, or the time is up; what each returned, None for the latter."""
        results: list[object] = [None] * len(programs)
        ready = threading.Barrier(len(programs))

        def run(number: int) -> None:
            me = threading.get_ident()
            self._wakes[me] = self.now
            ready.wait()
            try:
                self.sleep(0.0)
                results[number] = programs[number]()
            except Over:
                pass
            except BaseException as error:
                results[number] = error
            finally:
                with self._turn:
                    del self._wakes[me]
                    self._turn.notify_all()

        threads = [threading.Thread(target=run, args=(number,)) for number in range(len(programs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results
