"""Asking Slurm about jobs, seldom: all commands of a user on a machine share its answers, and ask
less if it is slow.

One question is a squeue for this user's jobs, another for jobs that are not among them (those of a
run of another user), and a sacct for those that squeue has forgotten. What is forgotten is asked
about once. The answers are kept in a file of this user and this machine.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cld_core.codec import from_plain, to_plain
from cld_core.files import opened, parse_json, write_text
from cld_core.run.events import Cause, JobRef
from cld_core.run.state import Phase
from cldctl import config, locks
from cldctl.clusters.base import HELD, Held, Seen, Survey, Waiting

from . import client

# Seconds between two questions of all commands of a user on a machine, if $CLDCTL_ASK_EVERY_S does
# not say.
EVERY_S = 30.0
# An answer that takes longer, in seconds, is a sign that Slurm has enough to do.
SLOW_S = 2.0
# By how many questions in a row were answered slowly or not at all: how many times as long the next
# one waits.
_BACK_OFF = (1, 2, 4, 10)
AWAY = "slurmctld does not answer: states are the last that the runs wrote"
NOT_HERE = "there is no squeue on this machine: states are the last that the runs wrote"
_ELSEWHERE = (
    "try again on a machine with Slurm (`resume` and `rm` need no answer an hour after a run was "
    "cancelled, finished "
    "or crashed)"
)
_NOT_YET = "Slurm has not said anything about it yet"
_QUEUE = ("squeue", "--all", "--noheader", "--array", "--states=all", "--format=%i|%T|%N|%r")
# Jobs that are named to a client at once.
_CHUNK = 500
# Some versions of squeue refuse a list with one unknown job. To find those, it is called so often
# in one question.
_MOST_PARTS = 12
# Answers about jobs that Slurm has forgotten are kept for this many seconds, and asked for again if
# still wanted; accounting that did not say how a job ended is asked again earlier.
_FORGOTTEN_S, _ACCOUNTING_AGAIN_S = 24 * 3600.0, 600.0
# A job that nobody has looked at for this many seconds is no longer asked about on behalf of
# others.
_WANTED_S = 600.0
# Seconds that a first or a fresh question waits for another process's.
_PATIENCE_S = 2 * client.TIMEOUT_S
# Files of machines and clusters that have not been used for this many seconds are removed.
_UNUSED_S = 7 * 24 * 3600.0
# Of the file of answers: another one has another name.
_FORMAT = 2
_MAX_BYTES = 20_000_000
_INVALID = re.compile(r"invalid job id", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+")
_JOB = re.compile(r"[0-9]+(?:[_+][0-9]+)?")
_ROW = re.compile(rf"({_JOB.pattern})\|([^|]*)\|([^|]*)\|(.*)")

_PHASES: dict[str, Phase] = {
    **dict.fromkeys(
        ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"),
        "pending",
    ),
    **dict.fromkeys(("RUNNING", "CONFIGURING", "SIGNALING", "RESIZING"), "running"),
    **dict.fromkeys(("SUSPENDED", "STOPPED"), "suspended"),
    **dict.fromkeys(("COMPLETING", "STAGE_OUT"), "ending"),
    **dict.fromkeys(
        ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "DEADLINE", "PREEMPTED"), "gone"
    ),
    **dict.fromkeys(
        ("NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED", "RECONFIG_FAIL", "OUT_OF_MEMORY"), "gone"
    ),
}
# What the end of a job is called in the ledger. A job that ended on its own (COMPLETED) says
# nothing about a run.
CAUSE_OF_STATE: dict[str, Cause] = {
    "PREEMPTED": "preempted",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "NODE_FAIL": "node_failure",
    "BOOT_FAIL": "node_failure",
    "OUT_OF_MEMORY": "out_of_memory",
    "CANCELLED": "cancelled",
    "REQUEUED": "requeued",
    "FAILED": "crashed",
}
_GONE = Seen("gone")
# After these, a job may run again before accounting has heard of it: only squeue knows.
_STARTS_AGAIN = ("PREEMPTED", "NODE_FAIL", "BOOT_FAIL")


def survey(jobs: Collection[JobRef], settled: Collection[JobRef], max_age_s: float) -> Survey:
    """What Slurm says about jobs: at most one question in `EVERY_S` for all who are content with an
    older answer.

    Args:
        settled: jobs about which everything is known except whether Slurm still has them;
            accounting is not asked about those.
        max_age_s: 0 for an answer of this moment, for those who decide something by it.
    """
    # Slurm has no jobs of other ids, whatever else a client would take them for.
    found = {job.job_id: _GONE for job in jobs if not client.is_job_id(job.job_id)}
    ids, ended = {job.job_id for job in jobs} - found.keys(), {job.job_id for job in settled}
    if not ids:
        return Survey(found)
    known, is_new = _known(ids - ended, max_age_s)
    found |= known.of(ids, ended)
    advice = _ELSEWHERE if known.problem == NOT_HERE else Survey.advice
    if is_new:
        return Survey(found, known.problem, advice=advice)
    return Survey(found, known.problem, known.as_of, known.remark(time.time()), advice)


def _known(job_ids: Collection[str], max_age_s: float) -> tuple["Known", bool]:
    """What is known about jobs, and whether that is of this moment."""
    memory = memory_of_this_user()
    began, decides = time.time(), max_age_s <= 0
    known = memory.load()
    if decides or known.is_due(began):
        with memory.asking(0.0 if known.as_of and not decides else _PATIENCE_S) as is_mine:
            known = memory.load()
            if decides or (is_mine and known.is_due(began)):
                # Several who decide at the same moment ask once.
                if known.asked_at <= began or known.lacks(job_ids, began):
                    known = _asked(known.wanting(job_ids, began), frozenset(job_ids))
                    if is_mine:
                        memory.save(known)
                return known, True
    if known.lacks(job_ids, began):
        # Others will ask about these jobs, too.
        with memory.asking(0.0) as is_mine:
            if is_mine:
                known = memory.load().wanting(job_ids, began)
                memory.save(known)
    return known, False


@dataclass(frozen=True, kw_only=True)
class Known:
    """Answers about jobs, by job id.

    Attributes:
        asked_at: when Slurm was last asked, seconds since 1970; 0 if never.
        as_of: when it last answered.
        took_s: how long that took.
        strikes: questions in a row that it answered slowly, or not at all.
        problem: why the last question has no answer.
        queue: jobs that squeue shows.
        forgotten: jobs that it does not show, with the time until which that is believed.
        wanted: jobs that somebody watches, with the time at which they said so.
    """

    asked_at: float = 0.0
    as_of: float = 0.0
    took_s: float = 0.0
    strikes: int = 0
    problem: str | None = None
    queue: Mapping[str, Seen] = field(default_factory=dict)
    forgotten: Mapping[str, tuple[float, Seen]] = field(default_factory=dict)
    wanted: Mapping[str, float] = field(default_factory=dict)

    def of(self, job_ids: Collection[str], settled: Collection[str]) -> dict[str, Seen]:
        """What is known about jobs; those about which Slurm was asked in vain are left out."""
        found = (
            dict.fromkeys(job_ids, Seen("unknown", reason=_NOT_YET)) if self.problem is None else {}
        )
        found |= {job: _GONE for job in job_ids if job in settled}
        found |= {job: self.forgotten[job][1] for job in job_ids if job in self.forgotten}
        return found | {job: self.queue[job] for job in job_ids if job in self.queue}

    def lacks(self, job_ids: Collection[str], now: float) -> bool:
        """Whether the next question would leave one of these jobs out, because nobody is known to
        want it."""
        fresh = now - _WANTED_S / 2
        return any(
            job not in self.forgotten and self.wanted.get(job, 0.0) < fresh for job in job_ids
        )

    def wanting(self, job_ids: Collection[str], now: float) -> "Known":
        """With jobs that somebody wants to know about from now on."""
        recent = {job: when for job, when in self.wanted.items() if now - _WANTED_S < when <= now}
        return replace(
            self, wanted=recent | {job: now for job in job_ids if job not in self.forgotten}
        )

    def every_s(self) -> float:
        """Seconds from the last question to the next."""
        try:
            usual = max(0.0, float(os.environ.get("CLDCTL_ASK_EVERY_S", "")))
        except ValueError:
            usual = EVERY_S
        return usual * _BACK_OFF[min(self.strikes, len(_BACK_OFF) - 1)]

    def is_due(self, now: float) -> bool:
        return not 0.0 <= now - self.asked_at < self.every_s()

    def remark(self, now: float) -> str | None:
        """Why its answers are older than people may expect."""
        if self.problem is not None or not self.strikes:
            return None
        slow = (
            f"Slurm answers slowly ({self.took_s:.0f} s), and is asked every {self.every_s():.0f} s"
        )
        return f"{slow}: what it says about jobs is {max(0.0, now - self.as_of):.0f} s old"


class Memory:
    """What is known: in a file that all commands share, or in this process if there cannot be
    one."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._own = Known()
        # The file that it was read from: inode, size and time.
        self._version: tuple[int, int, int] | None = None

    def load(self) -> Known:
        """What is known by now; nothing if the file is of a time to come."""
        if self._file is None:
            return self._own
        try:
            with opened(self._file) as file:
                status = os.fstat(file.fileno())
                version = status.st_ino, status.st_size, status.st_mtime_ns
                if version == self._version:
                    return self._own
                known = from_plain(Known, parse_json(file.read(_MAX_BYTES)))
            self._version = version
            self._own = known if max(known.asked_at, known.as_of) <= time.time() + 1.0 else Known()
        except FileNotFoundError:
            self._own = Known()
        except (OSError, ValueError):
            pass  # Damaged: what this process knows is no worse.
        return self._own

    def save(self, known: Known) -> None:
        """Let all commands know; only this process if the file cannot be written."""
        self._own = known
        if self._file is None:
            return
        try:
            if not os.path.lexists(self._file):
                _sweep(self._file.parent)
            write_text(self._file, json.dumps(to_plain(known)) + "\n")
        except (OSError, ValueError):
            self._file = None

    @contextlib.contextmanager
    def asking(self, patience_s: float) -> Iterator[bool]:
        """Whether this process is the one that asks; others may have asked while it waited up to
        ``patience_s``."""
        with contextlib.ExitStack() as held:
            is_mine = True
            if self._file is not None:
                try:
                    is_mine = held.enter_context(
                        locks.holding(self._file.with_suffix(".lock"), patience_s)
                    )
                except OSError:
                    self._file = None
            yield is_mine


