"""Where the output of a process of a run is."""

import heapq
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cld_core.errors import NotFoundError
from cld_core.files import opened
from cld_core.run import RunFolder
from cld_core.run.events import JobRef, TurnedAway
from cld_core.run.folder import is_name
from cld_core.run.groups import GROUPS
from cld_core.run.history import Attempt, History
from cld_core.run.lease import newest
from cldctl import clusters
from cldctl.clusters import job_logs
from cldctl.jobs.process import MARK

from . import survey
from .works import started_work

# Causes after which a job does not start again.
_FOR_GOOD = ("finished", "cancelled")
_LOG = re.compile(r".+_(?P<rank>[0-9]{1,9})_log\.(?:out|err)")
# The end of a part that is shown: nobody reads more, and a file may be larger than the disk.
MOST_BYTES = 64 * 2**20
# Where marks are looked for; larger logs are shown whole.
_SEARCHED_BYTES = 2**30
_LINE_BYTES = 2**20
_BLOCK = 2**16
# Times as Python's logging, submitit, Slurm and our marks write them, and as glog does for torch.
_ISO = re.compile(rb"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)([.,]\d{1,9})?")
_GLOG = re.compile(rb"\b[IWEF](\d\d)(\d\d) (\d\d):(\d\d):(\d\d)(\.\d{1,9})?")
# A time further inside a line is what the line is about.
_WITHIN = 160


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
        """The lines, each with its line break, in pieces of at most a megabyte; without the mark in a log of errors.

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
        """Whether it is the mark of a start, which stands in both logs of a rank: once is enough to read."""
        return self.is_errors and line.startswith(b"--- start ") and MARK.match(line) is not None

    def last(self, lines: int) -> "Part":
        """The part that holds the last ``lines`` lines.

        Raises:
            OSError
        """
        with opened(self.file) as stream:
            size = os.fstat(stream.fileno()).st_size
            end = size if self.end is None else min(size, self.end)
            position, found, begin = end, 0, self.begin
            while position > self.begin and lines > 0:
                length = min(_BLOCK, position - self.begin)
                position -= length
                stream.seek(position)
                block = stream.read(length)
                # The line break at the very end finishes the last line and begins none.
                at = len(block) - (1 if position + length == end and block.endswith(b"\n") else 0)
                while (at := block.rfind(b"\n", 0, at)) >= 0:
                    found += 1
                    if found == lines:
                        return replace(self, begin=position + at + 1)
            return replace(self, begin=end if lines <= 0 else begin)


@dataclass(frozen=True)
class Log:
    """The output of one rank of a job; ``note`` is what has to be known about the job.

    Attributes:
        restart: the start of the job whose output is meant; None for all of them.
        is_newest: no later start appends to the same log.
    """

    job: JobRef
    rank: int
    note: str | None = None
    restart: int | None = None
    is_newest: bool = True
    run: RunFolder | None = None

    def files(self) -> list[Path]:
        """Output and errors; empty before the job has begun."""
        return clusters.find(self.job.cluster).log_files(self.job, self.rank)

    def parts(self) -> list[Part]:
        """What the start that is meant has written: output and errors.

        Raises:
            OSError: a file cannot be read.
        """
        files = self.files()
        if self.restart is None:
            return [Part(file) for file in files]
        return [cut(file, self.restart) for file in files]

    def missing(self, run: RunFolder) -> NotFoundError:
        """The error if there are no `files`; says of which ranks there are some."""
        ranks = self.ranks()
        known = f"There {'is rank' if len(ranks) == 1 else 'are ranks'} {', '.join(ranks)}."
        where = f"rank {self.rank} of job {self.job.job_id} in {self.job.logs}"
        return NotFoundError(f"{run.name}: no log of {where}. {known if ranks else 'The job has not begun; try -f.'}")

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
        NotFoundError: there is no such attempt, or no job at all.
    """
    history = run.ledger.history()
    of_start: dict[str, Any] = {}
    jobs = {event.job.job_id: event.job for event in history.submitted}
    if attempt is None:
        if not jobs:
            raise NotFoundError(f"{run.name} was never submitted, so it has no log. Try `cldctl resume {run.name}`.")
        job = (history.jobs or history.submitted)[-1].job
    else:
        made = {entry.attempt: entry for entry in history.attempts}
        if attempt not in made:
            existing = ", ".join(map(str, made)) or "none"
            raise NotFoundError(f"{run.name} has no attempt {attempt}. It has: {existing}.")
        job_id = str(made[attempt].job_id)
        # An attempt that was started by hand, with torchrun, belongs to no submitted job.
        if job_id not in jobs and not is_name(job_id):
            raise NotFoundError(f"{run.name}: attempt {attempt} names no job, so it has no log here. Choose another.")
        job = jobs.get(job_id) or JobRef(cluster=clusters.default().name, job_id=job_id)
        of_start = _start(history, made[attempt])
    event = history.last_of.get(job.job_id)
    note = f"job {job.job_id} did not train: {event.reason}" if isinstance(event, TurnedAway) else None
    return Log(replace(job, logs=str(job_logs.moved(run.logs, job.logs))), rank, note, run=run, **of_start)


