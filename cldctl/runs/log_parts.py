"""The part of a log that belongs to one start of a job, its last lines, and the logs of many ranks as one."""

import heapq
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cld_core.small_files import opened
from cldctl.jobs.marks import MARK

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
