"""How often a real Slurm is asked by those who watch, and what they see meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cld_core.run import RunFolder
from cld_core.run.events import Requeued, Started

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


def test_follow_waits_for_a_run_that_is_requeued_while_slurmctld_is_away(lab: Lab, watchers: Watchers) -> None:
    run = RunFolder(lab.runs / "mine")
    submit = ("submit", "toy", *ENDLESS, "cluster.partition=low", "--name", "mine", "--follow")
    follow = watchers.start(*submit)
    until(follow, "mine RUNNING")
    lab.training("mine")
    lab.slurm.kill_controller()
    (started,) = [event for event in run.ledger.events() if isinstance(event, Started)]
    assert started.pid is not None
    os.kill(started.pid, signal.SIGUSR2)
    until(follow, "mine REQUEUED")
    assert any(isinstance(event, Requeued) for event in run.ledger.events())
    lab.slurm.start_controller()
    lab.until("mine", "the run to go on", lambda row: row["state"] == "RUNNING" and len(row["attempts"]) == 2, 240)
    lab.cldctl("cancel", "mine")
    assert watchers.processes[0].wait(60) == 5, follow.read_text()


def test_a_slurm_that_answers_slowly_is_asked_less_and_commands_work_from_files(lab: Lab, counted: Counted) -> None:
    run = lab.submit("mine")
    lab.training("mine")
    counted.slow(2.5)
    environment = {"CLDCTL_RUNS": str(lab.runs), "PATH": counted.path, "CLDCTL_ASK_EVERY_S": "600"}
    # Not that of `lab`, whose questions are answered quickly.
    environment["CLDCTL_CACHE"] = str(lab.runs.parent / "caches")

    def status() -> subprocess.CompletedProcess[str]:
        return lab.slurm.run([sys.executable, "-m", "cldctl", "status", "mine"], 60, env=environment)

    assert "RUNNING" in status().stdout
    asked = counted.calls()
    later = status()
    assert "Slurm answers slowly" in later.stderr
    assert "is asked every 1200 s" in later.stderr
    assert "RUNNING" in later.stdout
    lab.cldctl("cancel", "mine")
    assert run.ledger.history().last.cause == "cancelled"  # type: ignore[union-attr]
    assert "CANCELLED" in status().stdout
    assert counted.calls() == asked


def test_a_suspended_run_shows_no_rate(lab: Lab) -> None:
    lab.submit("mine")
    job = lab.training("mine")["job_id"]
    lab.slurm.run(["scontrol", "suspend", job])
    lab.slurm.wait_state(job, "SUSPENDED")
    row = lab.status("mine")
    assert (row["state"], row["steps_per_s"], row["eta_s"]) == ("RUNNING", None, None)
    assert row["reason"].startswith("suspended by Slurm")
    lab.slurm.run(["scontrol", "resume", job])
    lab.until("mine", "the run to go on", lambda row: row["state"] == "RUNNING" and row["eta_s"] is not None)