def _start(history: History, attempt: Attempt) -> dict[str, Any]:
    """What a `Log` has to know to show one start of a job."""
    is_newest = history.last is not None and history.last.attempt == attempt.attempt
    return {"restart": attempt.restart, "is_newest": is_newest}


def of_evaluation(run: RunFolder, name: str, shard: int | None, rank: int) -> Log:
    """The log of the newest job of an evaluation or a tuning, or of the newest that computes a shard of it.

    Args:
        name: its id, or the beginning of that if no other evaluation that was started begins so.

    Raises:
        NotFoundError: there is no such evaluation or shard, or no job of it.
        UsageError: several begin like that.
    """
    work = started_work(run, name)
    name, jobs, last = work.name, work.ledger.history().jobs, work.request.shards - 1
    if shard is not None and not 0 <= shard <= last:
        raise NotFoundError(f"{name} has no shard {shard}. It has: 0 to {last}.")
    mine = [event for event in jobs if shard is None or shard in (event.shards or ())]
    if not mine:
        text = f"no job of {name} computes shard {shard}, which was complete before it"
        raise NotFoundError(f"{text}. Choose another shard.")
    job = mine[-1].job
    # The logs lie in the folder of the first evaluation or of the sweep. The run may have been moved or copied.
    own = Path(job.logs).parent.name
    if not is_name(own):
        raise NotFoundError(f"{run.name}: job {job.job_id} has no log here. Choose another.")
    # Those of a whole group are beside the runs.
    home = run.path if Path(job.logs).parent.parent.name == GROUPS else work.folder.parent / own
    there = job_logs.moved(home / "logs", job.logs)
    if shard is None:
        # Of a pool of tasks that share a job, ``rank`` is the process.
        return Log(replace(job, logs=str(there), process=0), rank)
    return Log(replace(job, logs=str(there)), 0)


def _is_over(run: RunFolder, job: JobRef) -> bool:
    """Whether a job of a run has trained to its end, or was cancelled, and writes nothing more into its folder."""
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
    """The number of each start, and where its mark is; None if the file is too large."""
    found, carried, place = [], b"", 0
    with opened(file) as stream:
        if os.fstat(stream.fileno()).st_size > _SEARCHED_BYTES:
            return None
        while block := stream.read(2**20):
            text = carried + block
            # A mark may be cut in two: what follows the last line break is looked at again.
            whole = text.rfind(b"\n") + 1
            found += [(int(match["restart"]), place + match.start()) for match in MARK.finditer(text[:whole])]
            carried, place = text[whole:][-_BLOCK:], place + len(text) - len(text[whole:][-_BLOCK:])
    return found


def merged(parts: Sequence[tuple[int, Part]], latest: dict[Path, float] | None = None) -> Iterator[tuple[int, bytes]]:
    """The lines of several ranks in the order of their times; a line without one follows the line above it.

    Where no line has a time, one file follows another.

    Args:
        latest: of each file, the latest time above its part, if there is any; those of the parts are added.

    Raises:
        OSError
    """
    times = {} if latest is None else latest
    streams = [_timed(order, rank, part, times) for order, (rank, part) in enumerate(parts)]
    for _, _, rank, line in heapq.merge(*streams, key=lambda it: it[:2]):
        yield rank, line


def _timed(order: int, rank: int, part: Part, times: dict[Path, float]) -> Iterator[tuple[float, int, int, bytes]]:
    latest = times.get(part.file, 0.0)
    for line in part.all_lines():
        # A clock that was set back does not move a line up in its own file.
        times[part.file] = latest = max(latest, time_of(line) or 0.0)
        if not part.is_repeated(line):
            yield latest, order, rank, line


def latest_time(part: Part) -> float:
    """The latest time of a line in a part, seconds since 1970; 0 without any.

    Raises:
        OSError
    """
    return max((time_of(line) or 0.0 for line in part.all_lines()), default=0.0)


def time_of(line: bytes) -> float | None:
    """The time that a line of a log begins with, seconds since 1970; None without one."""
    head = line[:_WITHIN]
    if match := _ISO.search(head):
        numbers, fraction = match.groups()[:6], match[7]
    elif match := _GLOG.search(head):
        year = str(time.localtime().tm_year).encode()
        numbers, fraction = (year, *match.groups()[:5]), match[6]
    else:
        return None
    try:
        moment = time.mktime((*map(int, numbers), 0, 0, -1))  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        return None
    return moment + float(b"0." + fraction[1:] if fraction else 0)
