"""What happens to a run on a cluster: each mishap by name, the cause that the ledger should give, how it is done."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .lab import Lab, give

# From SIGTERM to SIGKILL: a busy machine needs longer for a save than the 5 s of the other tests.
KILL_WAIT_S = 15


@dataclass(frozen=True)
class Scene:
    """Where a mishap happens: the run and its current job."""

    lab: Lab
    run: str
    job: str
    orders: Path
    rng: random.Random

    def settings(self, *, user_signal: bool = False, grace_time: int = 15) -> None:
        self.lab.slurm.configure(user_signal=user_signal, grace_time=grace_time, kill_wait=KILL_WAIT_S)

    def nodes(self) -> list[str]:
        """The nodes of the job, its first one first."""
        names = self.lab.slurm.job_info(self.job)["NodeList"]
        return self.lab.slurm.run(["scontrol", "show", "hostnames", names]).stdout.split()


@dataclass(frozen=True)
class Mishap:
    """One kind of event.

    cause: the cause that the ledger has to give; None if the attempt has to survive.
    announced: whether the ranks are told, so that no step may be lost.
    do: makes it happen; returns what repairs the cluster once the run trains again, if anything.
    """

    name: str
    cause: str | None
    do: Callable[[Scene], Callable[[], None] | None]
    announced: bool = True


def _preempt(*, user_signal: bool, grace_time: int) -> Callable[[Scene], None]:
    def do(scene: Scene) -> None:
        scene.settings(user_signal=user_signal, grace_time=grace_time)
        scene.lab.slurm.preempt_all(1)

    return do


def _lose_a_node(scene: Scene) -> Callable[[], None]:
    node = scene.rng.choice(scene.nodes())
    scene.lab.slurm.kill_node(node)
    return lambda: scene.lab.slurm.restore_node(node)


def _crash(what: str) -> Callable[[Scene], None]:
    def do(scene: Scene) -> None:
        give(scene.orders, scene.rng.randrange(2), what)

    return do


def _requeue(scene: Scene) -> None:
    scene.lab.slurm.run(["scontrol", "requeue", scene.job])


def _expire(scene: Scene) -> Callable[[], None]:
    scene.lab.slurm.expire(scene.job, 40)
    # This changes the limit of the job itself, which it keeps when it starts again.
    return lambda: void(scene.lab.slurm.run(["scontrol", "update", f"jobid={scene.job}", "TimeLimit=30"]))


def _restart_the_controller(scene: Scene) -> None:
    scene.lab.slurm.kill_controller()
    time.sleep(scene.rng.uniform(0, 5))
    scene.lab.slurm.start_controller()


def _cancel_and_resume(scene: Scene) -> None:
    scene.lab.slurm.run(["scancel", scene.job])
    scene.lab.ended(scene.run, 180)
    scene.lab.slurm.wait_end(scene.job, 120)
    scene.lab.cldctl("resume", scene.run)


def void(_: object) -> None:
    """Forget a result."""


MISHAPS = (
    Mishap("preempted, user signal", "preempted", _preempt(user_signal=True, grace_time=15)),
    Mishap("preempted, SIGTERM only", "preempted", _preempt(user_signal=False, grace_time=15)),
    # Partition `low` with the one setting in which `low0` differs: a running job cannot change partitions.
    Mishap("preempted, no grace", "preempted", _preempt(user_signal=False, grace_time=0)),
    Mishap("node failure", "node_failure", _lose_a_node, announced=False),
    Mishap("a rank raises", "crashed", _crash("raise"), announced=False),
    Mishap("a rank is killed", "crashed", _crash("die"), announced=False),
    Mishap("requeued by an admin", "requeued", _requeue),
    Mishap("time limit", "timeout", _expire),
    Mishap("slurmctld restarts", None, _restart_the_controller),
    Mishap("scancel, resume", "cancelled", _cancel_and_resume),
)
