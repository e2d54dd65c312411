"""Watching a run from outside, independently of its ledger: how far it got, and what was saved when."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import psutil

from cld_core.checkpoint.files import verify
from cld_core.errors import CldError
from cld_core.run import RunFolder
from cld_core.run.lease import newest
from cldctl.clusters.entry import MODULE
from tests.slurm.polling import wait_until

from .record import Begun, Record

# How each process of a job knows its number.
_RANK = ("SLURM_PROCID", "SUBMITIT_LOCAL_GLOBALID")


class Watch:
    """Notes in ``record`` what happens to a run, until `stop`."""

    def __init__(self, run: RunFolder, record: Record) -> None:
        self._run, self._record = run, record
        self.reached: dict[int, int] = {}
        self.saved = 0
        self._begun: set[int] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            # In this order: what was saved at the last look was there before an attempt that is new now.
            saved_before = self.saved
            self.saved = max([self.saved, *self._run.checkpoint_steps()])
            for attempt in self._run.ledger.history().attempts:
                if attempt.attempt not in self._begun:
                    self._begun.add(attempt.attempt)
                    self._record.begun.append(Begun(attempt.attempt, attempt.first_step, saved_before))
            if progress := self._run.progress():
                attempt_number = int(progress["attempt"])
                self.reached[attempt_number] = max(self.reached.get(attempt_number, 0), int(progress["step"]))
                if self._record.writers[-1:] != [attempt_number]:
                    self._record.writers.append(attempt_number)


def ranks_of(run: RunFolder) -> dict[int, list[psutil.Process]]:
    """The living processes that train a run, by their numbers."""
    found: dict[int, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if MODULE not in command or str(run.logs) not in command or "python" not in process.name():
                continue
            number = next((value for name in _RANK if (value := process.environ().get(name)) is not None), None)
            if number is not None and process.status() != psutil.STATUS_ZOMBIE:
                found.setdefault(int(number), []).append(process)
        except (psutil.Error, OSError):
            continue
    return found


def not_whole(run: RunFolder) -> list[str]:
    """The checkpoints that have a sidecar and are not what it says."""
    problems = []
    for step in run.checkpoint_steps():
        try:
            verify(run, step)
        except CldError as error:
            # Training may have removed it meanwhile.
            if step in run.checkpoint_steps():
                problems.append(str(error))
    return problems


def sign_of_life(run: RunFolder) -> tuple[int, int, int]:
    """What changes whenever the owner of a run renews its lease."""
    number = newest(run.leases)[0]
    stat = os.stat(run.leases / f"{number:08d}.json")
    return number, stat.st_ino, stat.st_mtime_ns


def mentioning(folder: Path) -> list[str]:
    """Processes with ``folder`` in their command line, environment or working directory, except for our own."""
    orphans = []
    for process in processes_of(folder):
        with contextlib.suppress(psutil.Error):
            orphans.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
    return orphans


def processes_of(folder: Path) -> list[psutil.Process]:
    me = psutil.Process()
    spared = {me.pid, *(parent.pid for parent in me.parents())}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            texts = [*process.cmdline(), *process.environ().values(), process.cwd()]
            if process.pid not in spared and any(str(folder) in text for text in texts):
                found.append(process)
    return found


def end_all(folder: Path) -> None:
    """Kill whatever `processes_of` finds, until nothing is left."""
    wait_until(lambda: not _killed(folder), timeout=60, what=f"the end of the processes of {folder}")


def _killed(folder: Path) -> list[psutil.Process]:
    found = processes_of(folder)
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return found
