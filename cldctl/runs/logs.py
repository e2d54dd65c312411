"""The logs of the processes of a run, and the rank of an attempt that failed first."""

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
from cld_core.run.events import JobRef, TurnedAway, fate_of
from cld_core.run.folder import is_name
from cld_core.run.groups import GROUPS
from cld_core.run.history import Attempt, History
from cld_core.run.lease import newest
from cld_core.sanitize import printable
from cldctl import clusters
from cldctl.clusters import job_logs
from cldctl.jobs import failures
from cldctl.jobs.process import MARK

from . import survey
from .survey import started_works

# Causes after which a job does not start again.
_FOR_GOOD = ("finished", "cancelled")
_LOG = re.compile(r".+_(?P<rank>[0-9]{1,9})_log\.(?:out|err)")
# Bytes of the end of a part that are shown; a sparse file may be larger than the disk.
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
# Lines at the end of a log among which the error of the rank that failed first is searched.
_SEARCHED_LINES = 400
# Lines, and characters of each, that are shown of it.
_LAST_LINES = 10
_LINE_WIDTH = 300
# An error of Python or of ours at the beginning of a line, or after the number of its rank.
_ERROR = re.compile(
    r"^(?:\[?rank ?\d+\]?: ?)?(?:[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)\b.*|error: .*)$"
)


@dataclass(frozen=True)
class LogRange:
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
        """The lines with their line breaks, in pieces of at most a megabyte.

        Raises:
            OSError
        """
        with opened(self.file) as stream:
            stream.seek(self.begin)
            left = (self.end if self.end is not None else 2**62) - self.begin
            while left > 0 and (line := stream.readline(min(_LINE_BYTES, left))):
                left -= len(line)
                yield line

    def is_repeated(self, line: bytes) -> bool:
        """Whether a line of a log of errors is the mark of a start, which the output has, too."""
        return self.is_errors and line.startswith(b"--- start ") and MARK.match(line) is not None

    def last(self, lines: int) -> "LogRange":
        """The part that holds the last ``lines`` lines.

        Raises:
            OSError
        """
        with opened(self.file) as stream:
            end = os.fstat(stream.fileno()).st_size
            if self.end is not None:
                end = min(end, self.end)
            start = end
            length = _BLOCK
            while start > self.begin and length <= MOST_BYTES:
                start = max(self.begin, end - length)
                stream.seek(start)
                # The line break at the very end finishes the last line and begins none.
                before, *found = stream.read(end - start)[:-1].rsplit(b"\n", lines)
                if len(found) == lines:
                    return replace(self, begin=start + len(before) + 1)
                length *= 8
            return replace(self, begin=max(self.begin, end - MOST_BYTES))


# By rank, the last lines that it printed, by part of its logs.
_Printed = Callable[[int], Sequence[tuple[LogRange, list[str]]]]


