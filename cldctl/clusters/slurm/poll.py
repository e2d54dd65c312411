"""Slurm's answers about jobs, which all commands of a user on a machine share.

One question is a squeue for this user's jobs, another for jobs that are not among them (of another
user), and a sacct for jobs that squeue no longer shows; those are asked about once. The answers are
kept in a file of this user and this machine. If Slurm is slow, questions become rarer.
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

from cld_core.files import opened, parse_json, write_text
from cld_core.records import from_plain, to_plain
from cld_core.run.events import Cause, JobRef
from cld_core.run.history import array_of
from cld_core.run.state import Phase
from cldctl import config, locks
from cldctl.clusters.base import HELD, Answer, Held, Survey, Waiting

from . import client

# Seconds between two questions of all commands of a user on a machine, without
# $CLDCTL_ASK_EVERY_S.
EVERY_S = 30.0
# An answer that takes longer than this many seconds counts as slow.
SLOW_S = 2.0
# Factors of the wait for the next question, by the number of slow or missing answers in a row.
_BACK_OFF = (1, 2, 4, 10)
AWAY = "slurmctld does not answer: states are the last that the runs wrote"
NOT_HERE = "there is no squeue on this machine: states are the last that the runs wrote"
_ELSEWHERE = (
    "try again on a machine with Slurm (`resume` and `rm` need no answer an hour after a run was "
    "cancelled, finished or crashed)"
)
_NOT_YET = "Slurm has not said anything about it yet"
_QUEUE = ("squeue", "--all", "--noheader", "--array", "--states=all", "--format=%i|%T|%N|%r")
_ACCOUNTING = (
    "sacct",
    "--allocations",
    "--noheader",
    "--duplicates",
    "--parsable2",
    "--starttime=now-90days",
    "--format=JobID,State",
    "--jobs",
)
# Number of jobs in one call of a client.
_CHUNK = 500
# Some versions of squeue refuse a list with one unknown job. This many more calls may be made in
# one question to find such jobs.
_MOST_PARTS = 12
# Seconds for which the end of a job that squeue no longer shows is kept.
_FORGOTTEN_S = 24 * 3600.0
# The same if accounting did not say how the job ended.
_ACCOUNTING_AGAIN_S = 600.0
# Seconds for which other commands ask about a job after a command has last shown it.
_WANTED_S = 600.0
# Seconds that a first or a fresh question waits for that of another process.
_PATIENCE_S = 2 * client.TIMEOUT_S
# Files of machines and clusters that have not been used for this many seconds are removed.
_UNUSED_S = 7 * 24 * 3600.0
# Part of the name of the file of answers.
_FORMAT = 2
_MAX_BYTES = 20_000_000
_INVALID = re.compile(r"invalid job id", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+")
_JOB = re.compile(r"[0-9]+(?:[_+][0-9]+)?")
_ROW = re.compile(rf"({_JOB.pattern})\|([^|]*)\|([^|]*)\|(.*)")

_PHASES: dict[str, Phase] = {
    "PENDING": "pending",
    "REQUEUED": "pending",
    "REQUEUE_HOLD": "pending",
    "REQUEUE_FED": "pending",
    "SPECIAL_EXIT": "pending",
    "RESV_DEL_HOLD": "pending",
    "RUNNING": "running",
    "CONFIGURING": "running",
    "SIGNALING": "running",
    "RESIZING": "running",
    "SUSPENDED": "suspended",
    "STOPPED": "suspended",
    "COMPLETING": "ending",
    "STAGE_OUT": "ending",
    "COMPLETED": "gone",
    "CANCELLED": "gone",
    "FAILED": "gone",
    "TIMEOUT": "gone",
    "DEADLINE": "gone",
    "PREEMPTED": "gone",
    "NODE_FAIL": "gone",
    "BOOT_FAIL": "gone",
    "LAUNCH_FAILED": "gone",
    "RECONFIG_FAIL": "gone",
    "OUT_OF_MEMORY": "gone",
}
# Causes of the ledger by the state in which a job ended. A job that ended on its own (COMPLETED)
# says nothing about a run.
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
_GONE = Answer("gone")
# After these states, a job may run again before accounting shows it: only squeue does.
_STARTS_AGAIN = ("PREEMPTED", "NODE_FAIL", "BOOT_FAIL")


def survey(jobs: Collection[JobRef], settled: Collection[JobRef], max_age_s: float) -> Survey:
    """What Slurm says about jobs, with at most one question in `EVERY_S` if ``max_age_s`` is not 0.

    Args:
        settled: jobs about which everything is known except whether Slurm still has them;
            accounting is not asked about those.
        max_age_s: 0 for an answer of this moment, for commands that decide by it.
    """
    # Slurm has no jobs with other ids, and its clients would take the text for something else.
    answers = {job.job_id: _GONE for job in jobs if not client.is_job_id(job.job_id)}
    ids = {job.job_id for job in jobs} - answers.keys()
    ended = {job.job_id for job in settled}
    if not ids:
        return Survey(answers)
    stored, is_new = _load_or_ask(ids - ended, max_age_s)
    answers |= stored.of(ids, ended)
    advice = _ELSEWHERE if stored.problem == NOT_HERE else Survey.advice
    if is_new:
        return Survey(answers, stored.problem, advice=advice)
    return Survey(answers, stored.problem, stored.as_of, stored.remark(time.time()), advice)


def _load_or_ask(job_ids: Collection[str], max_age_s: float) -> tuple["StoredAnswers", bool]:
    """What is known about jobs, and whether that is of this moment."""
    memory = memory_of_this_user()
    began = time.time()
    must_ask = max_age_s <= 0
    stored = memory.load()
    if must_ask or stored.is_due(began):
        patience_s = 0.0 if stored.as_of and not must_ask else _PATIENCE_S
        with memory.asking(patience_s) as is_mine:
            stored = memory.load()
            if must_ask or (is_mine and stored.is_due(began)):
                # Processes that must ask at the same moment share one question.
                if stored.asked_at <= began or stored.lacks(job_ids, began):
                    stored = _ask(stored.wanting(job_ids, began), frozenset(job_ids))
                    if is_mine:
                        memory.save(stored)
                return stored, True
    if stored.lacks(job_ids, began):
        # The next question of another process is about these jobs, too.
        with memory.asking(0.0) as is_mine:
            if is_mine:
                stored = memory.load().wanting(job_ids, began)
                memory.save(stored)
    return stored, False


@dataclass(frozen=True, kw_only=True)
class StoredAnswers:
    """Answers about jobs, by job id.

    Attributes:
        asked_at: when Slurm was last asked, seconds since 1970; 0 if never.
        as_of: when it last answered.
        took_s: seconds that the last question took.
        strikes: number of slow or missing answers in a row.
        problem: why the last question has no answer.
        queue: jobs that squeue shows.
        forgotten: jobs that it does not show, with the time until which the answer is kept.
        wanted: jobs that commands show, with the time at which one last did.
    """

    asked_at: float = 0.0
    as_of: float = 0.0
    took_s: float = 0.0
    strikes: int = 0
    problem: str | None = None
    queue: Mapping[str, Answer] = field(default_factory=dict)
    forgotten: Mapping[str, tuple[float, Answer]] = field(default_factory=dict)
    wanted: Mapping[str, float] = field(default_factory=dict)

    def of(self, job_ids: Collection[str], settled: Collection[str]) -> dict[str, Answer]:
        """Answers about jobs; after a question without an answer, unknown jobs are left out."""
        answers: dict[str, Answer] = {}
        for job in job_ids:
            if job in self.queue:
                answers[job] = self.queue[job]
            elif job in self.forgotten:
                answers[job] = self.forgotten[job][1]
            elif job in settled:
                answers[job] = _GONE
            elif self.problem is None:
                answers[job] = Answer("unknown", reason=_NOT_YET)
        return answers

    def lacks(self, job_ids: Collection[str], now: float) -> bool:
        """Whether the next question would leave out one of these jobs, or soon could."""
        fresh = now - _WANTED_S / 2
        return any(
            job not in self.forgotten and self.wanted.get(job, 0.0) < fresh for job in job_ids
        )

    def wanting(self, job_ids: Collection[str], now: float) -> "StoredAnswers":
        """The same answers, with jobs that the next questions are about."""
        wanted = {job: when for job, when in self.wanted.items() if now - _WANTED_S < when <= now}
        wanted |= {job: now for job in job_ids if job not in self.forgotten}
        return replace(self, wanted=wanted)

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
        """Why the answers are older than usual; None if they are not."""
        if self.problem is not None or not self.strikes:
            return None
        age_s = max(0.0, now - self.as_of)
        return (
            f"Slurm answers slowly ({self.took_s:.0f} s), and is asked every "
            f"{self.every_s():.0f} s: what it says about jobs is {age_s:.0f} s old"
        )


class Memory:
    """The known answers: in a file that all commands share, or else in this process."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._own = StoredAnswers()
        # The file that it was read from: inode, size and time.
        self._version: tuple[int, int, int] | None = None

    def load(self) -> StoredAnswers:
        """The answers known by now; none if the file is from the future."""
        if self._file is None:
            return self._own
        try:
            with opened(self._file) as file:
                status = os.fstat(file.fileno())
                version = status.st_ino, status.st_size, status.st_mtime_ns
                if version == self._version:
                    return self._own
                stored = from_plain(StoredAnswers, parse_json(file.read(_MAX_BYTES)))
            self._version = version
            self._own = (
                stored
                if max(stored.asked_at, stored.as_of) <= time.time() + 1.0
                else StoredAnswers()
            )
        except FileNotFoundError:
            self._own = StoredAnswers()
        except (OSError, ValueError):
            pass  # The file is damaged: the answers in this process are no worse.
        return self._own

    def save(self, stored: StoredAnswers) -> None:
        """Write the answers for all commands; keep them in this process if that fails."""
        self._own = stored
        if self._file is None:
            return
        try:
            if not os.path.lexists(self._file):
                _sweep(self._file.parent)
            write_text(self._file, json.dumps(to_plain(stored)) + "\n")
        except (OSError, ValueError):
            self._file = None

    @contextlib.contextmanager
    def asking(self, patience_s: float) -> Iterator[bool]:
        """Whether this process may ask alone, after a wait of up to ``patience_s`` for others."""
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
    """The memory for the Slurm that this process would ask."""
    version = ""
    file = client.configuration()
    # The file of another cluster may replace it at the same path.
    with contextlib.suppress(OSError):
        status = os.stat(file)
        version = f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"
    # Each machine has its own file: on a network file system, machines see each other's locks and
    # files late.
    clusters = os.environ.get("SLURM_CLUSTERS")
    name = f"{_FORMAT}\n{socket.gethostname()}\n{file}\n{version}\n{clusters}"
    key = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:16]
    folder = config.cache_folder()
    return _memory(folder / f"slurm-{key}.json" if folder is not None else None)


