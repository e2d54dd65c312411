"""Actions that go on in the background, each in a thread of its own, so that the screen answers meanwhile."""

import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from cld_core.errors import CldError
from cld_core.texts import one_line

from .actions import Say

# Shows a line; whether it is an error.
Show = Callable[[str, bool], None]


@dataclass
class Doing:
    """What goes on.

    Attributes:
        show: called with each line that an action says, from its thread.
    """

    show: Show
    _busy: set[str] = field(default_factory=set)
    _processes: dict[str, "subprocess.Popen[str]"] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, what: str, act: Callable[[Say], list[str]]) -> None:
        """Do something, unless just that goes on already.

        Args:
            what: the action and the name of the run, as people read them.
        """
        with self._lock:
            if what in self._busy:
                self.show(f"{what}: still in progress", True)
                return
            self._busy.add(what)
        threading.Thread(target=self._run, args=(what, act), daemon=True).start()

    def _run(self, what: str, act: Callable[[Say], list[str]]) -> None:
        try:
            for line in act(lambda text: self.show(text, False)):
                self.show(line, False)
        except CldError as error:
            self.show(str(error), True)
        except Exception as error:
            self.show(f"{what}: {one_line(error) or type(error).__name__}", True)
        finally:
            with self._lock:
                self._busy.discard(what)

    def hold(self, what: str, process: "subprocess.Popen[str]") -> None:
        """Remember a process, which is ended with this screen."""
        self._processes[what] = process

    @property
    def going_on(self) -> list[str]:
        """All actions that have not ended."""
        with self._lock:
            return list(self._busy)

    @property
    def waiting(self) -> list[str]:
        """What goes on without this process."""
        return [what for what in self.going_on if what not in self._processes]

    def end_processes(self) -> list[str]:
        """End the processes that are left; what they did."""
        left = [what for what, process in self._processes.items() if process.poll() is None]
        for what in left:
            self._processes[what].terminate()
        return left
