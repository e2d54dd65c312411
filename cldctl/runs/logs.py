"""Where the output of a process of a run is, and which rank of an attempt failed first, with its
last words."""

import contextlib
import functools
import heapq
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from cld_core.errors import NotFoundError
from cld_core.files import opened
from cld_core.run import RunFolder
from cld_core.run.events import Failed, JobRef, TurnedAway, fate_of
from cld_core.run.folder import is_name
from cld_core.run.groups import GROUPS
from cld_core.run.history import Attempt, History
from cld_core.run.lease import newest
from cld_core.sanitize import printable
from cldctl import clusters
from cldctl.clusters import job_logs
from cldctl.jobs.failures import is_secondary
from cldctl.jobs.process import MARK

from . import survey
from .survey import started_works

# Causes after which a job does not start again.
_FOR_GOOD = ("finished", "cancelled")
_LOG = re.compile(r".+_(?P<rank>[0-9]{1,9})_log\.(?:out|err)")
# The end of a part that is shown: nobody reads more, and a file may be larger than the disk.
MOST_BYTES = 64 * 2**20
# Where marks are looked for; larger logs are shown whole.
_SEARCHED_BYTES = 2**28
_LINE_BYTES = 2**20
_BLOCK = 2**16
_ELSEWHERE = "another launcher started it, and has its output. The same command again continues it."
# Times as Python's logging, submitit, Slurm and our marks write them, and as glog does for torch.
_ISO = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?", re.ASCII)
_GLOG = re.compile(r"\b[IWEF](\d\d)(\d\d) (\d\d:\d\d:\d\d(?:\.\d{1,9})?)", re.ASCII)
# A time further inside a line is what the line is about.
_WITHIN = 160
# Of who failed first: so many of the last lines of a log are looked at, and so many, and characters
# of each, are shown.
_LOOKED_AT, _LAST_LINES, _MOST = 400, 10, 300
# An error of Python or of ours at the beginning of a line, or after the number of its rank.
_ERROR = re.compile(
    r"^(?:\[?rank ?\d+\]?: ?)?(?:[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)\b.*|error: .*)$"
)
# A rank, its host, what it died of, and when.
_Culprit = tuple[int | None, str | None, str | None, float | None]


@dataclass(frozen=True)
class Part:
    """The bytes of a file from ``begin`` to ``end``; None for as far as it grows.

    Attributes:
        whole: why it is not cut, if it should be.
    """

    file: Path
    begin: int = 0
    end: int | None = None
    whole: str | None = None

    @property
    def is_errors(self) -> bool:
        return self.file.suffix == ".err"

    def lines(self) -> Iterator[bytes]:
        """The lines, each with its line break, in pieces of at most a megabyte; without the mark in
        a log of errors.

        Raises:
            OSError
        """
        return (line for line in self.all_lines() if not self.is_repeated(line))

    def all_lines(self) -> Iterator[bytes]:
        """As `lines`, with every mark."""
        with opened(self.file) as stream:
            stream.seek(self.begin)
            left = (self.end if self.end is not None else 2**62) - self.begin
            while left > 0 and (line := stream.readline(min(_LINE_BYTES, left))):
                left -= len(line)
                yield line

    def is_repeated(self, line: bytes) -> bool:
        """Whether it is the mark of a start, which stands in both logs of a rank: once is enough to
        read."""
        return self.is_errors and line.startswith(b"--- start ") and MARK.match(line) is not None

    def last(self, lines: int) -> "Part":
        """The part that holds the last ``lines`` lines.

        Raises:
            OSError
        """
        with opened(self.file) as stream:
            size = os.fstat(stream.fileno()).st_size
            end, length = size if self.end is None else min(size, self.end), _BLOCK
            while self.begin < end and length <= MOST_BYTES:
                start = max(self.begin, end - length)
                stream.seek(start)
                # The line break at the very end finishes the last line and begins none.
                before, *found = stream.read(end - start)[:-1].rsplit(b"\n", max(lines, 0))
                if len(found) == max(lines, 0):
                    return replace(self, begin=start + len(before) + 1)
                if start == self.begin:
                    break
                length *= 8
            return replace(self, begin=max(self.begin, end - MOST_BYTES))