@dataclass(frozen=True)
class Log:
    """The output of one rank of a job.

    Attributes:
        note: a message about the job, for those who read its log.
        restart: the number of the start whose output this is; None for all of them.
        is_newest: no later start appends to the same log.
        attempt: the attempt whose output this is; None for the whole job.
        evaluation: the evaluation or tuning that the job computes; None if it trains.
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

    def parts(self) -> list[LogRange]:
        """The output and the errors of the start.

        Raises:
            OSError: a file cannot be read.
        """
        return [
            LogRange(file) if self.restart is None else cut(file, self.restart)
            for file in self.files()
        ]

    def missing(self, run: RunFolder) -> NotFoundError:
        """The error if there are no `files`; names the ranks that have some."""
        ranks = self.ranks()
        if ranks:
            why = f"There {'is rank' if len(ranks) == 1 else 'are ranks'} {', '.join(ranks)}"
        elif self.is_growing():
            why = "The job has not begun; try -f"
        else:
            why = "It ended without output, or printed to the terminal (--cluster debug)"
        return NotFoundError(
            f"{run.name}: no log of rank {self.rank} of job {self.job.job_id} "
            f"in {self.job.logs}. {why}."
        )

    def all_ranks(self) -> list["Log"]:
        """The logs of every rank of the job, in their order."""
        logs = (replace(self, rank=int(rank)) for rank in self.ranks())
        return [log for log in logs if log.files()]

    def ranks(self) -> list[str]:
        """The ranks whose logs are in the same folder."""
        names = (file.name for file in Path(self.job.logs).glob("*_log.*"))
        return sorted({match["rank"] for name in names if (match := _LOG.fullmatch(name))}, key=int)

    def is_growing(self) -> bool:
        """Whether the job may still be alive and append to this log."""
        if not self.is_newest or (self.run is not None and _is_over(self.run, self.job)):
            return False
        return not survey.ask([self.job], max_age_s=survey.TO_LOOK_S).of(self.job).is_gone


def find_log(
    run: RunFolder,
    *,
    attempt: int | None = None,
    evaluation: str | None = None,
    shard: int | None = None,
    rank: int | None = None,
) -> Log:
    """The log of a rank, 0 by default, of an evaluation, an attempt or the newest job.

    Raises:
        NotFoundError: there is no such evaluation, shard or attempt, there is no job of it, or
            another launcher started the attempt.
        UsageError: several ids of evaluations begin with ``evaluation``.
    """
    if evaluation is None:
        return of_training(run, attempt, rank or 0)
    return of_evaluation(run, evaluation, shard, rank or 0)


def of_training(run: RunFolder, attempt: int | None, rank: int) -> Log:
    """The log of an attempt, or of the newest job that was not turned away.

    Raises:
        NotFoundError: there is no such attempt, no job at all, or another launcher started the
            attempt.
    """
    history = run.ledger.history()
    jobs = {event.job.job_id: event.job for event in history.submitted}
    entry = _attempt(history, attempt)
    if entry is not None:
        job_id = str(entry.job_id)
        job = jobs.get(job_id) or JobRef(cluster=clusters.default().name, job_id=job_id)
    elif attempt is not None:
        existing = ", ".join(str(other.attempt) for other in history.attempts) or "none"
        raise NotFoundError(f"{run.name} has no attempt {attempt}. It has: {existing}.")
    elif jobs:
        job = (history.jobs or history.submitted)[-1].job
    elif history.by_other_launcher:
        raise NotFoundError(f"{run.name}: {_ELSEWHERE}")
    else:
        raise NotFoundError(
            f"{run.name} was never submitted, so it has no log. Try `cldctl resume {run.name}`."
        )
    event = history.last_of.get(job.job_id)
    note = None
    if isinstance(event, TurnedAway):
        note = f"job {job.job_id} did not train: {event.reason}"
    elif attempt is None and history.by_other_launcher:
        note = f"the newest attempt: {_ELSEWHERE}"
    log = Log(
        job=replace(job, logs=str(job_logs.moved(run.logs, job.logs))),
        rank=rank,
        note=note,
        restart=None if entry is None else entry.restart,
        is_newest=entry in (None, history.last),
        run=run,
        attempt=attempt,
    )
    # The line of its submission may be damaged.
    if job.job_id not in jobs and not (is_name(job.job_id) and log.files()):
        raise NotFoundError(f"{run.name}, attempt {attempt}: {_ELSEWHERE}")
    return log


def _attempt(history: History, number: int | None) -> Attempt | None:
    return next((attempt for attempt in history.attempts if attempt.attempt == number), None)


def of_evaluation(run: RunFolder, name: str, shard: int | None, rank: int) -> Log:
    """The log of the newest job of an evaluation or tuning, or of the newest job of a shard of it.

    Args:
        name: its id, or a prefix of the id that no other started evaluation shares.

    Raises:
        NotFoundError: there is no such evaluation or shard, or no job of it.
        UsageError: several ids have this prefix.
    """
    work = started_works(run, name)[0]
    last = work.request.shards - 1
    if shard is not None and not 0 <= shard <= last:
        raise NotFoundError(f"{work.name} has no shard {shard}. It has: 0 to {last}.")
    jobs = [
        event.job
        for event in work.ledger.history().jobs
        if shard is None or shard in (event.shards or ())
    ]
    if not jobs:
        raise NotFoundError(
            f"no job of {work.name} computes shard {shard}, which was complete before. "
            f"Choose another."
        )
    job = jobs[-1]
    # The logs are in the folder of the first evaluation or of the sweep. The run may have been
    # moved or copied since.
    parent = Path(job.logs).parent
    if not is_name(parent.name):
        raise NotFoundError(f"{run.name}: job {job.job_id} has no log here. Choose another.")
    # Those of a whole group are beside the runs.
    home = run.path if parent.parent.name == GROUPS else work.folder.parent / parent.name
    logs = job_logs.moved(home / "logs", job.logs)
    return Log(replace(job, logs=str(logs)), rank if shard is None else 0, evaluation=work.name)


def _is_over(run: RunFolder, job: JobRef) -> bool:
    """Whether a job finished its training or was cancelled, and writes nothing more."""
    last = run.ledger.history().last
    if last is None or last.job_id != job.job_id or last.cause not in _FOR_GOOD:
        return False
    try:
        return newest(run.leases)[1] is None
    except OSError:
        return False


def cut(file: Path, restart: int) -> LogRange:
    """What start number ``restart`` of a job has written into a log, to which later starts append.

    Raises:
        OSError: the file cannot be read.
    """
    marks = _marks(file)
    if marks is None:
        return LogRange(
            file, whole="it is too large to be searched for the beginning of an attempt"
        )
    here = [place for number, place in marks if number == restart]
    if here:
        first = 0 if not any(number < restart for number, _ in marks) else here[0]
        later = [place for number, place in marks if number > restart and place > here[0]]
        return LogRange(file, first, min(later, default=None))
    if restart == 0 and marks:
        return LogRange(file, 0, marks[0][1])
    return LogRange(file, whole="nothing in it says where attempts begin: it may hold several")


def _marks(file: Path) -> list[tuple[int, int]] | None:
    """The number of each start and the place of its mark; None if the file is too large."""
    with opened(file) as stream:
        if os.fstat(stream.fileno()).st_size > _SEARCHED_BYTES:
            return None
        content = stream.read(_SEARCHED_BYTES)
    return [(int(match["restart"]), match.start()) for match in MARK.finditer(content)]


def merged(
    parts: Sequence[tuple[int, LogRange]], latest: dict[Path, float]
) -> Iterator[tuple[int, bytes]]:
    """The lines of several ranks in the order of their times.

    A line without a time follows the line above it. Where no line has a time, one file follows
    another.

    Args:
        latest: by file, the latest time above its part, if there is any. It is updated with the
            times of the parts.

    Raises:
        OSError
    """

    def timed(order: int, rank: int, part: LogRange) -> Iterator[tuple[float, int, int, bytes]]:
        for line in part.lines():
            # A clock that was set back does not move a line up in its own file.
            latest[part.file] = max(latest.get(part.file, 0.0), time_of(line) or 0.0)
            if not part.is_repeated(line):
                yield latest[part.file], order, rank, line

    streams = [timed(order, *part) for order, part in enumerate(parts)]
    for _, _, rank, line in heapq.merge(*streams, key=lambda entry: entry[:2]):
        yield rank, line


def time_of(line: bytes) -> float | None:
    """The time that a line of a log begins with, seconds since 1970; None without one."""
    head = line[:_WITHIN].decode(errors="replace")
    if match := _ISO.search(head):
        text = match[0]
    elif match := _GLOG.search(head):
        text = f"{time.localtime().tm_year}-{match[1]}-{match[2]}T{match[3]}"
    else:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


class LogReader:
    """The lines of a log, and at each further call those that were appended.

    Args:
        all_ranks: make one stream of the lines of all ranks, each with the number of its rank.
        tail: the most lines of each file at first; None for all.
        notify: called with messages about what is left out.
    """

    def __init__(
        self,
        log: Log,
        *,
        all_ranks: bool = False,
        tail: int | None = None,
        notify: Callable[[str], object] = lambda text: None,
    ) -> None:
        self._log = log
        self._all_ranks = all_ranks
        self._tail = tail
        self._notify = notify
        # By file, how far it was read, bytes.
        self._read: dict[Path, int] = {}
        # By file, the latest time of a line so far, which lines without a time take.
        self._latest: dict[Path, float] = {}

    def new_lines(self) -> Iterator[tuple[bytes, bool]]:
        """The lines that were not read yet, and whether each is from a log of errors.

        Raises:
            OSError: a log cannot be read.
        """
        # There may be more ranks than before.
        logs = self._log.all_ranks() if self._all_ranks else [self._log]
        parts = [(log.rank, part) for log in logs for part in self._new_parts(log)]
        if self._all_ranks:
            for rank, line in merged(parts, self._latest):
                yield f"{rank}| ".encode() + line.removesuffix(b"\n") + b"\n", False
            return
        for _, part in parts:
            for line in part.lines():
                if not part.is_repeated(line):
                    yield line, part.is_errors

    def _new_parts(self, log: Log) -> list[LogRange]:
        files = log.files()
        # The beginning of a start is searched once. What follows a part that grows is new, or of a
        # later start.
        if not self._read.keys() >= set(files):
            return [self._new_part(part) for part in log.parts()]
        return [self._new_part(LogRange(file)) for file in files] if log.is_newest else []

    def _new_part(self, part: LogRange) -> LogRange:
        end = os.stat(part.file).st_size
        if part.end is not None:
            end = min(end, part.end)
        begin = self._read.get(part.file)
        if begin is None:
            begin = self._first(replace(part, end=end))
        self._read[part.file] = max(begin, end)
        return LogRange(part.file, begin, self._read[part.file])

    def _first(self, part: LogRange) -> int:
        """Where the first lines to be shown begin."""
        if part.whole is not None:
            self._notify(f"{part.file}: shown whole: {part.whole}")
        begin = part.begin if self._tail is None else part.last(self._tail).begin
        begin_shown = max(begin, (part.end or 0) - MOST_BYTES)
        if begin_shown > begin:
            self._notify(f"the first {begin_shown - begin:,} bytes of {part.file} are not shown")
        if self._all_ranks:
            above = LogRange(part.file, max(begin_shown - MOST_BYTES, 0), begin_shown)
            times = (time_of(line) or 0.0 for line in above.lines())
            self._latest[part.file] = max(times, default=0.0)
        return begin_shown


# --- the rank that failed first


@dataclass(frozen=True)
class FirstFailure:
    """The rank that failed first in an attempt.

    Attributes:
        rank: None if it is unknown.
        reason: what it died of, one line.
        time: when it failed, seconds since 1970; None if only the order of messages is known.
        lines: the last lines that it printed, without control characters.
        file: the log that they are in.
    """

    attempt: int
    rank: int | None = None
    host: str | None = None
    reason: str | None = None
    time: float | None = None
    lines: tuple[str, ...] = ()
    file: Path | None = None

    def __str__(self) -> str:
        """Which rank failed first, in which attempt and where."""
        if self.rank is None:
            return f"attempt {self.attempt}; the first rank to fail is unknown"
        where = f" on {self.host}" if self.host else ""
        return f"rank {self.rank}{where} failed first in attempt {self.attempt}"


def has_failed(attempt: Attempt) -> bool:
    """Whether a rank failed, rather than lost its node, or saved and ended after a signal."""
    was_told = attempt.detail in ("SIGTERM", "SIGUSR2")
    return fate_of(attempt.cause) == "crashes" and attempt.cause != "node_failure" and not was_told


def last_failed(history: History) -> Attempt | None:
    """The newest attempt in which a rank failed."""
    return next((attempt for attempt in reversed(history.attempts) if has_failed(attempt)), None)


def dead_rank(run: RunFolder, history: History) -> str | None:
    """The rank that ended badly in an attempt without a recorded end, as its launcher says."""
    last = history.last
    if last is None or last.cause is not None:
        return None
    failure = _by_launcher(history, last, lambda rank: _printed(run, last, rank))
    if failure is None:
        return None
    return f"rank {failure.rank} on {failure.host} ended ({failure.reason})"


def failed_log(run: RunFolder, number: int | None) -> tuple[Log, str]:
    """The log of the rank that failed first in an attempt, and a line about it.

    Args:
        number: the number of the attempt; None for the last attempt that failed.

    Raises:
        NotFoundError: no attempt failed, there is no such attempt, or it did not fail.
    """
    history = run.ledger.history()
    attempt = last_failed(history)
    if number is not None:
        of_training(run, number, 0)
        attempt = _attempt(history, number)
    if attempt is None:
        raise NotFoundError(
            f"no attempt of {run.name} has failed. `cldctl why {run.name}` says what happened."
        )
    if not has_failed(attempt):
        how = f"it ended as {attempt.cause}" if attempt.cause else "its end is not recorded"
        raise NotFoundError(
            f"{run.name}: attempt {number} did not fail ({how}). Leave out --failed."
        )
    failure = first_failure(run, history, attempt)
    if failure.rank is None:
        return of_training(run, attempt.attempt, 0), f"{failure}: rank 0"
    return of_training(run, attempt.attempt, failure.rank), str(failure)


def first_failure(run: RunFolder, history: History, attempt: Attempt) -> FirstFailure:
    """The rank that failed first: as the ranks noted, else as launcher and ranks printed."""
    printed = functools.cache(functools.partial(_printed, run, attempt))
    noted = failures.noted_first(history, attempt)
    failure: FirstFailure | None = None
    if noted is not None:
        failure = FirstFailure(attempt.attempt, noted.rank, noted.host, noted.reason, noted.time)
    failure = failure or _by_launcher(history, attempt, printed) or _by_logs(run, attempt, printed)
    if failure is None:
        failure = FirstFailure(attempt.attempt, reason=attempt.detail, time=attempt.ended)
        if attempt.ranks == 1:
            failure = replace(failure, rank=0, host=attempt.host)
    lines, file = _last_words(printed(failure.rank or 0))
    return replace(failure, lines=lines, file=file)


def _printed(run: RunFolder, attempt: Attempt, rank: int) -> list[tuple[LogRange, list[str]]]:
    """The last lines that a rank printed in an attempt, by part of its logs."""
    printed = []
    with contextlib.suppress(NotFoundError, OSError):
        for part in of_training(run, attempt.attempt, rank).parts():
            printed.append((part, _tail(part)))
    return printed


def _last_words(
    printed: Sequence[tuple[LogRange, list[str]]],
) -> tuple[tuple[str, ...], Path | None]:
    """The last lines of a rank up to its error, and the file that they are in.

    The lines below the error are those of its launcher and its watchers, which say less.
    """
    last_lines: tuple[str, ...] = ()
    file = None
    for part, every_line in reversed(printed):
        lines = [line for line in every_line if not line.startswith("submitit ")]
        if errors := [place for place, line in enumerate(lines) if _ERROR.match(line)]:
            return tuple(lines[: errors[-1] + 1][-_LAST_LINES:]), part.file
        if lines and file is None:
            last_lines = tuple(lines[-_LAST_LINES:])
            file = part.file
    return last_lines, file


def _by_launcher(history: History, attempt: Attempt, printed: _Printed) -> FirstFailure | None:
    """The task that the launcher saw end badly first."""
    names = {event.job.job_id: event.job.cluster for event in history.submitted}
    name = names.get(attempt.job_id or "")
    if name not in clusters.CLUSTERS:
        return None
    for part, lines in printed(0):
        if part.is_errors and (ended := clusters.find(name).ended_tasks("\n".join(lines))):
            return FirstFailure(attempt.attempt, ended[0].rank, ended[0].node, ended[0].how)
    return None


def _by_logs(run: RunFolder, attempt: Attempt, printed: _Printed) -> FirstFailure | None:
    """The rank whose own error, not that of a peer, was printed first."""
    ranks: list[int] = []
    with contextlib.suppress(NotFoundError, OSError):
        ranks = [log.rank for log in of_training(run, attempt.attempt, 0).all_ranks()]
    first_errors = []
    for rank in ranks:
        for part, lines in printed(rank):
            errors = [line for line in lines if _ERROR.match(line)]
            if part.is_errors and errors and not failures.is_secondary(errors[-1]):
                first_errors.append((_ended(part, lines), rank, errors[-1]))
    if not first_errors:
        return None
    time, rank, reason = min(first_errors)
    return FirstFailure(attempt.attempt, rank, None, reason, time)


def _ended(part: LogRange, lines: Sequence[str]) -> float:
    """When a rank wrote its last line, seconds since 1970."""
    if part.end is None:
        with contextlib.suppress(OSError):
            return os.stat(part.file).st_mtime
    return max((time_of(line.encode()) or 0.0 for line in lines), default=0.0)


def _tail(part: LogRange) -> list[str]:
    """The last lines of a part, without blank ones and marks.

    Raises:
        OSError
    """
    lines = []
    for line in part.last(_SEARCHED_LINES).lines():
        text = line[: 8 * _LINE_WIDTH].decode(errors="replace")
        text = printable(text, keep="\t").rstrip()[:_LINE_WIDTH]
        if text and not text.startswith("--- start "):
            lines.append(text)
    return lines