def memory_of_this_user() -> Memory:
    """Of the Slurm that commands of this process would ask."""
    mark = ""
    file = client.configuration()
    # Another cluster may take its place at the same path.
    with contextlib.suppress(OSError):
        status = os.stat(file)
        mark = f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"
    # Of this machine alone: on a network file system, machines see each other's locks and files
    # late.
    name = f"{_FORMAT}\n{socket.gethostname()}\n{file}\n{mark}\n{os.environ.get('SLURM_CLUSTERS')}"
    key = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:16]
    folder = config.cache_folder()
    return _memory(folder / f"slurm-{key}.json" if folder is not None else None)


_memory = functools.lru_cache(maxsize=16)(Memory)


def _sweep(folder: Path) -> None:
    """Remove the answers of other machines and clusters that nobody has written for a long time."""
    for file in folder.glob("slurm-*"):
        with contextlib.suppress(OSError):
            if time.time() - file.lstat().st_mtime > _UNUSED_S:
                file.unlink()


def _asked(known: Known, wanted: frozenset[str]) -> Known:
    """What is known after another question: about this user's jobs, and about those that somebody
    wants."""
    now, began = time.time(), time.monotonic()
    answer = client.run([*_QUEUE, "--me"])
    mine = answer.text if answer.code == 0 else None
    queue = parse_squeue(mine or "")
    is_whole = mine is not None and not is_torn(mine)
    forgotten = {job: it for job, it in known.forgotten.items() if job not in queue and now < it[0]}
    missing = [job for job in {*known.wanted, *wanted} if job not in queue and job not in forgotten]
    # Where not all can be asked about: first, from the end, what is asked now, and of that the
    # newest.
    missing.sort(key=lambda job: (job in wanted, *map(int, _NUMBER.findall(job))))
    named, unanswered, is_away = _named(missing) if is_whole else ({}, {*missing}, True)
    queue |= named
    lost = [job for job in missing if job not in queue]
    ends = _ends(lost)
    queue |= {
        job: end for job, end in ends.items() if job in unanswered and end.word not in _STARTS_AGAIN
    }
    # Without accounting, a job that is not in the queue has ended. It may say more later, but where
    # there are more unknown jobs than can be asked about, once has to do.
    silent_s = _FORGOTTEN_S if unanswered else _ACCOUNTING_AGAIN_S
    certain = [job for job in lost if job not in unanswered]
    forgotten |= {
        job: (now + (_FORGOTTEN_S if job in ends else silent_s), ends.get(job, _GONE))
        for job in certain
    }
    if mine is None:
        # What was alive may be so no longer.
        queue = {job: seen for job, seen in known.queue.items() if seen.is_gone} | queue
    problem = AWAY if mine is None or (is_whole and is_away) else None
    if answer.missing:
        problem = NOT_HERE
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