_memory = functools.lru_cache(maxsize=16)(Memory)


def _sweep(folder: Path) -> None:
    """Remove the answers of other machines and clusters that are `_UNUSED_S` old."""
    for file in folder.glob("slurm-*"):
        with contextlib.suppress(OSError):
            if time.time() - file.lstat().st_mtime > _UNUSED_S:
                file.unlink()


def _ask(stored: StoredAnswers, requested: frozenset[str]) -> StoredAnswers:
    """The answers after another question, about this user's jobs and all wanted ones.

    Args:
        requested: jobs that this process wants to know about.
    """
    now = time.time()
    began = time.monotonic()
    answer = client.run([*_QUEUE, "--me"])
    has_answered = answer.code == 0
    queue, is_whole = parse_squeue(answer.text if has_answered else "")
    forgotten = {
        job: (until, seen)
        for job, (until, seen) in stored.forgotten.items()
        if job not in queue and now < until
    }
    missing = {*stored.wanted, *requested} - queue.keys() - forgotten.keys()
    # There may be more than `_named` can ask about; it begins at the end: with those that this
    # process wants, the newest first.
    ordered = sorted(missing, key=lambda job: (job in requested, *map(int, _NUMBER.findall(job))))
    is_away = not has_answered
    unanswered = missing
    if has_answered and is_whole:
        named, unanswered, is_away = _named(ordered)
        queue |= named
    lost = [job for job in ordered if job not in queue]
    ends = _ends(lost)
    for job in lost:
        if job not in unanswered:
            # Without accounting, a job that is not in the queue has ended. Accounting may say more
            # later, but if there are more jobs than squeue could be asked about, it is not asked
            # again soon.
            is_final = job in ends or unanswered
            kept_s = _FORGOTTEN_S if is_final else _ACCOUNTING_AGAIN_S
            forgotten[job] = now + kept_s, ends.get(job, _GONE)
        elif job in ends and ends[job].word not in _STARTS_AGAIN:
            queue[job] = ends[job]
    if not has_answered:
        # Jobs that were alive may have ended.
        queue = {job: seen for job, seen in stored.queue.items() if seen.is_gone} | queue
    problem = AWAY if is_away else None
    if answer.missing:
        problem = NOT_HERE
    took_s = time.monotonic() - began
    strikes = 0
    if problem is not None or took_s > SLOW_S:
        strikes = min(stored.strikes + 1, len(_BACK_OFF) - 1)
    return replace(
        stored,
        asked_at=now,
        as_of=now if has_answered else stored.as_of,
        took_s=took_s,
        strikes=strikes,
        problem=problem,
        queue=queue,
        forgotten=forgotten,
    )


