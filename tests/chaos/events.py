"""What a campaign does to a run, wherever it trains: each event by name, and what it may lead to."""

from __future__ import annotations

import contextlib
import errno
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cld_core.files import write_text
from cld_core.run import RunFolder
from tests.slurm.polling import wait_until

from .record import STATUS_S
from .shim import CLASSES, GROWING, WRITING
from .stage import Stage
from .watch import ranks_of

OVER = ("STOPPED", "FAILED", "CANCELLED", "FINISHED", "LOST")
# Seconds for which a disk or a process is out of order: many steps, several reports and some checkpoints.
SPELL_S = 4.0
# Seconds within which something has to happen, on a busy machine.
PATIENCE_S = 240.0
# Where the whole run stops at once, nobody is told why.
DEAD = ("killed", "crashed")
# Nothing but a checkpoint that cannot be written for long may end an attempt.
HURT = (None, "save_failed")

Repair = Callable[[], object]


@dataclass(frozen=True)
class Scene:
    """Where an event happens: the run, its current job, and what is left to chance.

    Attributes:
        note: reports a broken promise.
    """

    stage: Stage
    run: str
    job: str
    rng: random.Random
    note: Callable[[str], None]

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.stage.runs / self.run)

    @property
    def orders(self) -> Path:
        return self.stage.orders

    @property
    def lab(self) -> Any:
        return self.stage.lab

    def ranks(self) -> dict[int, psutil.Process]:
        return {number: processes[0] for number, processes in ranks_of(self.folder).items()}

    def signal(self, number: int, *ranks: int) -> list[psutil.Process]:
        """Send a signal to these ranks, or to all; returns their processes."""
        hit = [process for rank, process in self.ranks().items() if not ranks or rank in ranks]
        for process in hit:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        return hit

    def look(self) -> dict[str, Any]:
        """The status, which has to come in time; whether it is right depends on the event."""
        began = time.monotonic()
        row = self.stage.status(self.run)
        if (took := time.monotonic() - began) > STATUS_S:
            self.note(f"status took {took:.0f} s")
        if row["state"] == "UNKNOWN":
            self.note(f"status failed: {row['reason']}")
        return row

    def until(self, condition: Callable[[], Any], what: str) -> None:
        wait_until(condition, timeout=PATIENCE_S, what=what, last_seen=self.stage.describe)

    def over(self) -> dict[str, Any]:
        """The status once nothing of the run is alive any more."""
        seen: dict[str, Any] = {}

        def ended() -> bool:
            seen.update(self.look())
            return seen["state"] in OVER and not ranks_of(self.folder)

        self.until(ended, f"{self.run} to end")
        return seen


@dataclass(frozen=True)
class Event:
    """One kind of event.

    Attributes:
        causes: those that the ledger may give for the attempt; None if the attempt may survive.
        do: makes it happen; returns what repairs the place once the run trains again, if anything.
        announced: whether the ranks are told, so that no step may be lost.
        saves: whether checkpoints can be written all the time.
        ends: whether the run ends, so that it has to be resumed by hand on any cluster.
        strict: whether an end that nobody can explain breaks a promise, and the lease has to be seen to live on.
    """

    name: str
    causes: Sequence[str | None]
    do: Callable[[Any], Repair | None]
    announced: bool = False
    saves: bool = True
    ends: bool = False
    strict: bool = False


def kill(*ranks: int) -> Callable[[Scene], None]:
    def do(scene: Scene) -> None:
        hit = scene.signal(signal.SIGKILL, *ranks)
        scene.until(lambda: not any(map(is_alive, hit)), "the end of killed ranks")

    return do


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def stop(*ranks: int) -> Callable[[Scene], None]:
    """SIGSTOP for a while, and SIGCONT; `status` is asked meanwhile."""

    def do(scene: Scene) -> None:
        hit = scene.signal(signal.SIGSTOP, *ranks)
        try:
            row = scene.look()
            if row["state"] != "RUNNING":
                scene.note(f"status calls a stopped run {row['state']}: {row['reason']}")
        finally:
            for process in hit:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)

    return do


def burst(calls: Sequence[str], error: int, *, rate: float = 1.0, times: int = -1) -> Callable[[Scene], None]:
    """Calls on the run's folder fail: for a while, or until so many have."""

    def do(scene: Scene) -> None:
        faults = scene.stage.faults
        before = faults.failed
        faults.fail(calls, error, rate, times)
        try:
            wait(scene, lambda: 0 <= times <= faults.failed - before)
            if faults.failed == before:
                # Nothing was called: it has to be met once.
                scene.until(lambda: faults.failed > before or not scene.ranks(), "a call that fails")
        finally:
            faults.calm()

    return do


def wait(scene: Scene, enough: Callable[[], bool]) -> None:
    """For a spell, or until it is enough or nobody is left to meet the fault."""
    end = time.monotonic() + SPELL_S
    while time.monotonic() < end and not enough() and scene.ranks():
        time.sleep(0.1)


@contextlib.contextmanager
def bad_listings(scene: Scene) -> Iterator[None]:
    scene.stage.faults.list_badly(stale_s=1.0)
    scene.stage.faults.be_slow(0.2, rate=0.02)
    try:
        yield
    finally:
        scene.stage.faults.calm()


def listings(scene: Scene) -> None:
    """The run starts again while listings are slow, shuffled and stale, as on NFS."""
    with bad_listings(scene):
        kill()(scene)
        if not scene.stage.comes_back:
            scene.over()
            resume(scene)
        trains_again(scene)


