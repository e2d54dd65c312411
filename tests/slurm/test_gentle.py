"""How often a real Slurm is asked by those who watch, and what they see meanwhile."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from .counted import Counted
from .lab import ENDLESS, Lab
from .polling import wait_until

# Nobody asks twice within a test, however busy the machine: what is seen later, the run folder says.
ONCE = "36000"


@pytest.fixture
def counted(tmp_path: Path) -> Counted:
    return Counted(tmp_path / "bin")


class Watchers:
    """Commands that stay, each with what it has printed so far."""

    def __init__(self, lab: Lab, folder: Path, counted: Counted) -> None:
        more = {"CLDCTL_RUNS": str(lab.runs), "PATH": counted.path, "CLDCTL_ASK_EVERY_S": ONCE, "COLUMNS": "200"}
        self._env, self._folder = lab.slurm.env | more, folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, terminal: bool = False) -> Path:
        """Start a command; returns the file of its output. With ``terminal`` it believes to be on one."""
        file = self._folder / f"watcher{len(self.processes)}.txt"
        command = [sys.executable, "-m", "cldctl", *arguments]
        if terminal:
            command = [sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])", *command]
        with file.open("wb") as out:
            process = subprocess.Popen(
                command, env=self._env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        self.processes.append(process)
        return file

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                # What is on a terminal has a session of its own, and outlives it if the tests ignore SIGHUP.
                for child in psutil.Process(process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
                process.kill()
            process.wait(10)


@pytest.fixture
def watchers(lab: Lab, tmp_path: Path, counted: Counted) -> Iterator[Watchers]:
    watchers = Watchers(lab, tmp_path, counted)
    yield watchers
    watchers.end()


def until(file: Path, text: str, timeout: float = 60) -> None:
    wait_until(
        lambda: text in file.read_text(errors="replace"), timeout=timeout, what=f"'{text}' to be shown",
        last_seen=lambda: file.read_text(errors="replace")[-2000:],
    )  # fmt: skip


def test_everything_is_seen_with_one_question(lab: Lab, watchers: Watchers, counted: Counted) -> None:
    lab.slurm.configure(user_signal=True, grace_time=10)
    submit = ("submit", "toy", *ENDLESS, "cluster.partition=low", "--name", "mine", "--follow")
    follow = watchers.start(*submit)
    until(follow, "mine RUNNING")
    log = watchers.start("logs", "mine", "-f")
    screens = [watchers.start("status", "--watch", terminal=True) for _ in range(2)]
    for screen in screens:
        until(screen, "RUNNING")
    others = lab.slurm.preempt_all(600)
    until(follow, "mine REQUEUED")
    for screen in screens:
        until(screen, "REQUEUED")
    lab.slurm.run(["scancel", others])
    lab.until("mine", "the run to go on", lambda row: row["state"] == "RUNNING" and len(row["attempts"]) == 2, 240)
    lab.cldctl("cancel", "mine")
    assert watchers.processes[0].wait(60) == 5, follow.read_text()
    until(follow, "CANCELLED at step")
    for screen in screens:
        until(screen, "CANCELLED")
    assert watchers.processes[1].wait(60) == 0, "the log of a job that has ended does not grow"
    assert "rank 0 of 2" in log.read_text()
    # The job has asked, too, by scontrol.
    assert counted.calls()["squeue"] == 1
