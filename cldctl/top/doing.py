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
        over: called when an action has ended, from its thread.
    """

    show: Show
    over: Callable[[], None]
    _busy: dict[str, bool] = field(default_factory=dict)
    _processes: dict[str, "subprocess.Popen[str]"] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, what: str, act: Callable[[Say], list[str]], *, must_end: bool) -> None:
        """Do something, unless just that goes on already.

        Args:
            what: the action and the name of the run, as people read them.
            must_end: it leaves something half done if this process ends before it.
        """
        with self._lock:
            if what in self._busy:
                self.show(f"{what}: still going on", True)
                return
            self._busy[what] = must_end
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
                self._busy.pop(what, None)
            self.over()

    def hold(self, what: str, process: "subprocess.Popen[str]") -> None:
        """Remember a process, which is ended with this screen."""
        self._processes[what] = process

    @property
    def going_on(self) -> list[str]:
        """All actions that have not ended."""
        with self._lock:
            return list(self._busy)

    @property
    def unfinished(self) -> list[str]:
        """What must not be interrupted."""
        with self._lock:
            return [what for what, must_end in self._busy.items() if must_end]

    @property
    def waiting(self) -> list[str]:
        """What goes on, and ends by itself without this process."""
        with self._lock:
            return [what for what, must_end in self._busy.items() if not must_end and what not in self._processes]

    def end_processes(self) -> list[str]:
        """End the processes that are left; what they did."""
        left = [what for what, process in self._processes.items() if process.poll() is None]
        for what in left:
            self._processes[what].terminate()
        return left