# What each rank has printed at last.
_Printed = Callable[[int], Sequence[tuple[Part, list[str]]]]


@dataclass(frozen=True)
class Log:
    """The output of one rank of a job; ``note`` is what has to be known about the job.

    Attributes:
        restart: the start of the job whose output is meant; None for all of them.
        is_newest: no later start appends to the same log.
        attempt: whose output is meant; None for the whole job.
        evaluation: that the job computes, or a tuning; None if it trains.
    """

    job: JobRef
    rank: int
    note: str | None = None
    restart: int | None = None
    is_newest: bool = True
    run: RunFolder | None = None
    attempt: int | None = None
    evaluation: str | None = None

    def files(self) -> list[Path]:
        """Output and errors; empty before the job has begun."""
        return clusters.find(self.job.cluster).log_files(self.job, self.rank)

    def parts(self) -> list[Part]:
        """What the start that is meant has written: output and errors.

        Raises:
            OSError: a file cannot be read.
        """
        return [
            Part(file) if self.restart is None else cut(file, self.restart) for file in self.files()
        ]

    def missing(self, run: RunFolder) -> NotFoundError:
        """The error if there are no `files`; says of which ranks there are some."""
        ranks = self.ranks()
        why = f"There {'is rank' if len(ranks) == 1 else 'are ranks'} {', '.join(ranks)}"
        if not ranks:
            why = (
                "The job has not begun; try -f"
                if self.is_growing()
                else "The job ended without any output"
            )
        where = f"rank {self.rank} of job {self.job.job_id} in {self.job.logs}"
        return NotFoundError(f"{run.name}: no log of {where}. {why}.")

    def all_ranks(self) -> list["Log"]:
        """The logs of every rank of the job, in their order."""
        logs = (replace(self, rank=int(rank)) for rank in self.ranks())
        return [log for log in logs if log.files()]

    def ranks(self) -> list[str]:
        """The ranks whose logs are in the same folder."""
        names = (file.name for file in Path(self.job.logs).glob("*_log.*"))
        return sorted({match["rank"] for name in names if (match := _LOG.fullmatch(name))}, key=int)

    def is_growing(self) -> bool:
        """Whether the job is alive, as far as is known, and still writes what is shown."""
        if not self.is_newest or (self.run is not None and _is_over(self.run, self.job)):
            return False
        return not survey.ask([self.job], max_age_s=survey.TO_LOOK_S).of(self.job).is_gone


def of_training(run: RunFolder, attempt: int | None, rank: int) -> Log:
    """The log of an attempt, or of the newest job that was not turned away.

    Raises:
        NotFoundError: there is no such attempt, no job at all, or another launcher started the
            attempt.
    """
    history = run.ledger.history()
    jobs = {event.job.job_id: event.job for event in history.submitted}
    made = next((it for it in history.attempts if it.attempt == attempt), None)
    if made is not None:
        job = jobs.get(str(made.job_id)) or JobRef(
            cluster=clusters.default().name, job_id=str(made.job_id)
        )
    elif attempt is not None:
        existing = ", ".join(str(it.attempt) for it in history.attempts) or "none"
        raise NotFoundError(f"{run.name} has no attempt {attempt}. It has: {existing}.")
    elif jobs:
        job = (history.jobs or history.submitted)[-1].job
    else:
        never = f"{run.name} was never submitted, so it has no log. Try `cldctl resume {run.name}`."
        raise NotFoundError(f"{run.name}: {_ELSEWHERE}" if history.by_other_launcher else never)
    event = history.last_of.get(job.job_id)
    note = (
        f"the newest attempt: {_ELSEWHERE}"
        if attempt is None and history.by_other_launcher
        else None
    )
    note = (
        f"job {job.job_id} did not train: {event.reason}" if isinstance(event, TurnedAway) else note
    )
    job, is_newest = (
        replace(job, logs=str(job_logs.moved(run.logs, job.logs))),
        made in (None, history.last),
    )
    log = Log(job, rank, note, None if made is None else made.restart, is_newest, run, attempt)
    # The line of its submission may be damaged.
    if job.job_id not in jobs and not (is_name(job.job_id) and log.files()):
        raise NotFoundError(f"{run.name}, attempt {attempt}: {_ELSEWHERE}")
    return log


