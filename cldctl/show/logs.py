"""Showing logs: parts of files, and what is written to them while somebody watches."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import typer

from cld_core.sanitize import printable
from cldctl.runs.logs import MOST_BYTES, Log, Part, latest_time, merged

from .console import err

# Seconds between two looks for new output.
_EVERY_S = 0.3


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
        # Where a start begins is looked for once; what follows a part that grows is new, or of a later start.
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


class Printer:
    """Prints logs, and then again what is new in them.

    Args:
        find: the log of one rank, or of several, which may become more.
        merge: their lines are one stream, each with the number of its rank.
        tail: of each file, at most so many lines of what is there at first; None for all.
    """

    def __init__(self, find: Callable[[], Sequence[Log]], *, merge: bool, tail: int | None) -> None:
        self._find, self._merge = find, merge
        self._tail = Tail(tail, lambda text: err.print(text, style="yellow"))
        # Of each file, the latest time of a line so far: the lines below it that have none belong there.
        self._latest: dict[Path, float] = {}

    def show(self) -> None:
        """Print what was not printed yet.

        Raises:
            OSError: a log cannot be read.
        """
        parts = [(log.rank, part) for log in self._find() for part in self._tail.new_parts(log)]
        if not self._merge:
            for _, part in parts:
                for line in part.lines():
                    _print(line, is_error=part.is_errors)
            return
        for _, part in parts:
            if part.file not in self._latest:
                self._latest[part.file] = latest_time(Part(part.file, max(part.begin - MOST_BYTES, 0), part.begin))
        for rank, line in merged(parts, self._latest):
            _print(f"{rank}| ".encode() + line.removesuffix(b"\n") + b"\n", is_error=False)

    def follow(self, is_growing: Callable[[], bool]) -> None:
        """Print new output until nothing is written any more."""
        while True:
            is_last = not is_growing()
            self.show()
            if is_last:
                return
            time.sleep(_EVERY_S)


def _print(line: bytes, *, is_error: bool) -> None:
    # What a process printed must not steer the terminal of whoever looks at it.
    typer.echo(printable(line.decode(errors="replace"), keep="\n\t\r"), nl=False, file=err.file if is_error else None)
