"""Many cases of a target, seeded and replayable, each in a process of its own.

    python -m tests.fuzz --target recipes --seconds 600 --seed 7    a campaign
    python -m tests.fuzz --target recipes --replay 7:1234           one case of it again

A target (`TARGETS` in `tests.fuzz.targets`) makes case number i of a seed from
`random.Random(f"{seed}:{i}")` alone. A case may end well or with an error that a user can act on.
It may not end with any other exception, run longer or use more memory than allowed, start a
process, or write outside its folder.
"""

import collections
import contextlib
import io
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cld_core.errors import CldError

# What one case may use, of memory beyond what the process had before it.
TIME_S = 20.0
MEMORY_BYTES = 2 * 2**30
_FORK = multiprocessing.get_context("fork")
_PROCESSES = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
)
# Operations on paths, and where among their arguments each changed path is.
_CHANGES = {
    **dict.fromkeys(
        ("os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.chown", "os.utime"),
        (0,),
    ),
    **{"shutil.rmtree": (0,), "os.rename": (0, 1), "os.link": (1,), "os.symlink": (1,)},
}


@dataclass(frozen=True)
class Target:
    """One reader under fuzz.

    Attributes:
        make: gets the generator of the case and an empty folder, writes the damaged input there,
            and returns what reads it: a function without arguments that raises CldError to refuse.
        prepare: called once, before any case: imports and valid inputs; forks share them.
    """

    name: str
    make: Callable[[random.Random, Path], Callable[[], Any]]
    prepare: Callable[[], Any]


@dataclass(frozen=True)
class Verdict:
    """How a case ended.

    Attributes:
        outcome: "ok", "refused" (an error with its fix), or what must not happen: "traceback",
            "hang", "memory", "killed", "wrote outside", "started a process", "several lines".
        detail: the error's message, or the traceback.
    """

    outcome: str
    detail: str = ""

    @property
    def is_good(self):
        return self.outcome in ("ok", "refused")


class Forbidden(BaseException):
    """Raised in the case itself when it does what it must not; no `except Exception` hides it."""


def campaign(target, seed, cases=float("inf"), seconds=float("inf")):
    """Run cases of a target until ``cases`` are done or ``seconds`` are over.

    Prints the number of cases of each outcome; returns a line for each bad one, with its replay.
    """
    target.prepare()
    began = time.monotonic()
    number = 0
    bad = []
    counts = collections.Counter()
    while number < cases and time.monotonic() - began < seconds:
        verdict = one(target, seed, number)
        counts[verdict.outcome] += 1
        if not verdict.is_good:
            last = verdict.detail.strip().rpartition("\n")[2]
            replay = f"--target {target.name} --replay {seed}:{number}"
            bad.append(f"{verdict.outcome}: {last[:200]}  ({replay})")
        number += 1
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    print("\n  ".join([f"{target.name}: {number} cases: {outcomes}", *bad[:10]]), flush=True)
    return bad


def one(target, seed, number):
    """Case ``number`` of a seed, in a temporary folder, the only one that it may write to.

    It is a fork of this process, which should import torch and the like before.
    """
    with tempfile.TemporaryDirectory(
        prefix=f"fuzz-{target.name}-", ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        case = target.make(random.Random(f"{seed}:{number}"), folder)
        reading, writing = _FORK.Pipe(duplex=False)
        child = _FORK.Process(target=_inside, args=(case, folder, writing))
        child.start()
        writing.close()
        try:
            if not reading.poll(TIME_S):
                return Verdict("hang", f"longer than {TIME_S:.0f} s")
            return reading.recv()
        except EOFError:
            return Verdict("killed")
        finally:
            child.kill()
            child.join()


def _inside(case, folder, writing):
    """Send the verdict of a case."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["CLDCTL_CACHE"] = str(folder / ".cache")
    os.chdir(folder)
    guard = Guard(folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            case()
        verdict = Verdict("ok")
    except CldError as error:
        lines = str(error).strip().splitlines()
        verdict = Verdict("refused" if len(lines) == 1 else "several lines", str(error))
    except BaseException as error:
        verdict = Verdict(_outcome_of(error), "".join(traceback.format_exception(error)))
    guard.on = False
    writing.send(verdict)


def _outcome_of(error):
    if isinstance(error, Forbidden):
        return str(error.args[0])
    # torch reports a refused allocation as a RuntimeError.
    is_allocation = isinstance(error, RuntimeError) and "alloc" in str(error)
    return "memory" if is_allocation or isinstance(error, MemoryError) else "traceback"


class Guard:
    """Refuses every new process, and changes outside ``folder``, which is the working directory.

    All names count as relative to it, also those that are relative to an open folder.
    """

    def __init__(self, folder):
        self.allowed = (str(folder.resolve()), "/dev/null", "/dev/shm", "/dev/tty")
        self.on = True
        sys.addaudithook(self._hook)  # It cannot be removed: this process ends with the case.

    def _hook(self, event, arguments):
        if not self.on:
            return
        if event in _PROCESSES:
            raise Forbidden("started a process", repr(arguments)[:300])
        changed = [arguments[place] for place in _CHANGES.get(event, ())]
        if event == "open":
            path, mode, flags = arguments[:3]
            writes = bool(
                flags and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            )
            if writes or (isinstance(mode, str) and any(letter in mode for letter in "wax+")):
                changed.append(path)
        self.on = False
        try:
            for path in changed:
                if isinstance(path, str | bytes | os.PathLike):
                    self._check(os.path.realpath(os.fsdecode(path)))
        finally:
            self.on = True

    def _check(self, path):
        if not any(path == place or path.startswith(f"{place}/") for place in self.allowed):
            raise Forbidden("wrote outside", path)
