"""Asking Slurm about jobs, seldom: all commands of a user on a machine share its answers, and ask less if it is slow.

One question is a squeue for this user's jobs, another for those jobs that are not among them (a colleague's in a shared
run), and a sacct for those that squeue has forgotten. What is forgotten is asked about once.
"""

import os
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cldctl.clusters.records import Seen

from . import client, polling
from .known import FORGOTTEN_S, NOT_YET, Known
from .shared import Answers, answers

# Seconds between two questions of all commands of a user on a machine, if $CLDCTL_ASK_EVERY_S does not say.
EVERY_S = 30.0
# An answer that takes longer, in seconds, is a sign that Slurm has enough to do.
SLOW_S = 2.0
# By how many questions in a row were answered slowly or not at all: how many times as long the next one waits.
_BACK_OFF = (1, 2, 4, 10)
AWAY = "slurmctld does not answer: states are the last that the runs wrote"
_QUEUE = ("squeue", "--all", "--noheader", "--array", "--states=all", "--format=%i|%T|%N|%r")
# Jobs that are named to a client at once.
_CHUNK = 500
# Some versions of squeue refuse a list with one unknown job. To find those, it is called so often in one question.
_MOST_PARTS = 12
# Seconds after which accounting, which did not say how a job ended, is asked again.
_ACCOUNTING_AGAIN_S = 600.0
_INVALID = re.compile(r"invalid job id", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+")
# Seconds that a first or a fresh question waits for another process's.
_PATIENCE_S = 2 * client.TIMEOUT_S


@dataclass(frozen=True)
class Poll:
    """Answers about jobs, by job id.

    Attributes:
        as_of: when Slurm gave them, seconds since 1970; None if it was asked just now.
        problem: why there is no answer.
        remark: why the answer is older than people may expect.
    """

    jobs: Mapping[str, Seen]
    as_of: float | None = None
    problem: str | None = None
    remark: str | None = None


def poll(job_ids: Collection[str], settled: Collection[str], max_age_s: float) -> Poll:
    """What Slurm says about jobs: at most one question in `EVERY_S` for all who are content with an older answer.

    Args:
        settled: jobs about which everything is known except whether Slurm still has them; accounting is not asked
            about those.
        max_age_s: 0 for an answer of this moment, for those who decide something by it.
    """
    if not job_ids:
        return Poll({})
    shared, began, is_settled = answers(), time.time(), frozenset(settled)
    unsettled = [job for job in job_ids if job not in is_settled]
    if max_age_s > 0:
        known = shared.load()
        if not _is_due(known, began):
            return _remembered(shared, known, job_ids, is_settled, unsettled, began)
    with shared.asking(0.0 if max_age_s > 0 and shared.load().as_of else _PATIENCE_S) as is_mine:
        known = shared.load()
        if max_age_s > 0 and not (is_mine and _is_due(known, began)):
            return _remembered(shared, known, job_ids, is_settled, unsettled, began)
        # Several who decide at the same moment ask once.
        if known.asked_at <= began or known.lacks(unsettled, began):
            known = _asked(known.wanting(unsettled, began), frozenset(unsettled))
            if is_mine:
                shared.save(known)
    return Poll(_of(known, job_ids, is_settled), None, known.problem)


def _every_s(known: Known) -> float:
    """Seconds from the last question to the next."""
    try:
        usual = max(0.0, float(os.environ.get("CLDCTL_ASK_EVERY_S", "")))
    except ValueError:
        usual = EVERY_S
    return usual * _BACK_OFF[min(known.strikes, len(_BACK_OFF) - 1)]


def _is_due(known: Known, now: float) -> bool:
    return not 0.0 <= now - known.asked_at < _every_s(known)


def _remembered(
    shared: Answers,
    known: Known,
    job_ids: Collection[str],
    settled: Collection[str],
    unsettled: Collection[str],
    now: float,
) -> Poll:
    """An answer that was there; others will ask about these jobs, too."""
    if known.lacks(unsettled, now):
        with shared.asking(0.0) as is_mine:
            if is_mine:
                known = shared.load().wanting(unsettled, now)
                shared.save(known)
    remark = None
    if known.problem is None and known.strikes:
        remark = f"Slurm answers slowly ({known.took_s:.0f} s), and is asked every {_every_s(known):.0f} s"
        remark += f": what it says about jobs is {max(0.0, now - known.as_of):.0f} s old"
    return Poll(_of(known, job_ids, settled), known.as_of, known.problem, remark)


def _of(known: Known, job_ids: Collection[str], settled: Collection[str]) -> dict[str, Seen]:
    found = known.of(job_ids, settled)
    if known.problem is None:
        found = {job: found.get(job, Seen("unknown", reason=NOT_YET)) for job in job_ids}
    return found


def _asked(known: Known, wanted: frozenset[str]) -> Known:
    """What is known after another question: about this user's jobs, and about those that somebody wants."""
    now, began = time.time(), time.monotonic()
    mine = client.output_of([*_QUEUE, "--me"])
    queue = polling.parse_squeue(mine or "")
    is_whole = mine is not None and not polling.is_torn(mine)
    forgotten = {job: entry for job, entry in known.forgotten.items() if job not in queue and _is_kept(entry[0], now)}
    missing = [job for job in {*known.wanted, *wanted} if job not in queue and job not in forgotten]
    # Where not all can be asked about: first, from the end, what is asked now, and of that the newest.
    missing.sort(key=lambda job: (job in wanted, *map(int, _NUMBER.findall(job))))
    named = _named(missing) if is_whole else _Named({}, frozenset(missing), is_away=True)
    queue |= named.queue
    lost = [job for job in missing if job not in queue]
    ends = _ends(lost)
    doubted = {job: ends[job] for job in lost if job in named.unanswered and job in ends}
    queue |= {job: seen for job, seen in doubted.items() if seen.word not in polling.STARTS_AGAIN}
    # Without accounting, a job that is not in the queue has ended. It may say more later, but where there are more
    # unknown jobs than can be asked about, once has to do.
    again = now if named.unanswered else now - FORGOTTEN_S + _ACCOUNTING_AGAIN_S
    certain = [job for job in lost if job not in named.unanswered]
    forgotten |= {job: (now, ends[job]) if job in ends else (again, Seen("gone")) for job in certain}
    if mine is None:
        # What was alive may be so no longer.
        queue = {job: seen for job, seen in known.queue.items() if seen.is_gone} | queue
    problem = AWAY if mine is None or (is_whole and named.is_away) else None
    took_s = time.monotonic() - began
    is_strike = problem is not None or took_s > SLOW_S
    return replace(
        known,
        asked_at=now,
        as_of=now if mine is not None else known.as_of,
        took_s=took_s,
        strikes=min(known.strikes + 1, len(_BACK_OFF) - 1) if is_strike else 0,
        problem=problem,
        queue=queue,
        forgotten=forgotten,
    )


def _is_kept(since: float, now: float) -> bool:
    return now - FORGOTTEN_S < since <= now


@dataclass(frozen=True)
class _Named:
    """Answers about jobs that were named to squeue; the others are not in the queue, or ``unanswered``."""

    queue: dict[str, Seen]
    unanswered: frozenset[str] = frozenset()
    is_away: bool = False


class _UnknownJob(Exception):
    """squeue does not know one of several jobs, and says nothing about the others."""


def _named(job_ids: Sequence[str]) -> _Named:
    """Answers of squeue, the last jobs first. A list that it refuses is halved until the unknown job is alone."""
    queue: dict[str, Seen] = {}
    unanswered: set[str] = set()
    parts, is_away = list(_chunks(job_ids, _CHUNK)), False
    left = len(parts) + _MOST_PARTS
    while parts:
        jobs = parts.pop()
        if is_away or left == 0:
            unanswered |= {*jobs}
            continue
        left -= 1
        try:
            text = _queue_of(jobs)
        except _UnknownJob:
            half = len(jobs) // 2
            parts += [jobs[:half], jobs[half:]]
            continue
        if text is None:
            # Who does not answer is not asked again at once.
            is_away = True
            unanswered |= {*jobs}
        else:
            queue |= polling.parse_squeue(text)
    return _Named(queue, frozenset(unanswered - queue.keys()), is_away)


def _queue_of(jobs: Sequence[str]) -> str | None:
    """Lines of squeue about jobs; None without an answer.

    Raises:
        _UnknownJob: some versions refuse a list with one.
    """
    answer = client.run([*_QUEUE, f"--jobs={','.join(jobs)}"])
    if answer.code == 0:
        return None if polling.is_torn(answer.text) else answer.text
    if not _INVALID.search(answer.text):
        return None
    if len(jobs) > 1:
        raise _UnknownJob
    return ""


def _ends(jobs: Iterable[str]) -> dict[str, Seen]:
    """How jobs ended that squeue does not show, as far as accounting knows."""
    ends = {}
    for some in _chunks(sorted({job.partition("_")[0] for job in jobs}), _CHUNK):
        for job, states in polling.parse_sacct(client.sacct("JobID,State,NodeList", some) or "").items():
            ends[job] = polling.seen_of(states[-1])
    return ends


def _chunks(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))