def of_evaluation(run: RunFolder, name: str, shard: int | None, rank: int) -> Log:
    """The log of the newest job of an evaluation or a tuning, or of the newest that computes a
    shard of it.

    Args:
        name: its id, or the beginning of that if no other evaluation that was started begins so.

    Raises:
        NotFoundError: there is no such evaluation or shard, or no job of it.
        UsageError: several begin like that.
    """
    work = started_works(run, name)[0]
    name, jobs, last = work.name, work.ledger.history().jobs, work.request.shards - 1
    if shard is not None and not 0 <= shard <= last:
        raise NotFoundError(f"{name} has no shard {shard}. It has: 0 to {last}.")
    mine = [event for event in jobs if shard is None or shard in (event.shards or ())]
    if not mine:
        raise NotFoundError(
            f"no job of {name} computes shard {shard}, which was complete before. Choose another."
        )
    job = mine[-1].job
    # The logs lie in the folder of the first evaluation or of the sweep. The run may have been
    # moved or copied.
    own = Path(job.logs).parent.name
    if not is_name(own):
        raise NotFoundError(f"{run.name}: job {job.job_id} has no log here. Choose another.")
    # Those of a whole group are beside the runs.
    home = run.path if Path(job.logs).parent.parent.name == GROUPS else work.folder.parent / own
    there = job_logs.moved(home / "logs", job.logs)
    return Log(replace(job, logs=str(there)), rank if shard is None else 0, evaluation=name)


def _is_over(run: RunFolder, job: JobRef) -> bool:
    """Whether a job of a run has trained to its end, or was cancelled, and writes nothing more into
    its folder."""
    last = run.ledger.history().last
    if last is None or last.job_id != job.job_id or last.cause not in _FOR_GOOD:
        return False
    try:
        return newest(run.leases)[1] is None
    except OSError:
        return False


def cut(file: Path, restart: int) -> Part:
    """What start number ``restart`` of a job has written into a log, to which later starts append.

    Raises:
        OSError: the file cannot be read.
    """
    marks = _marks(file)
    if marks is None:
        return Part(file, whole="it is too large to be searched for the beginning of an attempt")
    here = [place for number, place in marks if number == restart]
    if here:
        first = 0 if not any(number < restart for number, _ in marks) else here[0]
        later = [place for number, place in marks if number > restart and place > here[0]]
        return Part(file, first, min(later, default=None))
    if restart == 0 and marks:
        return Part(file, 0, marks[0][1])
    return Part(file, whole="nothing in it says where attempts begin: it may hold several")


def _marks(file: Path) -> list[tuple[int, int]] | None:
    """The number of each start, and where its mark is; None if the file is too large to be
    searched."""
    with opened(file) as stream:
        if os.fstat(stream.fileno()).st_size > _SEARCHED_BYTES:
            return None
        content = stream.read(_SEARCHED_BYTES)
    return [(int(match["restart"]), match.start()) for match in MARK.finditer(content)]


def merged(
    parts: Sequence[tuple[int, Part]], latest: dict[Path, float] | None = None
) -> Iterator[tuple[int, bytes]]:
    """The lines of several ranks in the order of their times; a line without one follows the line
    above it.

    Where no line has a time, one file follows another.

    Args:
        latest: of each file, the latest time above its part, if there is any; those of the parts
            are added.

    Raises:
        OSError
    """
    times = {} if latest is None else latest
    streams = [_timed(order, rank, part, times) for order, (rank, part) in enumerate(parts)]
    for _, _, rank, line in heapq.merge(*streams, key=lambda it: it[:2]):
        yield rank, line


