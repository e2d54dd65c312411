"""Failures of ranks and machines, the nodes that later starts avoid, and recent crashes of a run.

Ranks note their own failures; of those that cannot, the launcher's log tells. A node is avoided
after two failures of a work within a day, or one failed health check: otherwise Slurm keeps giving
a job the node that it crashed on, because that node is idle. The number of avoided nodes is
bounded; they are in the ledger (`Submitted.exclude`, `Wished.exclude`), and are forgotten after a
day.
"""

import contextlib
import re
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from cld_core.errors import (
    LeaseHeldError,
    LeaseLostError,
    NonFiniteError,
    NotFoundError,
    SaveError,
    UnfitError,
    UsageError,
)
from cld_core.run import RunFolder
from cld_core.run.events import CRASHES, Failed, Kind
from cld_core.run.history import Attempt, History
from cld_core.run.ledger import Ledger
from cld_core.run.work import Work
from cld_core.sanitize import one_line
from cldctl.clusters.base import Cluster, InJob, JobSpec

from .process import UNFIT

_MAX_REASON = 500  # characters
# Seconds for which a rank that failed tries to note that, before srun ends all ranks.
_NOTE_WITHIN_S = 5.0
# Errors that all ranks meet at the same moment, or that say nothing about the machine.
_SHARED = (LeaseHeldError, LeaseLostError, NonFiniteError, NotFoundError, SaveError, UsageError)
_HANGING = "Killed"
# The beginning of the reason why a job did not get beyond `cluster.setup`.
SETUP_FAILED = "cluster.setup failed"
# In the line with which an aftermath announces the next start.
AGAIN = "; again in "
# Errors of ranks whose peers are gone: of gloo, NCCL, the store where ranks meet, and our watcher.
_PEER = re.compile(
    r"another rank is gone|connection (?:closed|reset) by peer|broken pipe|rank 0 could not"
    r"|\bgloo\b|NCCL|ProcessGroup|RankError|DistBackendError|DistNetworkError|DistStoreError",
    re.IGNORECASE,
)
# Seconds for which failures count.
DAY_S = 86400.0
# From so many crashes within a day on, `status` reports them.
REPORT_FROM = 3
# Failures after which a node is avoided.
FAILURES = 2
# The most nodes that are avoided at once.
MOST = 8
_NAMES_A_NODE = ("rank", "unfit", "crash")


@contextlib.contextmanager
def noted(run: RunFolder, job: InJob) -> Iterator[None]:
    """Note an error of the block in the ledger, unless this rank fails because of another one."""
    try:
        yield
    except Exception as error:
        if not job.in_process:
            with contextlib.suppress(
                Exception
            ):  # The error of the rank, raised below, matters more.
                failure = _failure_of(job, error)
                if failure is not None:
                    run.ledger.note(failure, within_s=_NOTE_WITHIN_S)
        raise


def _failure_of(job: InJob, error: Exception) -> Failed | None:
    """The event for an error of this rank; None if another rank notes it, or if the error says
    nothing about the machine."""
    rank = job.place().rank
    host = job.node or socket.gethostname()
    if isinstance(error, UnfitError):
        if rank in error.hosts:
            node = error.hosts[rank] or host
            return failed("unfit", job, str(error), rank=rank, host=node, check=error.check)
        # Which machine failed is unknown: rank 0 notes it for all.
        if not error.hosts and rank == 0:
            return failed("unfit", job, str(error), check=error.check)
        return None
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, _SHARED) or is_secondary(reason):
        return None
    return failed("rank", job, reason, rank=rank, host=host)


def unfit_by_log(job: InJob, offset: int, code: int) -> Failed | None:
    """The event for a failed health check that the ranks could not note, from their exit codes."""
    reason = "its ranks could not write down which health check failed; see cldctl logs"
    for task in job.cluster.ended_tasks(_of_this_start(job, offset)):
        if task.code == UNFIT:
            return failed("unfit", job, reason, rank=task.rank, host=task.node, check="folder")
    return failed("unfit", job, reason, check="unknown") if code == UNFIT else None


def killed_rank(job: InJob, offset: int, *, hung: bool, trained: bool) -> Failed | None:
    """The failure of the rank that failed first, by the launcher's log; None if it names none.

    Args:
        offset: byte of the log at which this attempt, or an earlier one, begins.
        hung: whether no step was finished in time: the rank that had to be killed is to blame.
        trained: whether the start trained; if not, the first rank that ended is to blame.
    """
    tasks = job.cluster.ended_tasks(_of_this_start(job, offset))
    by_signal = [task for task in tasks if task.code is None]
    if hung:
        stuck = [task for task in by_signal if task.how.startswith(_HANGING)]
        chosen = stuck if len({task.node for task in stuck}) == 1 else []
    else:
        chosen = by_signal or ([] if trained else list(tasks))
    if not chosen:
        return None
    how = "it hung, and was killed" if hung else chosen[0].how
    return failed("rank", job, how, rank=chosen[0].rank, host=chosen[0].node)


def failed(kind: Kind, job: InJob, reason: str = "", **more: Any) -> Failed:
    """The event of a failure in this start of a job; ``more`` are further fields of it."""
    if kind in ("early", "unfit"):
        more["began"] = job.began
    text = one_line(reason, _MAX_REASON)
    return Failed(kind, job_id=job.ref.job_id, restart=job.restart, reason=text, **more)


def _of_this_start(job: InJob, offset: int) -> str:
    """What the log says since the aftermath of the start before wrote its last line there."""
    return job.log_since(offset).rpartition(AGAIN)[2]


