"""The events of a campaign, and the ends that each may lead to; the last ones need a Slurm."""

import contextlib
import errno
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from cld_core.files import write_text
from cld_core.run.state import OVER
from tests.slurm.config import NODES
from tests.support.tools import is_gone

from .shim import CLASSES, GROWING, WRITING
from .stage import KILL_WAIT_S, RANKS

NAME = "chaos"
# Seconds for which a disk or a process is out of order: many steps, several reports and some
# checkpoints.
SPELL_S = 4.0
# Seconds within which something has to happen, on a busy machine.
PATIENCE_S = 240.0
# If the whole run stops at once, the cause is lost.
DEAD = ("killed", "crashed")
# Nothing but a checkpoint that cannot be written for long may end an attempt.
HURT = (None, "save_failed")


@dataclass(frozen=True)
class Event:
    """One kind of event.

    Attributes:
        causes: those that the ledger may give for the attempt; None if the attempt may survive.
        do: makes it happen; returns what repairs the place once the run trains again, if anything.
        announced: whether the ranks are told, so that no step may be lost.
        saves: whether checkpoints can be written all the time.
        ends: whether the run ends, so that it has to be resumed by hand on any cluster.
        strict: whether an end without an explanation breaks a promise, and the lease has to be
            seen to live on.
    """

    name: str
    causes: Sequence[str | None]
    do: Callable
    announced: bool = False
    saves: bool = True
    ends: bool = False
    strict: bool = False


def kill(*ranks):
    def do(campaign):
        hit = campaign.signal(signal.SIGKILL, *ranks)
        campaign.until(lambda: all(map(is_gone, hit)), "the end of killed ranks")

    return do


def stop(*ranks):
    """SIGSTOP for a while, and SIGCONT; `status` is asked meanwhile."""

    def do(campaign):
        hit = campaign.signal(signal.SIGSTOP, *ranks)
        try:
            row = campaign.look()
            if row["state"] != "RUNNING":
                campaign.note(f"status calls a stopped run {row['state']}: {row['reason']}")
        finally:
            for process in hit:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)

    return do


def burst(calls, error, *, rate=1.0, times=-1):
    """Calls on the run's folder fail: for a while, or until so many have."""

    def do(campaign):
        faults = campaign.faults
        before = faults.failed
        faults.fail(calls, error, rate, times)
        try:
            # For a spell, or until it is enough or no process is left to meet the fault.
            end = time.monotonic() + SPELL_S
            while (
                time.monotonic() < end
                and not 0 <= times <= faults.failed - before
                and campaign.ranks()
            ):
                time.sleep(0.1)
            if faults.failed == before:
                # Nothing was called: it has to be met once.
                campaign.until(
                    lambda: faults.failed > before or not campaign.ranks(), "a call that fails"
                )
        finally:
            faults.calm()

    return do


def restarted(campaign):
    """The ranks are killed, and an attempt after the current one begins to report."""
    newest = len(campaign.folder.ledger.history().attempts)
    kill()(campaign)
    if not campaign.stage.comes_back:
        campaign.ended()
        resume(campaign)
    begun(campaign, newest)


def begun(campaign, newest):
    """Wait until an attempt of this number, or a later one, reports."""

    def reports():
        last = campaign.folder.ledger.history().last
        if last is None or last.attempt < newest or last.cause is not None:
            return False
        return campaign.folder.progress().get("attempt") == last.attempt and bool(campaign.ranks())

    campaign.until(reports, "training to begin again")


def listings(campaign):
    """The run starts again while listings are slow, shuffled and stale, as on NFS."""
    campaign.faults.list_badly(stale_s=1.0)
    campaign.faults.be_slow(0.2, rate=0.02)
    try:
        restarted(campaign)
    finally:
        campaign.faults.calm()


def clock(seconds):
    """The clock jumps under a running attempt, and stays there over a restart."""

    def do(campaign):
        campaign.faults.jump(seconds)
        step = campaign.folder.progress().get("step", 0)
        campaign.until(
            lambda: campaign.folder.progress().get("step", 0) > step + 20 or not campaign.ranks(),
            "steps",
        )
        restarted(campaign)
        return campaign.faults.calm

    return do


def resume(campaign, *overrides):
    """`cldctl resume`, whose job meets the faults."""
    campaign.stage.cldctl("resume", NAME, *overrides, **campaign.faults.environment())


def two_resumes(campaign):
    """Two people resume the same run at the same moment; one of them is enough."""
    ended(campaign)
    both = [campaign.stage.start("resume", NAME, **campaign.faults.environment()) for _ in range(2)]
    answers = [(*process.communicate(timeout=PATIENCE_S), process.returncode) for process in both]
    if not any(code == 0 for _, _, code in answers):
        campaign.note(f"two at once, and none resumed: {answers}")
    for _, err, code in answers:
        if code not in (0, 2, 4) or "Traceback" in err:
            campaign.note(f"one of two resumes ended with {code}: {err[-1500:]}")


def ended(campaign):
    """The run has ended and stays so."""
    if campaign.stage.comes_back:
        campaign.stage.cldctl("cancel", NAME)
    else:
        kill()(campaign)
    campaign.ended()


