"""The log of one rank, read on from where the last look ended. Asks no scheduler."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cld_core.texts import printable
from cldctl.runs.log_parts import Part
from cldctl.runs.logs import Log

# Lines and bytes of each file that are shown at first, and characters of a line.
FIRST_LINES, _FIRST_BYTES, _LINE = 2000, 2**20, 2000
# Bytes of a file that are read in one look: a flood is shown in pieces.
_LOOK_BYTES = 2**20


@dataclass
class Tail:
    """What ``log`` has, and what is appended to it.

    Attributes:
        shown: how far each file was shown, bytes.
    """

    log: Log
    shown: dict[Path, int] = field(default_factory=dict)
    _rest: dict[Path, bytes] = field(default_factory=dict)

    def new_lines(self) -> list[tuple[str, bool]]:
        """What was not shown yet: lines without control characters, each with whether it is from the log of errors.

        Raises:
            OSError: a file cannot be read.
        """
        if self.shown and not self.log.is_newest:
            return []  # What is appended now belongs to a later start.
        return [line for part in self._new_parts() for line in self._lines(part)]

    def _new_parts(self) -> list[Part]:
        new = []
        files = self.log.files()
        # Where a start begins is looked for once.
        parts = [Part(file) for file in files] if self.shown.keys() >= set(files) else self.log.parts()
        for part in parts:
            size = os.stat(part.file).st_size
            end = size if part.end is None else min(size, part.end)
            before = self.shown.get(part.file)
            if before is None:
                last = replace(part, end=end).last(FIRST_LINES)
                begin = max(last.begin, end - _FIRST_BYTES)
            else:
                begin = before
                end = max(begin, min(size, begin + _LOOK_BYTES))
            self.shown[part.file] = end
            new.append(Part(part.file, begin, end))
        return new

    def _lines(self, part: Part) -> Iterator[tuple[str, bool]]:
        if part.begin == part.end and (rest := self._rest.pop(part.file, b"")):
            # Nobody ends the line: it is the last one, for now.
            yield _shown(rest), part.is_errors
        for line in part.lines():
            whole = self._rest.pop(part.file, b"") + line
            if whole.endswith(b"\n") or len(whole) >= _LINE:
                yield _shown(whole), part.is_errors
            else:
                # The end of the line is yet to be written.
                self._rest[part.file] = whole


def _shown(line: bytes) -> str:
    # Of a bar that was drawn again and again, the last state is what a terminal would show.
    text = line.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2]
    return printable(text, keep="\t").expandtabs(8)[:_LINE]
