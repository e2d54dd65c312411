"""Showing logs: parts of files, and what is written to them while somebody watches."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import typer

from cld_core.errors import CldError
from cld_core.texts import printable
from cldctl.runs.logs import MOST_BYTES, Log, Part, latest_time, merged

from .console import err

# Seconds between two looks for new output.
_EVERY_S = 0.3


class Printer:
    """Prints logs, and then again what is new in them.

    Args:
        find: the log of one rank, or of several, which may become more.
        merge: their lines are one stream, each with the number of its rank.
        tail: of each file, at most so many lines of what is there at first; None for all.
    """

    def __init__(self, find: Callable[[], Sequence[Log]], *, merge: bool, tail: int | None) -> None:
        self._find, self._merge, self._tail = find, merge, tail
        # How far each file was shown, bytes.
        self._shown: dict[Path, int] = {}
        # Of each file, the latest time of a line so far: the lines below it that have none belong there.
        self._latest: dict[Path, float] = {}
        self._said: set[str] = set()

    def show(self) -> None:
        """Print what was not printed yet.

        Raises:
            CldError: a log cannot be read.
        """
        logs = list(self._find())
        try:
            self._show([(log.rank, part) for log in logs for part in self._new_parts(log)])
        except OSError as error:
            place = error.filename or next((log.job.logs for log in logs), "")
            raise CldError(f"{place}: the log cannot be read ({error.strerror}). Look at the file itself.") from error

    def _show(self, parts: Sequence[tuple[int, Part]]) -> None:
        if self._merge:
            for rank, line in merged(parts, self._latest):
                ended = line if line.endswith(b"\n") else line + b"\n"
                _print(f"{rank}| ".encode() + ended, is_error=False)
        else:
            for _, part in parts:
                for line in part.lines():
                    _print(line, is_error=part.is_errors)

    def follow(self, is_growing: Callable[[], bool]) -> None:
        """Print new output until nothing is written any more."""
        while True:
            is_last = not is_growing()
            self.show()
            if is_last:
                return
            time.sleep(_EVERY_S)

    def _new_parts(self, log: Log) -> list[Part]:
        new = []
        files = log.files()
        # Where a start begins is looked for once; what follows a part that grows is new.
        known = self._shown.keys() >= set(files)
        for part in map(Part, files) if known else log.parts():
            size = os.stat(part.file).st_size
            end = size if part.end is None else min(size, part.end)
            before = self._shown.get(part.file)
            first = replace(part, end=end)
            cut = self._first(first) if before is None else Part(part.file, before, max(before, end))
            self._shown[part.file] = max(end, cut.begin)
            new.append(cut)
        return new

    def _first(self, part: Part) -> Part:
        """What is shown of a part at first: its end."""
        if part.whole is not None:
            self._say(f"{part.file}: shown whole: {part.whole}")
        if self._tail is not None:
            whole, part = part, part.last(self._tail)
            if self._merge:
                above = max(whole.begin, part.begin - MOST_BYTES)
                self._latest[part.file] = latest_time(replace(whole, begin=above, end=part.begin))
        begin = max(part.begin, (part.end or 0) - MOST_BYTES)
        if begin > part.begin:
            self._say(f"the first {begin - part.begin:,} bytes of {part.file} are not shown")
        return replace(part, begin=begin)

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            err.print(text, style="yellow")


def _print(line: bytes, *, is_error: bool) -> None:
    # What a process printed must not steer the terminal of whoever looks at it.
    typer.echo(printable(line.decode(errors="replace"), keep="\n\t\r"), nl=False, file=err.file if is_error else None)