def _named(job_ids: Sequence[str]) -> tuple[dict[str, Seen], set[str], bool]:
    """What squeue says about jobs, the last first; those that it said nothing about; and whether it
    did not answer.

    A list that it refuses is halved until the unknown job is alone.
    """
    queue: dict[str, Seen] = {}
    unanswered: set[str] = set()
    parts, is_away = _chunks(job_ids), False
    left = len(parts) + _MOST_PARTS
    while parts:
        jobs = parts.pop()
        # Who does not answer is not asked again at once.
        answer = (
            client.run([*_QUEUE, f"--jobs={','.join(jobs)}"]) if left > 0 and not is_away else None
        )
        left -= 1
        if answer is None:
            unanswered.update(jobs)
        elif answer.code == 0 and not is_torn(answer.text):
            queue |= parse_squeue(answer.text)
        elif answer.code == 0 or not _INVALID.search(answer.text):
            is_away = True
            unanswered.update(jobs)
        elif len(jobs) > 1:
            half = len(jobs) // 2
            parts += [jobs[:half], jobs[half:]]
    return queue, unanswered - queue.keys(), is_away


def _ends(jobs: Collection[str]) -> dict[str, Seen]:
    """How jobs ended that squeue does not show, as far as accounting knows."""
    ends = {}
    for some in _chunks(sorted({job.partition("_")[0] for job in jobs})):
        for job, states in parse_sacct(client.sacct("JobID,State,NodeList", some) or "").items():
            ends[job] = seen_of(states[-1])
    return {job: ends[job] for job in jobs if job in ends}