def _named(job_ids: Sequence[str]) -> tuple[dict[str, Answer], set[str], bool]:
    """Ask squeue about jobs by their ids, the last ones first.

    A list that it refuses is halved until the unknown job is alone.

    Returns:
        Its answers, the jobs without an answer, and whether it did not answer at all once.
    """
    queue: dict[str, Answer] = {}
    unanswered: set[str] = set()
    is_away = False
    parts = _chunks(job_ids)
    calls_left = len(parts) + _MOST_PARTS
    while parts:
        jobs = parts.pop()
        # After a missing answer, there are no further calls.
        if calls_left == 0 or is_away:
            unanswered.update(jobs)
            continue
        calls_left -= 1
        answer = client.run([*_QUEUE, f"--jobs={','.join(jobs)}"])
        if answer.code == 0:
            named, is_whole = parse_squeue(answer.text)
            is_away = not is_whole
            # The last field of an answer that was cut may lack its end.
            queue |= named if is_whole else {}
        else:
            is_away = not _INVALID.search(answer.text)
        if is_away:
            unanswered.update(jobs)
        elif answer.code != 0 and len(jobs) > 1:
            half = len(jobs) // 2
            parts += [jobs[:half], jobs[half:]]
    return queue, unanswered - queue.keys(), is_away


