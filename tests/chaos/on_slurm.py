"""What only a Slurm can do to a run: mishaps of jobs and nodes, and daemons that are down, stopped or slow."""

import os
import signal
import time

import psutil

from .events import DEAD, LOCAL, OVER, PATIENCE_S, Event, kill, order
from .stage import KILL_WAIT_S

# Seconds for which a daemon is away, shorter than a job tries to requeue.
AWAY_S = 10.0


def preempt(*, user_signal, grace_time):
    def do(campaign):
        campaign.stage.lab.slurm.configure(user_signal=user_signal, grace_time=grace_time, kill_wait=KILL_WAIT_S)
        campaign.stage.lab.slurm.preempt_all(1)

    return do


def lose_a_node(campaign):
    slurm = campaign.stage.lab.slurm
    hosts = slurm.run(["scontrol", "show", "hostnames", slurm.job_info(campaign.job)["NodeList"]]).stdout.split()
    node = campaign.rng.choice(hosts)
    slurm.kill_node(node)
    return lambda: slurm.restore_node(node)


def expire(campaign):
    campaign.stage.lab.slurm.expire(campaign.job, 40)
    # This changes the limit of the job itself, which it keeps when it starts again.
    return lambda: campaign.stage.lab.slurm.run(["scontrol", "update", f"jobid={campaign.job}", "TimeLimit=30"])


def restart_the_controller(campaign):
    campaign.stage.lab.slurm.kill_controller()
    time.sleep(campaign.rng.uniform(0, 5))
    campaign.stage.lab.slurm.start_controller()


def scancel(campaign):
    campaign.stage.lab.slurm.run(["scancel", campaign.job])
    campaign.ended()
    campaign.stage.lab.slurm.wait_end(campaign.job, PATIENCE_S)


def requeue(campaign):
    campaign.stage.lab.slurm.run(["scontrol", "requeue", campaign.job])


def away(then):
    """slurmctld is down while ``then`` happens, and comes back a while later."""

    def do(campaign):
        campaign.stage.lab.slurm.kill_controller()
        try:
            then(campaign)
            time.sleep(AWAY_S)
            if (row := campaign.look())["state"] in OVER and campaign.ranks():
                campaign.note(f"status calls a living run {row['state']}: {row['reason']}")
        finally:
            campaign.stage.lab.slurm.start_controller()

    return do


def stopped(name, then, seconds=AWAY_S):
    """A daemon takes connections and does not answer while ``then`` happens."""

    def do(campaign):
        processes = campaign.stage.lab.slurm.processes
        processes.send(name, signal.SIGSTOP)
        try:
            then(campaign)
            time.sleep(seconds)
        finally:
            processes.send(name, signal.SIGCONT)

    return do


def notice(campaign):
    """What Slurm sends before it preempts, without slurmctld."""
    campaign.signal(signal.SIGUSR2)


def batch_script(campaign):
    """The shell around the ranks is killed, and with it whoever could requeue the job."""
    for process in psutil.process_iter():
        try:
            is_script = any(word.endswith("/slurm_script") for word in process.cmdline())
            # Another cluster of this machine has a job of the same number.
            if is_script and process.environ().get("CHAOS_PREFIX") == str(campaign.stage.runs):
                os.kill(process.pid, signal.SIGKILL)
        except (psutil.Error, OSError):
            continue
    campaign.ended()


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