def _timed(
    order: int, rank: int, part: Part, times: dict[Path, float]
) -> Iterator[tuple[float, int, int, bytes]]:
    latest = times.get(part.file, 0.0)
    for line in part.all_lines():
        # A clock that was set back does not move a line up in its own file.
        times[part.file] = latest = max(latest, time_of(line) or 0.0)
        if not part.is_repeated(line):
            yield latest, order, rank, line


def time_of(line: bytes) -> float | None:
    """The time that a line of a log begins with, seconds since 1970; None without one."""
    head = line[:_WITHIN].decode(errors="replace")
    if match := _ISO.search(head):
        when = match[0]
    elif match := _GLOG.search(head):
        when = f"{time.localtime().tm_year}-{match[1]}-{match[2]}T{match[3]}"
    else:
        return None
    try:
        return datetime.fromisoformat(when).timestamp()
    except (ValueError, OverflowError):
        return None


class Tail:
    """What is new in logs: at first their ends, then what was appended.

    Args:
        lines: of each file, at most so many at first; None for all.
        say: told what is left out.
    """

    def __init__(self, lines: int | None, say: Callable[[str], object] = lambda text: None) -> None:
        self._lines, self._say = lines, say
        # How far each file was read, bytes.
        self._read: dict[Path, int] = {}

    def new_parts(self, log: Log) -> list[Part]:
        """What was not read yet.

        Raises:
            OSError: a file cannot be read.
        """
        files = log.files()
        # Where a start begins is looked for once; what follows a part that grows is new, or of a
        # later start.
        if not self._read.keys() >= set(files):
            return [self._new(part) for part in log.parts()]
        return [self._new(Part(file)) for file in files] if log.is_newest else []

    def _new(self, part: Part) -> Part:
        size = os.stat(part.file).st_size
        part = replace(part, end=size if part.end is None else min(size, part.end))
        begin = self._read[part.file] if part.file in self._read else self._first(part)
        self._read[part.file] = end = max(begin, part.end or 0)
        return Part(part.file, begin, end)

    def _first(self, part: Part) -> int:
        if part.whole is not None:
            self._say(f"{part.file}: shown whole: {part.whole}")
        begin = part.begin if self._lines is None else part.last(self._lines).begin
        shown = max(begin, (part.end or 0) - MOST_BYTES)
        if shown > begin:
            self._say(f"the first {shown - begin:,} bytes of {part.file} are not shown")
        return shown


class Lines:
    """The lines of logs, and then again those that are new in them.

    Args:
        find: the log of one rank, or of several, which may become more.
        merge: their lines are one stream, each with the number of its rank.
        tail: of each file, at most so many lines of what is there at first; None for all.
        say: told what is left out.
    """

    def __init__(
        self,
        find: Callable[[], Sequence[Log]],
        *,
        merge: bool,
        tail: int | None,
        say: Callable[[str], object],
    ) -> None:
        self._find, self._merge, self._tail = find, merge, Tail(tail, say)
        # Of each file, the latest time of a line so far: the lines below it that have none belong
        # there.
        self._latest: dict[Path, float] = {}

    def new(self) -> Iterator[tuple[bytes, bool]]:
        """What was not read yet, and whether each line is from a log of errors.

        Raises:
            OSError: a log cannot be read.
        """
        parts = [(log.rank, part) for log in self._find() for part in self._tail.new_parts(log)]
        if not self._merge:
            yield from ((line, part.is_errors) for _, part in parts for line in part.lines())
            return
        for _, part in parts:
            if part.file not in self._latest:
                above = Part(part.file, max(part.begin - MOST_BYTES, 0), part.begin)
                self._latest[part.file] = max(
                    (time_of(line) or 0.0 for line in above.all_lines()), default=0.0
                )
        for rank, line in merged(parts, self._latest):
            yield f"{rank}| ".encode() + line.removesuffix(b"\n") + b"\n", False


