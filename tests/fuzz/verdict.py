"""One case of a fuzz target in a process of its own, and what it did.

A case may end well or with an error that a user can act on. It may not end with any other exception, run longer or use
more memory than allowed, start a process, or write outside its folder.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cld_core.errors import CldError

# What one case may use beyond what the process had before it.
TIME_S = 20.0
MEMORY_BYTES = 2 * 2**30
_PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn")
# Operations on paths, and where among their arguments each changed path is.
_CHANGES = {
    **dict.fromkeys(("os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.chown", "os.utime"), (0,)),
    **{"shutil.rmtree": (0,), "os.rename": (0, 1), "os.link": (1,), "os.symlink": (1,)},
}


@dataclass(frozen=True)
class Verdict:
    """How a case ended.

    Attributes:
        outcome: "ok", "refused" (an error with its fix), or what must not happen: "traceback", "hang", "memory",
            "killed", "wrote outside", "started a process", "several lines".
        detail: the error's message, or the traceback.
    """

    outcome: str
    detail: str = ""

    @property
    def is_good(self) -> bool:
        return self.outcome in ("ok", "refused")


class Forbidden(BaseException):
    """Raised in the case itself when it does what it must not; no `except Exception` hides it."""


def run(case: Callable[[], Any], folder: Path, *, time_s: float = TIME_S, memory_bytes: int = MEMORY_BYTES) -> Verdict:
    """Run ``case`` in a fork of this process, which may write below ``folder`` alone.

    Whatever the case needs, such as torch, should be imported before: a fork then takes milliseconds.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setpgid(0, 0)
        verdict = _inside(case, folder, memory_bytes)
        os.write(writing, f"{verdict.outcome}\0{verdict.detail}".encode(errors="replace")[:60000])
        os._exit(0)
    os.close(writing)
    try:
        return _answer(child, reading, time_s)
    finally:
        os.close(reading)


def _answer(child: int, reading: int, time_s: float) -> Verdict:
    """What the child writes before it ends; a child that takes too long is killed with its descendants."""
    deadline, content = time.monotonic() + time_s, b""
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGUSR1)  # The stacks, see `_inside`.
                time.sleep(0.2)
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Verdict("hang", f"longer than {time_s:.0f} s")
        piece = os.read(reading, 65536)
        if not piece:
            break
        content += piece
    _, status = os.waitpid(child, 0)
    if not content:
        return Verdict("killed", f"wait status {status}")
    outcome, _, detail = content.decode(errors="replace").partition("\0")
    return Verdict(outcome, detail)


def _inside(case: Callable[[], Any], folder: Path, memory_bytes: int) -> Verdict:
    faulthandler.register(signal.SIGUSR1)
    _limit_memory(memory_bytes)
    os.environ["CLDCTL_CACHE"] = str(folder / ".cache")
    try:
        with _guarded(folder):
            case()
    except CldError as error:
        lines = str(error).strip().splitlines()
        return Verdict("refused" if len(lines) == 1 else "several lines", str(error))
    except Forbidden as error:
        return Verdict(str(error.args[0]), "".join(traceback.format_exception(error)))
    except MemoryError as error:
        return Verdict("memory", "".join(traceback.format_exception(error)))
    except BaseException as error:
        # torch reports a refused allocation as a RuntimeError.
        outcome = "memory" if "alloc" in str(error) and isinstance(error, RuntimeError) else "traceback"
        return Verdict(outcome, "".join(traceback.format_exception(error)))
    return Verdict("ok")


def _limit_memory(extra_bytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + extra_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextlib.contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """Refuse every change outside ``folder``, and every new process, in this block.

    Names are believed to be relative to it, also those that are relative to an open folder.
    """
    allowed, on = (str(folder.resolve()), "/dev/null", "/dev/shm", "/dev/tty"), True
    os.chdir(folder)

    def check(path: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        text = os.path.realpath(os.fsdecode(path))
        if not any(text == place or text.startswith(place + "/") for place in allowed):
            raise Forbidden("wrote outside", text)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal on
        if not on:
            return
        if event in _PROCESSES:
            raise Forbidden("started a process", repr(arguments)[:300])
        changed = [arguments[place] for place in _CHANGES.get(event, ())]
        if event == "open":
            path, mode, flags = arguments[:3]
            writes = bool(flags and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))
            if writes or (isinstance(mode, str) and any(letter in mode for letter in "wax+")):
                changed.append(path)
        on = False
        try:
            for path in changed:
                check(path)
        finally:
            on = True

    sys.addaudithook(hook)  # It cannot be removed: this process ends with the case.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
    on = False
