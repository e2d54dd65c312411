"""Whether remembered runs are still as their files are: some of them at each look, all of them in turn.

Where the next look begins is remembered beside the index, in a file that may be deleted at any time.
"""

import contextlib
import os
import time
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cld_core.run.atomic import replacing
from cld_core.small_files import read_bytes

from .index_file import Entry
from .side_by_side import SLOW_S, side_by_side

# Inode, size and time of the last change of files by name; None for those that are not there.
Files = Mapping[str, Sequence[int] | None]

# As many runs are compared at least: about five calls of the file system for each.
AT_LEAST = 20
_LONGEST_NAME = 1000


def files_of(folder: Path, names: Iterable[str]) -> dict[str, Sequence[int] | None]:
    """How files in a folder are now."""
    return {name: _file(f"{folder}/{name}") for name in names}


def as_seen(status: os.stat_result) -> list[int]:
    """What is remembered of a file."""
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def _file(path: str) -> list[int] | None:
    try:
        return as_seen(os.lstat(path))
    except OSError:
        return None


class Rotation:
    """Compares the remembered runs of one folder with their files, each look where the one before ended.

    Args:
        root: the folder of the runs.
        index: the file of its index; None if this user has no cache.
    """

    def __init__(self, root: Path, index: Path | None) -> None:
        self._root = root
        self._file = None if index is None else index.with_suffix(".next")
        self._last: str | None = None

    def different(self, entries: Mapping[str, Entry], for_s: float) -> list[str]:
        """Those of the runs that were compared whose files are not as they were.

        Args:
            for_s: go on for so many seconds, or until all were compared. On a slow disk, `AT_LEAST` runs are enough.
        """
        names = sorted(entries)
        begin = bisect_right(names, self._before())
        turn, count, different = names[begin:] + names[:begin], 0, []
        until = time.monotonic() + for_s
        while count < len(turn):
            some, begun = turn[count : count + AT_LEAST], time.monotonic()
            now = side_by_side(lambda name: files_of(self._root / name, entries[name].files), some)
            different += [name for name, files in zip(some, now, strict=True) if files != entries[name].files]
            count += len(some)
            ended = time.monotonic()
            if ended > until or ended - begun > len(some) * SLOW_S:
                break
        if 0 < count < len(turn):
            self._remember(turn[count - 1])
        return different

    def _before(self) -> str:
        """The run that was compared last; empty if nobody knows."""
        if self._last is None and self._file is not None:
            with contextlib.suppress(OSError):
                self._last = read_bytes(self._file, limit=_LONGEST_NAME).decode(errors="surrogateescape")
        return self._last or ""

    def _remember(self, name: str) -> None:
        self._last = name
        if self._file is not None:
            with contextlib.suppress(OSError), replacing(self._file) as stream:
                stream.write(name.encode(errors="surrogateescape"))
