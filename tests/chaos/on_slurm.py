"""What only a Slurm can do to a run: mishaps of jobs and nodes, and daemons that are down, stopped or slow."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import psutil

from .events import DEAD, LOCAL, OVER, PATIENCE_S, Event, Repair, Scene, kill, order
from .stage import KILL_WAIT_S

# Seconds for which a daemon is away, shorter than a job tries to requeue.
AWAY_S = 10.0


def preempt(*, user_signal: bool, grace_time: int) -> Callable[[Scene], None]:
    def do(scene: Scene) -> None:
        scene.lab.slurm.configure(user_signal=user_signal, grace_time=grace_time, kill_wait=KILL_WAIT_S)
        scene.lab.slurm.preempt_all(1)

    return do


def lose_a_node(scene: Scene) -> Repair:
    slurm = scene.lab.slurm
    hosts = slurm.run(["scontrol", "show", "hostnames", slurm.job_info(scene.job)["NodeList"]]).stdout.split()
    node = scene.rng.choice(hosts)
    slurm.kill_node(node)
    return lambda: slurm.restore_node(node)


def expire(scene: Scene) -> Repair:
    scene.lab.slurm.expire(scene.job, 40)
    # This changes the limit of the job itself, which it keeps when it starts again.
    return lambda: scene.lab.slurm.run(["scontrol", "update", f"jobid={scene.job}", "TimeLimit=30"])


def restart_the_controller(scene: Scene) -> None:
    scene.lab.slurm.kill_controller()
    time.sleep(scene.rng.uniform(0, 5))
    scene.lab.slurm.start_controller()


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
    Event("preempted, user signal", ("preempted",), preempt(user_signal=True, grace_time=15), announced=True),
    Event("preempted, SIGTERM only", ("preempted",), preempt(user_signal=False, grace_time=15), announced=True),
    # Partition `low` with the one setting in which `low0` differs: a running job cannot change partitions.
    Event("preempted, no grace", ("preempted",), preempt(user_signal=False, grace_time=0), announced=True),
    # The ranks on other nodes, and the batch script there, may notice before Slurm does.
    Event("node failure", ("node_failure", "crashed"), lose_a_node),
    Event("a rank is killed", ("crashed",), order("die")),
    Event("requeued by an admin", ("requeued",), requeue, announced=True),
    Event("time limit", ("timeout",), expire, announced=True),
    Event("slurmctld restarts", (None,), restart_the_controller, announced=True),
    Event("scancel", ("cancelled",), scancel, announced=True, ends=True),
    *LOCAL,
    Event("kill the batch script", (*DEAD, "cancelled"), batch_script, ends=True),
    Event("slurmctld down at a notice", ("preempted", "timeout"), away(notice), announced=True),
    Event("slurmctld down at a crash", DEAD, away(order("raise"))),
    Event("slurmctld down at a kill", DEAD, away(kill(1))),
    Event("slurmctld stopped at a notice", ("preempted", "timeout"), stopped("slurmctld", notice, 40), announced=True),
)