def _chunks(items: Sequence[str]) -> list[Sequence[str]]:
    return [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]


def parse_squeue(text: str) -> dict[str, Seen]:
    """Answers of ``squeue --format='%i|%T|%N|%r'``, by job id; tasks of an array are
    ``ARRAY_TASK``.

    Lines of another form are left out: see `is_torn`.
    """
    rows = [match.groups() for line in text.splitlines() if (match := _ROW.fullmatch(line.strip()))]
    return {job: seen_of(state, node, told(job, reason)) for job, state, node, reason in rows}


def is_torn(text: str) -> bool:
    """Whether squeue's answer was cut off, or has lines about jobs that cannot be read.

    A job without a line may then be in the queue still.
    """
    lines = [line.strip() for line in text.splitlines()]
    return (text != "" and not text.endswith("\n")) or any(
        line[:1].isdecimal() and not _ROW.fullmatch(line) for line in lines
    )


def parse_sacct(text: str) -> dict[str, list[str]]:
    """States of every start of each job, oldest first, from ``sacct --parsable2 --duplicates``.

    Lines of another form are left out; a state that is not there is empty.
    """
    states: dict[str, list[str]] = {}
    for line in text.splitlines():
        job, bar, rest = line.strip().partition("|")
        if bar and _JOB.fullmatch(job):
            states.setdefault(job, []).append((rest.partition("|")[0].split() or [""])[0])
    return states