# --- who failed first


@dataclass(frozen=True)
class FirstFailure:
    """The rank that failed first in an attempt.

    Attributes:
        rank: None if nobody knows which it was.
        reason: what it died of, one line.
        time: when it failed, seconds since 1970; None if only the order of messages is known.
        lines: its last words, without control characters.
        file: the log that they are in.
    """

    attempt: int
    rank: int | None
    host: str | None
    reason: str | None
    time: float | None
    lines: tuple[str, ...] = ()
    file: Path | None = None

    def __str__(self) -> str:
        """Which rank failed first, in which attempt and where."""
        if self.rank is None:
            return f"attempt {self.attempt}; the first rank to fail is unknown"
        return (
            f"rank {self.rank}{f' on {self.host}' if self.host else ''} failed first in "
            f"attempt "
            f"{self.attempt}"
        )


def has_failed(attempt: Attempt) -> bool:
    """Whether a rank failed, rather than lost its node, or saved and ended when told to."""
    was_told = attempt.detail in ("SIGTERM", "SIGUSR2")
    return fate_of(attempt.cause) == "crashes" and attempt.cause != "node_failure" and not was_told


def last_failed(history: History) -> Attempt | None:
    """The newest attempt in which a rank failed."""
    return next((it for it in reversed(history.attempts) if has_failed(it)), None)


def dead_rank(run: RunFolder, history: History) -> str | None:
    """The rank that ended badly in an attempt without a recorded end, as its launcher says."""
    last = history.last
    if last is None or last.cause is not None:
        return None
    found = _by_launcher(history, last, lambda rank: _printed(run, last, rank))
    return None if found is None else f"rank {found[0]} on {found[1]} ended ({found[2]})"


def failed_log(run: RunFolder, attempt: int | None) -> tuple[Log, str]:
    """The log of the rank that failed first in an attempt, by default the last one that failed, and
    a line about it.

    Raises:
        NotFoundError: no attempt failed, or there is no such one, or it did not fail.
    """
    history = run.ledger.history()
    chosen = last_failed(history)
    if attempt is not None:
        of_training(run, attempt, 0)
        chosen = next(it for it in history.attempts if it.attempt == attempt)
        if not has_failed(chosen):
            how = f"it ended as {chosen.cause}" if chosen.cause else "nobody has recorded its end"
            raise NotFoundError(
                f"{run.name}: attempt {attempt} did not fail ({how}). Leave out --failed."
            )
    if chosen is None:
        raise NotFoundError(
            f"no attempt of {run.name} has failed. `cldctl why {run.name}` says what happened."
        )
    first = first_failure(run, history, chosen)
    return of_training(
        run, chosen.attempt, first.rank or 0
    ), f"{first}{': rank 0' if first.rank is None else ''}"


def first_failure(run: RunFolder, history: History, attempt: Attempt) -> FirstFailure:
    """Who failed first, by what the ranks have noted, else by what the launcher and the ranks have
    printed."""

    printed = functools.cache(functools.partial(_printed, run, attempt))
    noted = _noted(history, attempt)
    if noted is not None:
        found = noted.rank, noted.host, noted.reason, noted.time
    else:
        # Of one rank alone, nobody has to say that it was the first.
        alone = (0, attempt.host) if attempt.ranks == 1 else (None, None)
        known = _by_launcher(history, attempt, printed) or _by_logs(run, attempt, printed)
        found = known or (*alone, attempt.detail, attempt.ended)
    return FirstFailure(attempt.attempt, *found, *_last_words(printed(found[0] or 0)))