def order(what):
    """The data set of one rank raises an error, kills its process, and so on."""

    def do(campaign):
        write_text(campaign.stage.orders / f"rank{campaign.rng.randrange(2)}", what)

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
    Event(
        "ESTALE, some calls", HURT, burst(CLASSES, errno.ESTALE, rate=0.1), saves=False, strict=True
    ),
    Event("EIO, some calls", HURT, burst(CLASSES, errno.EIO, rate=0.1), saves=False, strict=True),
    Event(
        "quota, some calls", HURT, burst(GROWING, errno.EDQUOT, rate=0.3), saves=False, strict=True
    ),
    Event(
        "EINTR, many calls", (None,), burst(("read", "write", "open_read"), errno.EINTR, rate=0.5)
    ),
    Event("listings as on NFS", DEAD, listings, saves=False),
    Event("clock +1 h", DEAD, clock(3600)),
    Event("clock -1 h", DEAD, clock(-3600)),
    Event("a rank raises", ("crashed",), order("raise")),
    Event("two resumes at once", (*DEAD, "cancelled"), two_resumes, ends=True),
)


def draw(rng, kinds, number):
    """Events in random order; every kind comes once before any comes again."""
    drawn = []
    while len(drawn) < number:
        drawn += rng.sample(list(kinds), len(kinds))
    return drawn[:number]


def named(kinds, names):
    """The events of these names, in this order."""
    by_name = {event.name: event for event in kinds}
    return [by_name[name] for name in names]


# Seconds for which a daemon is away, shorter than a job tries to requeue.
AWAY_S = 10.0


def preempt(*, user_signal, grace_time):
    def do(campaign):
        campaign.slurm.configure(
            user_signal=user_signal, grace_time=grace_time, kill_wait=KILL_WAIT_S
        )
        campaign.slurm.preempt_all(1)

    return do


def lose_a_node(campaign):
    slurm = campaign.slurm
    hosts = slurm.run(
        ["scontrol", "show", "hostnames", slurm.job_info(campaign.job)["NodeList"]]
    ).stdout.split()
    node = campaign.rng.choice(hosts)
    slurm.kill_node(node)
    # A job that Slurm itself starts again avoids the same nodes as before: it may need this one,
    # too.
    avoided = campaign.folder.ledger.history().avoided.get(campaign.job, ())
    if len(NODES) - len({*avoided, node}) < RANKS:
        slurm.restore_node(node)
    return lambda: slurm.restore_node(node)


def expire(campaign):
    campaign.slurm.expire(campaign.job, 40)
    # This changes the limit of the job itself, which it keeps when it starts again.
    return lambda: campaign.slurm.run(
        ["scontrol", "update", f"jobid={campaign.job}", "TimeLimit=30"]
    )


def restart_the_controller(campaign):
    campaign.slurm.kill_controller()
    time.sleep(campaign.rng.uniform(0, 5))
    campaign.slurm.start_controller()


def scancel(campaign):
    campaign.slurm.run(["scancel", campaign.job])
    campaign.ended()
    campaign.slurm.wait_end(campaign.job, PATIENCE_S)


def requeue(campaign):
    campaign.slurm.run(["scontrol", "requeue", campaign.job])


def away(then):
    """slurmctld is down while ``then`` happens, and comes back a while later."""

    def do(campaign):
        campaign.slurm.kill_controller()
        try:
            then(campaign)
            time.sleep(AWAY_S)
            if (row := campaign.look())["state"] in OVER and campaign.ranks():
                campaign.note(f"status calls a living run {row['state']}: {row['reason']}")
        finally:
            campaign.slurm.start_controller()

    return do


def notice(campaign):
    """What Slurm sends before it preempts, without slurmctld."""
    campaign.signal(signal.SIGUSR2)


def kill_batch_script(campaign):
    """The shell around the ranks, and with it all that could requeue the job."""
    campaign.slurm.run(["scancel", "--batch", "--signal=KILL", campaign.job])


def batch_script(campaign):
    kill_batch_script(campaign)
    campaign.ended()


def resumed(campaign, *overrides):
    """The run is cancelled, and resumed with other settings."""
    ended(campaign)
    newest = len(campaign.folder.ledger.history().attempts)
    resume(campaign, *overrides)
    begun(campaign, newest)


def succeeded(campaign):
    """The job that waits for such an end goes on, although Slurm cannot be asked to requeue."""
    resumed(campaign, "cluster.successor=true")
    newest = len(campaign.folder.ledger.history().attempts)
    kill_batch_script(campaign)
    begun(campaign, newest)
    return lambda: resumed(campaign, "cluster.successor=false")


SLURM = (
    Event(
        "preempted, user signal",
        ("preempted",),
        preempt(user_signal=True, grace_time=15),
        announced=True,
    ),
    Event(
        "preempted, SIGTERM only",
        ("preempted",),
        preempt(user_signal=False, grace_time=15),
        announced=True,
    ),
    # Partition `low` with the one setting in which `low0` differs: a running job cannot change
    # partitions.
    Event(
        "preempted, no grace",
        ("preempted",),
        preempt(user_signal=False, grace_time=0),
        announced=True,
    ),
    # The ranks on other nodes, and the batch script there, may notice before Slurm does.
    Event("node failure", ("node_failure", "crashed"), lose_a_node),
    Event("a rank is killed", ("crashed",), order("die")),
    Event("requeued by an admin", ("requeued",), requeue, announced=True),
    Event("time limit", ("timeout",), expire, announced=True),
    Event("slurmctld restarts", (None,), restart_the_controller, announced=True),
    Event("scancel", ("cancelled",), scancel, announced=True, ends=True),
    *LOCAL,
    Event("batch script killed", ("killed",), batch_script, announced=True, ends=True),
    Event("batch script killed, successor", ("cancelled", "killed"), succeeded, announced=True),
    # What the notice meant cannot be found out.
    Event("slurmctld down at a notice", ("terminated", "timeout"), away(notice), announced=True),
    Event("slurmctld down at a crash", DEAD, away(order("raise"))),
    Event("slurmctld down at a kill", DEAD, away(kill(1))),
)
