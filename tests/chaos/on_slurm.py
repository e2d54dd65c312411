"""What only a Slurm can do to a run: mishaps of jobs and nodes, and daemons that are down, stopped or slow."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import psutil

from tests.slurm import mishaps
from tests.slurm.mishaps import MISHAPS, Mishap

from .events import COMMON, DEAD, OVER, PATIENCE_S, Event, Repair, Scene, kill, order

# Seconds for which a daemon is away, shorter than a job tries to requeue.
AWAY_S = 10.0


def of(mishap: Mishap) -> Event:
    """A mishap as an event."""

    def do(scene: Scene) -> Repair | None:
        return mishap.do(mishaps.Scene(scene.lab, scene.run, scene.job, scene.orders, scene.rng))

    # The ranks on other nodes, and the batch script there, may notice before Slurm does.
    causes = (mishap.cause, "crashed") if mishap.cause == "node_failure" else (mishap.cause,)
    return Event(mishap.name, causes, do, announced=mishap.announced)


def scancel(scene: Scene) -> None:
    scene.lab.slurm.run(["scancel", scene.job])
    scene.over()
    scene.lab.slurm.wait_end(scene.job, PATIENCE_S)


def requeue(scene: Scene) -> None:
    scene.lab.slurm.run(["scontrol", "requeue", scene.job])


def away(then: Callable[[Scene], None]) -> Callable[[Scene], None]:
    """slurmctld is down while ``then`` happens, and comes back a while later."""

    def do(scene: Scene) -> None:
        scene.lab.slurm.kill_controller()
        try:
            then(scene)
            time.sleep(AWAY_S)
            if (row := scene.look())["state"] in OVER and scene.ranks():
                scene.note(f"status calls a living run {row['state']}: {row['reason']}")
        finally:
            scene.lab.slurm.start_controller()

    return do


def stopped(name: str, then: Callable[[Scene], None], seconds: float = AWAY_S) -> Callable[[Scene], None]:
    """A daemon takes connections and does not answer while ``then`` happens."""

    def do(scene: Scene) -> None:
        processes = scene.lab.slurm.processes
        processes.send(name, signal.SIGSTOP)
        try:
            then(scene)
            time.sleep(seconds)
        finally:
            processes.send(name, signal.SIGCONT)

    return do


def notice(scene: Scene) -> None:
    """What Slurm sends before it preempts, without slurmctld."""
    scene.signal(signal.SIGUSR2)


def slow(scene: Scene) -> None:
    """slurmctld is stopped most of the time while the job requeues itself."""
    processes = scene.lab.slurm.processes
    notice(scene)
    for _ in range(6):
        processes.send("slurmctld", signal.SIGSTOP)
        time.sleep(1.5)
        processes.send("slurmctld", signal.SIGCONT)
        time.sleep(0.3)


def no_accounting(then: Callable[[Scene], None]) -> Callable[[Scene], Repair]:
    def do(scene: Scene) -> Repair:
        scene.lab.slurm.stop_accounting()
        then(scene)
        scene.look()
        return scene.lab.slurm.start_accounting  # type: ignore[no-any-return]

    return do


def batch_script(scene: Scene) -> None:
    """The shell around the ranks is killed, and with it whoever could requeue the job."""
    for process in psutil.process_iter():
        try:
            is_script = any(word.endswith("/slurm_script") for word in process.cmdline())
            # Another cluster of this machine has a job of the same number.
            if is_script and process.environ().get("CHAOS_PREFIX") == str(scene.stage.runs):
                os.kill(process.pid, signal.SIGKILL)
        except (psutil.Error, OSError):
            continue
    scene.over()


SLURM = (
    # That one resumes the run where it would meet no more faults.
    *(of(mishap) for mishap in MISHAPS if mishap.name != "scancel, resume"),
    Event("scancel", ("cancelled",), scancel, announced=True, ends=True),
    *COMMON,
    Event("kill the batch script", (*DEAD, "cancelled"), batch_script, ends=True),
    Event("slurmctld down at a notice", ("preempted", "timeout"), away(notice), announced=True),
    Event("slurmctld down at a crash", DEAD, away(order("raise"))),
    Event("slurmctld down at a kill", DEAD, away(kill(1))),
    Event("slurmctld stopped at a notice", ("preempted", "timeout"), stopped("slurmctld", notice, 40), announced=True),
    Event("slurmctld slow at a notice", ("preempted", "timeout"), slow, announced=True),
    Event("slurmdbd down at a crash", ("crashed",), no_accounting(order("raise"))),
    Event("slurmdbd down at a requeue", ("requeued",), no_accounting(requeue), announced=True),
)