def _printed(run: RunFolder, attempt: Attempt, rank: int) -> list[tuple[Part, list[str]]]:
    """The last lines that a rank printed in an attempt, by part of its logs."""
    with contextlib.suppress(NotFoundError, OSError):
        return [(part, _tail(part)) for part in of_training(run, attempt.attempt, rank).parts()]
    return []


def _noted(history: History, attempt: Attempt) -> Failed | None:
    """What the rank that failed first has noted.

    Of what the peers of a rank that was killed have noted, nothing says who that was.
    """
    start = attempt.job_id, attempt.restart
    told = (
        it
        for it in history.failures
        if it.kind == "rank" and it.start == start and not is_secondary(it.reason)
    )
    return min(told, key=lambda it: it.time, default=None)


def with_culprits(history: History) -> History:
    """Details of attempts that blame another rank, replaced by what that one has noted, if it
    has."""

    def told(attempt: Attempt) -> Attempt:
        if not is_secondary(attempt.detail or "") or (first := _noted(history, attempt)) is None:
            return attempt
        return replace(attempt, detail=f"rank {first.rank} on {first.host}: {first.reason}")

    attempts = list(map(told, history.attempts))
    return history if attempts == history.attempts else replace(history, attempts=attempts)


def _last_words(printed: Sequence[tuple[Part, list[str]]]) -> tuple[tuple[str, ...], Path | None]:
    """The last lines of a rank that say what went wrong, and the file that they are in.

    Those of its errors, up to the error itself: what its launcher and its watchers wrote afterwards
    says less.
    """
    said = [
        (part, [line for line in lines if not line.startswith("submitit ")])
        for part, lines in reversed(printed)
    ]
    for part, lines in said:
        if places := [place for place, line in enumerate(lines) if _ERROR.match(line)]:
            return tuple(lines[max(0, places[-1] + 1 - _LAST_LINES) : places[-1] + 1]), part.file
    return next(
        ((tuple(lines[-_LAST_LINES:]), part.file) for part, lines in said if lines), ((), None)
    )


def _by_launcher(history: History, attempt: Attempt, printed: _Printed) -> _Culprit | None:
    """The task that the launcher saw end badly first."""
    name = next(
        (it.job.cluster for it in history.submitted if it.job.job_id == attempt.job_id), None
    )
    if name not in clusters.CLUSTERS:
        return None
    for part, lines in printed(0):
        if part.is_errors and (ended := clusters.find(name).ended_tasks("\n".join(lines))):
            return ended[0].rank, ended[0].node, ended[0].how, None
    return None


def _by_logs(run: RunFolder, attempt: Attempt, printed: _Printed) -> _Culprit | None:
    """The rank whose own error, not that of a peer, was printed first."""
    ranks: list[int] = []
    with contextlib.suppress(NotFoundError, OSError):
        ranks = [log.rank for log in of_training(run, attempt.attempt, 0).all_ranks()]
    found = []
    for rank in ranks:
        for part, lines in printed(rank):
            errors = [line for line in lines if _ERROR.match(line)]
            if part.is_errors and errors and not is_secondary(errors[-1]):
                found.append((_ended(part, lines), rank, errors[-1]))
    if not found:
        return None
    time, rank, reason = min(found)
    return rank, None, reason, time


def _ended(part: Part, lines: Sequence[str]) -> float:
    """When a rank wrote its last line, seconds since 1970."""
    if part.end is None:
        with contextlib.suppress(OSError):
            return os.stat(part.file).st_mtime
    return max((time_of(line.encode()) or 0.0 for line in lines), default=0.0)


def _tail(part: Part) -> list[str]:
    """The last lines of a part, without blank ones and marks."""
    with contextlib.suppress(OSError):
        found = (
            line[: 8 * _MOST].decode(errors="replace") for line in part.last(_LOOKED_AT).lines()
        )
        lines = [printable(line, keep="\t").rstrip()[:_MOST] for line in found]
        return [line for line in lines if line and not line.startswith("--- start ")]
    return []