def task_name(work: Work, job: InJob) -> str:
    """The name of a task of a work in messages."""
    return work.name if work.is_world else f"{work.name}, task {job.ref.job_id}"


def is_secondary(text: str) -> bool:
    """Whether an error, with its type, follows from the failure of another rank."""
    return _PEER.search(text) is not None


def noted_first(history: History, attempt: Attempt) -> Failed | None:
    """The failure of the rank that failed first in an attempt; None if no rank noted one.

    Failures that follow from the failure of another rank do not count.
    """
    start = attempt.job_id, attempt.restart
    noted = (
        failure
        for failure in history.failures
        if failure.kind == "rank" and failure.start == start and not is_secondary(failure.reason)
    )
    return min(noted, key=lambda failure: failure.time, default=None)


def with_culprits(history: History) -> History:
    """The history, where attempts that blame another rank have that rank's own reason instead."""
    attempts = []
    for attempt in history.attempts:
        first = noted_first(history, attempt) if is_secondary(attempt.detail or "") else None
        if first is not None:
            reason = f"rank {first.rank} on {first.host}: {first.reason}"
            attempt = replace(attempt, detail=reason)
        attempts.append(attempt)
    return history if attempts == history.attempts else replace(history, attempts=attempts)


def recent_crashes(history: History, now: float) -> tuple[int, str]:
    """The number of crashes since the last request that are at most a day old, and a message, which
    is empty if there are none."""
    attempts = [
        attempt
        for attempt in history.attempts[history.attempts_before :]
        if attempt.cause in CRASHES and (attempt.ended or attempt.started) > now - DAY_S
    ]
    if not attempts:
        return 0, ""
    count = len(attempts)
    last = attempts[-1]
    steps = sum(
        max(0, (attempt.last_step or attempt.first_step) - attempt.first_step)
        for attempt in attempts
    )
    span = _duration((last.ended or last.started) - attempts[0].started)
    times = "once" if count == 1 else f"{count} times"
    return count, f"crashed {times} in {span}, {steps / count:.0f} steps on average"


def in_vain(history: History, job_id: str | None) -> str | None:
    """A message if the last start of a job ended before it trained; else None."""
    why = history.not_begun.get(job_id or "") if history.died_early else None
    return None if why is None else f"its last start did not train: {one_line(why, 300)}"


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.0f} h"


def bad(failures: Iterable[Failed], now: float) -> dict[str, str]:
    """Why nodes are to be avoided, by their name; the node that failed last comes last."""
    recent = [
        event for event in failures if event.kind in _NAMES_A_NODE and event.time > now - DAY_S
    ]
    recent.sort(key=lambda event: event.time)
    # Of the ranks that failed in one start, the first: the others may have failed because of it.
    first = {event.start: event for event in reversed(recent) if event.kind == "rank"}
    of_node: dict[str, list[Failed]] = {}
    for event in recent:
        if event.host and (event.kind != "rank" or event is first[event.start]):
            of_node.setdefault(event.host, []).append(event)
    avoided = {}
    for node, events in sorted(of_node.items(), key=lambda pair: pair[1][-1].time):
        unfit = [event.check for event in events if event.kind == "unfit"]
        crashes = len(events) - len(unfit)
        if unfit or crashes >= FAILURES:
            avoided[node] = f"unfit ({unfit[-1]})" if unfit else f"{crashes} crashes"
    return avoided


def for_next_start(
    history: History, job: InJob, needed: int, also: Iterable[Failed] = ()
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The nodes that a job avoids once it is requeued.

    Args:
        needed: the number of nodes that the job runs on.
        also: failures of another ledger.

    Returns:
        Why the job avoids nodes, by their name; and the nodes that it avoided and no longer does.
    """
    before = history.avoided.get(job.ref.job_id, ())
    reasons = bad([*history.failures, *also], time.time())
    if not reasons and not before:
        return {}, ()
    nodes = job.nodes()
    if nodes is None:
        return {node: reasons.get(node, "avoided before") for node in before}, ()
    # Nodes that a person has excluded, without a limit of time.
    others = set(nodes.excluded) - set(before)
    why = _newest(reasons, others, nodes.usable, needed)
    return why, tuple(node for node in before if node not in why)


def failures_in(*ledgers: Ledger) -> list[Failed]:
    """The failures in ledgers. One that cannot be read is skipped, so that jobs still start."""
    failures: list[Failed] = []
    for ledger in ledgers:
        with contextlib.suppress(OSError):
            failures += ledger.full_history(within_s=0.0).failures
    return failures


def for_submission(failures: Iterable[Failed], cluster: Cluster, spec: JobSpec) -> JobSpec:
    """The job, changed so that it avoids nodes with `FAILURES` failures or an unfit machine."""
    reasons = bad(failures, time.time()) if cluster.restarts else {}
    nodes = cluster.nodes_for(spec.size) if reasons else None
    if nodes is None:
        return spec
    avoided = _newest(reasons, nodes.excluded, nodes.usable, spec.size.nodes)
    return replace(spec, exclude=(*spec.exclude, *avoided))


def _newest(
    reasons: Mapping[str, str], others: Collection[str], usable: Collection[str], needed: int
) -> dict[str, str]:
    """The nodes of ``reasons`` that failed last, without ``others``: at most half of the usable
    nodes, and so few that enough are left for the job.

    Args:
        reasons: why each node is to be avoided; the node that failed last comes last.
        others: nodes that are excluded anyway.
        needed: the number of nodes that the job runs on.
    """
    count = len(set(usable) - set(others))
    most = max(0, min(MOST, count // 2, count - needed))
    avoidable = [(node, why) for node, why in reasons.items() if node not in others]
    return dict(avoidable[max(0, len(avoidable) - most) :])