def seen_of(state: str, node: str = "", reason: str = "") -> Seen:
    """What one of Slurm's words for a state means, for example "CANCELLED by 0".

    Nothing is concluded from an unknown word: whoever believes that a job is gone starts another
    one.
    """
    word = (state.split() or [""])[0].rstrip("+")
    phase = _PHASES.get(word, "unknown")
    if phase == "unknown":
        reason = f"Slurm calls its state {word!r}"
    elif phase == "suspended":
        reason = "suspended by Slurm: its processes stand still until it lets them continue"
    elif phase != "pending" or reason == "None":
        reason = ""
    return Seen(phase, CAUSE_OF_STATE.get(word) if phase == "gone" else None, node, reason, word)


# Why a job waits, in plain words, and what somebody can do about it.
_LIMITS = "wait for your other jobs, or cancel some"
_SMALLER = "fewer nodes, or a shorter cluster.time_min, begin earlier"
# A job that nobody releases, or whose turn cannot come, waits for ever; `Held` is known by one of
# these.
_HELD, _NEVER = "it is held", "it never begins"
_THAN = f"than its partition allows: {_NEVER}"
_RELEASE = "release it: `scontrol release {id}`"
_OR_ASK = "or ask an administrator if that is refused"
# The first pattern that the reason begins with decides; {id} and {dependency} are of the job.
_WORDS: tuple[tuple[str, str, str], ...] = (
    ("None$", "it was just submitted", ""),
    (
        "Priority",
        "jobs of higher priority come first",
        f"{_SMALLER}; `sprio -j {{id}}` shows its priority",
    ),
    ("Resources", "it is next, and waits for nodes to become free", _SMALLER),
    (
        "DependencyNeverSatisfied",
        f"the job that it waits for ended in another way than it needs: {_NEVER}",
        "let it begin nevertheless: `scontrol update jobid={id} dependency=`; or cancel it, then "
        "`cldctl resume RUN`, which submits it again and waits for no job",
    ),
    ("Dependency", "it waits for another job to end ({dependency})", ""),
    (
        "BeginTime",
        "it may not begin yet: a pause after a crash, or a requeue that Slurm is still doing",
        "",
    ),
    ("JobHeldUser", f"{_HELD} by its user", _RELEASE),
    ("JobHeldAdmin", f"{_HELD} by an administrator", "ask them why: only they can release it"),
    (
        "job requeued in held state",
        f"{_HELD}, as `scontrol requeuehold` leaves it",
        f"{_RELEASE}, {_OR_ASK}",
    ),
    (
        "JobHoldMaxRequeue|launch failed requeued held",
        f"{_HELD}, because its last start failed on the node, as in a prolog",
        (
            f"avoid that node: `scontrol update jobid={{id}} excnodelist=NODE`; then {_RELEASE}, "
            f"{_OR_ASK}"
        ),
    ),
    (".*held", _HELD, f"{_RELEASE}, {_OR_ASK}"),
    (
        "ReqNodeNotAvail|Nodes required for job|Required nodes? not available",
        "nodes that it needs are down, drained or reserved, maybe for a maintenance",
        (
            "`sinfo -R` and `scontrol show reservation` say why; a shorter cluster.time_min may "
            "fit "
            "before it"
        ),
    ),
    (
        "Reservation",
        "it waits for its reservation",
        "`scontrol show reservation` shows when that begins",
    ),
    (
        "PartitionDown|PartitionInactive",
        "its partition takes no jobs now",
        "use another cluster.partition",
    ),
    (
        "PartitionTimeLimit",
        f"it asks for more time {_THAN}",
        "lower cluster.time_min: cancel it, then `cldctl resume RUN cluster.time_min=MINUTES`; "
        "`scontrol show partition` shows its MaxTime",
    ),
    (
        "PartitionNodeLimit|PartitionConfig",
        f"it asks for more nodes {_THAN}",
        "lower cluster.nodes, or use another cluster.partition",
    ),
    (
        "QOSMax|QOSUser",
        "you have as much running as the quality of service allows one user",
        _LIMITS,
    ),
    (
        "QOSGrp",
        "all users of its quality of service have reached its limit",
        "wait, or use another cluster.qos",
    ),
    (
        "QOS",
        "its quality of service does not allow it now",
        "see `sacctmgr show qos`, or use another cluster.qos",
    ),
    (
        "Assoc(?:Grp|Max).*Minutes|AssocGrpBilling",
        "the budget of its account is used up",
        "`sshare -l` shows it; use another cluster.account, or ask for more",
    ),
    (
        "AssocGrp|Max.*PerAccount",
        "all users of its account have reached its limit",
        "wait, or use another cluster.account",
    ),
    ("Assoc", "you have as much running as your account allows", _LIMITS),
    ("JobArrayTaskLimit", "as many tasks of its array run as were allowed at once", ""),
    ("Licenses", "it waits for a licence", ""),
    (
        "BadConstraints|.*not available|NodeConfig|.*configuration",
        "no node has what it asks for",
        "check cluster.constraint, cluster.gres and cluster.mem_gb",
    ),
    ("InvalidAccount", "its account is not valid", "set cluster.account"),
    ("InvalidQOS", "its quality of service is not valid", "set cluster.qos"),
    ("Cleaning", "the nodes of its last start are still being cleaned", ""),
    ("NodeDown", "a node that it needs is down", "`sinfo -R` says why"),
)