def _ends(jobs: Collection[str]) -> dict[str, Answer]:
    """How jobs that squeue does not show ended, as far as accounting says."""
    ends = {}
    for job_ids in _chunks(sorted(set(map(array_of, jobs)))):
        for job, states in ended_states(job_ids).items():
            ends[job] = seen_of(states[-1])
    return {job: ends[job] for job in jobs if job in ends}


def _chunks(items: Sequence[str]) -> list[Sequence[str]]:
    return [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]


def parse_squeue(text: str) -> tuple[dict[str, Answer], bool]:
    """Answers by job id, from ``squeue --format='%i|%T|%N|%r'``; ids of tasks are ``ARRAY_TASK``.

    Returns:
        The answers, and whether they are complete. If the text was cut off, or has lines about jobs
        that cannot be read, a job without an answer may still be in the queue.
    """
    answers = {}
    is_whole = not text or text.endswith("\n")
    for line in map(str.strip, text.splitlines()):
        if match := _ROW.fullmatch(line):
            job, state, node, reason = match.groups()
            answers[job] = seen_of(state, node, _reason_with_advice(job, reason))
        elif line[:1].isdecimal():
            is_whole = False
    return answers, is_whole


def ended_states(job_ids: Sequence[str]) -> dict[str, list[str]]:
    """The states in which every start of each job ended, oldest first, from accounting.

    Empty without an answer. Lines of another form are left out; a state that is not there is empty.
    """
    states: dict[str, list[str]] = {}
    for line in (client.output_of([*_ACCOUNTING, ",".join(job_ids)]) or "").splitlines():
        job, bar, state = line.strip().partition("|")
        if bar and _JOB.fullmatch(job):
            states.setdefault(job, []).append(_first_word(state.partition("|")[0]))
    return states