def clock(seconds: int) -> Callable[[Scene], Repair]:
    """The clock jumps under a running attempt, and stays there over a restart."""

    def do(scene: Scene) -> Repair:
        scene.stage.faults.jump(seconds)
        step = scene.folder.progress().get("step", 0)
        scene.until(lambda: scene.folder.progress().get("step", 0) > step + 20 or not scene.ranks(), "steps")
        kill()(scene)
        if not scene.stage.comes_back:
            scene.over()
            resume(scene)
        trains_again(scene)
        return scene.stage.faults.calm

    return do


def trains_again(scene: Scene) -> None:
    """Wait for an attempt after the current one to report."""
    newest = len(scene.folder.ledger.history().attempts)
    # The number of attempts may have grown already.
    scene.until(
        lambda: (
            (last := scene.folder.ledger.history().last) is not None
            and last.attempt >= newest - 1
            and last.cause is None
            and scene.folder.progress().get("attempt") == last.attempt
            and bool(scene.ranks())
        ),
        "training to begin again",
    )


def resume(scene: Scene, **variables: str) -> subprocess.CompletedProcess[str]:
    """`cldctl resume`, whose job meets the faults."""
    return scene.stage.cldctl("resume", scene.run, **{**scene.stage.faults.environment(), **variables})


def two_resumes(scene: Scene) -> None:
    """Two people resume the same run at the same moment; one of them is enough."""
    ended(scene)
    both = [scene.stage.start("resume", scene.run, **scene.stage.faults.environment()) for _ in range(2)]
    answers = [(*process.communicate(timeout=PATIENCE_S), process.returncode) for process in both]
    if not any(code == 0 for _, _, code in answers):
        scene.note(f"two at once, and none resumed: {answers}")
    for _, err, code in answers:
        if code not in (0, 2, 4) or "Traceback" in err:
            scene.note(f"one of two resumes ended with {code}: {err[-1500:]}")


def dying_resume(scene: Scene) -> None:
    """The command that submits is killed at one of its writes; what it leaves can be continued."""
    ended(scene)
    faults = scene.stage.faults
    at = scene.rng.randrange(1, 25)
    faults.forget_writes()
    torn = scene.rng.random() < 0.5
    variables = faults.environment(kill_at=at, torn=torn)
    done = scene.stage.cldctl("resume", scene.run, **variables)
    died = done.returncode == -signal.SIGKILL
    if not died and done.returncode != 0:
        scene.note(f"resume, to be killed at write {at}, ended with {done.returncode}: {done.stderr[-1500:]}")
    # Until it is known that no job follows, the run waits for one.
    scene.until(lambda: scene.look()["state"] != "PENDING" or ranks_of(scene.folder), f"the end after write {at}")


def ended(scene: Scene) -> None:
    """The run has ended and stays so."""
    if scene.stage.comes_back:
        scene.stage.cldctl("cancel", scene.run)
    else:
        kill()(scene)
    scene.over()


def order(what: str) -> Callable[[Scene], None]:
    """The data set of one rank raises an error, kills its process, and so on."""

    def do(scene: Scene) -> None:
        write_text(scene.orders / f"rank{scene.rng.randrange(2)}", what)

    return do


LOCAL = (
    Event("kill rank 0", DEAD, kill(0)),
    Event("kill rank 1", DEAD, kill(1)),
    Event("kill all ranks", DEAD, kill()),
    Event("SIGSTOP of a rank", (None,), stop(1)),
    Event("SIGSTOP of all ranks", (None,), stop()),
    Event("full disk", HURT, burst(GROWING, errno.ENOSPC), saves=False, strict=True),
    Event("read-only disk", HURT, burst(WRITING, errno.EROFS), saves=False, strict=True),
    Event("one ESTALE of a listing", HURT, burst(("list",), errno.ESTALE, times=1), strict=True),
    Event("ESTALE, all calls", HURT, burst(CLASSES, errno.ESTALE), saves=False, strict=True),
    Event("ESTALE, some calls", HURT, burst(CLASSES, errno.ESTALE, rate=0.1), saves=False, strict=True),
    Event("EIO, some calls", HURT, burst(CLASSES, errno.EIO, rate=0.1), saves=False, strict=True),
    Event("quota, some calls", HURT, burst(GROWING, errno.EDQUOT, rate=0.3), saves=False, strict=True),
    Event("EINTR, many calls", (None,), burst(("read", "write", "open_read"), errno.EINTR, rate=0.5)),
    Event("listings as on NFS", DEAD, listings, saves=False),
    Event("clock +1 h", DEAD, clock(3600)),
    Event("clock -1 h", DEAD, clock(-3600)),
    Event("a rank raises", ("crashed",), order("raise")),
    Event("two resumes at once", (*DEAD, "cancelled"), two_resumes, ends=True),
    Event("resume dies at a write", (*DEAD, "cancelled"), dying_resume, ends=True),
)


def draw(rng: random.Random, kinds: Sequence[Event], number: int) -> list[Event]:
    """Events in random order; every kind comes once before any comes again."""
    drawn: list[Event] = []
    while len(drawn) < number:
        drawn += rng.sample(list(kinds), len(kinds))
    return drawn[:number]


def named(kinds: Sequence[Event], names: Sequence[str]) -> list[Event]:
    """The events of these names, in this order."""
    by_name = {event.name: event for event in kinds}
    return [by_name[name] for name in names]