def explained(job_id: str, job: Mapping[str, str], seen: Seen) -> Waiting | None:
    """Why a job waits; `Held` if it never begins by itself.

    Args:
        job: what `client.show_job` says about it; empty if nothing.
        seen: what the last survey said.
    """
    word = job.get("Reason") or seen.reason or ("None" if job.get("JobState") == "PENDING" else "")
    # It may have begun, or ended, since the survey.
    if not word or (
        job and seen_of(job.get("JobState", "PENDING")).phase in ("running", "ending", "gone")
    ):
        return None
    # scontrol writes what squeue says without its blanks, and names of nodes as they are; `told`
    # may have added to it.
    said, colon, nodes = word.partition(HELD)[0].partition(":")
    word = said.replace("_", " ") + colon + nodes
    begin = client.start_of(job.get("StartTime", ""))
    values = {"id": job_id, "dependency": job.get("Dependency", "squeue --format=%E names it")}
    for pattern, reason, advice in _WORDS:
        if re.match(pattern, word):
            said = "" if word == "None" else f" ({word})"
            kind = Held if _HELD in reason or _NEVER in reason else Waiting
            return kind(reason.format_map(values) + said, advice.format_map(values), begin)
    return Waiting(
        f"Slurm says {word}", "`man squeue`, section JOB REASON CODES, explains it", begin
    )


def told(job_id: str, reason: str) -> str:
    """What squeue says about a job that waits, and of one that never begins by itself what to
    do."""
    waiting = explained(job_id, {}, Seen("pending", reason=reason))
    return f"{reason}{HELD}{waiting.advice}" if isinstance(waiting, Held) else reason