def _first_word(text: str) -> str:
    return (text.split() or [""])[0]


def seen_of(state: str, node: str = "", reason: str = "") -> Answer:
    """The answer behind one of Slurm's texts for a state, for example "CANCELLED by 0".

    An unknown word means the phase "unknown": a job that seemed gone would be started again.
    """
    word = _first_word(state).rstrip("+")
    phase = _PHASES.get(word, "unknown")
    if phase == "unknown":
        reason = f"Slurm calls its state {word!r}"
    elif phase == "suspended":
        reason = "suspended by Slurm: its processes stand still until it lets them continue"
    elif phase != "pending" or reason == "None":
        reason = ""
    ended = CAUSE_OF_STATE.get(word) if phase == "gone" else None
    return Answer(phase, ended, node, reason, word)


# Parts of the advice below.
_LIMITS = "wait for your other jobs, or cancel some"
_SMALLER = "fewer nodes, or a shorter cluster.time_min, begin earlier"
_RELEASE = "release it: `scontrol release {id}`"
_OR_ASK = "or ask an administrator if that is refused"
# Parts of the reasons of a job that waits for ever. The first two make it `Held`.
_HELD = "it is held"
_NEVER = "it never begins"
_THAN = f"than its partition allows: {_NEVER}"
# Beginnings of Slurm's reasons, each with the reason in plain words, and advice. The first that
# matches decides; {id} and {dependency} are those of the job.
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
        f"avoid that node: `scontrol update jobid={{id}} excnodelist=NODE`; then {_RELEASE}, "
        f"{_OR_ASK}",
    ),
    (".*held", _HELD, f"{_RELEASE}, {_OR_ASK}"),
    (
        "ReqNodeNotAvail|Nodes required for job|Required nodes? not available",
        "nodes that it needs are down, drained or reserved, maybe for a maintenance",
        "`sinfo -R` and `scontrol show reservation` say why; a shorter cluster.time_min may fit "
        "before it",
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


def explained(job_id: str, job: Mapping[str, str], seen: Answer) -> Waiting | None:
    """Why a job waits; `Held` if it never begins by itself.

    Args:
        job: what `client.show_job` says about it; empty if nothing.
        seen: what the last survey said.
    """
    state = job.get("JobState", "")
    word = job.get("Reason") or seen.reason
    if not word and state == "PENDING":
        word = "None"
    # The job may have begun, or ended, since the survey.
    if not word or (state and seen_of(state).phase in ("running", "ending", "gone")):
        return None
    # `_reason_with_advice` may have extended squeue's reason. That of scontrol has underscores in
    # place of blanks, and after a colon names of nodes, which may have underscores of their own.
    text, colon, nodes = word.partition(HELD)[0].partition(":")
    word = text.replace("_", " ") + colon + nodes
    begin = client.start_of(job.get("StartTime", ""))
    values = {"id": job_id, "dependency": job.get("Dependency", "squeue --format=%E names it")}
    for pattern, reason, advice in _WORDS:
        if re.match(pattern, word):
            original = "" if word == "None" else f" ({word})"
            kind = Held if _HELD in reason or _NEVER in reason else Waiting
            return kind(reason.format_map(values) + original, advice.format_map(values), begin)
    return Waiting(
        f"Slurm says {word}", "`man squeue`, section JOB REASON CODES, explains it", begin
    )


def _reason_with_advice(job_id: str, reason: str) -> str:
    """squeue's reason why a job waits, with advice if the job never begins by itself."""
    waiting = explained(job_id, {}, Answer("pending", reason=reason))
    return f"{reason}{HELD}{waiting.advice}" if isinstance(waiting, Held) else reason
