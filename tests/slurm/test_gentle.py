"""How often a real Slurm is asked by those who watch, and what they see meanwhile."""

import contextlib
import shutil
import subprocess
import sys

import psutil
import pytest

from tests.support.tools import program, wait_for

from .cluster import SEARCH_PATH
from .lab import ENDLESS
from .processes import end

# Nobody asks twice within a test, however busy the machine: what is seen later, the run folder says.
ONCE = "36000"


class Watchers:
    """Commands that stay, each with what it has printed so far; each call of squeue is a line in the file ``calls``."""

    def __init__(self, lab, folder):
        self.calls = folder / "calls"
        real = shutil.which("squeue", path=SEARCH_PATH)
        text = f'#!/bin/sh\necho squeue >> {self.calls}\nexec {real} "$@"\n'
        path = f"{program(folder / 'bin' / 'squeue', text).parent}:{SEARCH_PATH}"
        more = {"PATH": path, "CLDCTL_ASK_EVERY_S": ONCE, "COLUMNS": "200"}
        self._env, self._folder = lab.slurm.env | lab.environment | more, folder
        self.processes = []

    def start(self, *arguments, terminal=False):
        """Start a command; returns the file of its output. With ``terminal`` it believes to be on one."""
        file = self._folder / f"watcher{len(self.processes)}.txt"
        command = [sys.executable, "-m", "cldctl", *arguments]
        if terminal:
            command = [sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])", *command]
        with file.open("wb") as out:
            pipes = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out}
            self.processes.append(subprocess.Popen(command, env=self._env, start_new_session=True, **pipes))
        return file


@pytest.fixture
def watchers(lab, tmp_path):
    watchers = Watchers(lab, tmp_path)
    yield watchers
    for process in watchers.processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            # What is on a terminal has a session of its own, and outlives it if the tests ignore SIGHUP.
            end([psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)])


def until(file, text, timeout=60):
    wait_for(
        lambda: text in file.read_text(errors="replace"), timeout=timeout, what=f"'{text}' to be shown",
        last_seen=lambda: file.read_text(errors="replace")[-2000:],
    )  # fmt: skip


def test_everything_is_seen_with_one_question(lab, watchers):
    lab.slurm.configure(user_signal=True)
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
    assert "rank 0 of 1" in log.read_text()
    assert watchers.calls.read_text().split() == ["squeue"]
