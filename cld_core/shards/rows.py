"""Rows as they are kept: in a folder named after what they are, in chunks that everybody cuts alike.

ROWS/000003-000128.npz      128 rows of chunk 3; if a chunk has 128 rows, those of 384 to 511

A row is a function of its index, so it does not matter who computes it, for which work, or how often. A chunk is
written under another name and renamed, which is why two tasks that compute the same one waste work and spoil nothing.
It grows while it is computed: a file with more of its rows takes the place of the one with fewer. The last chunk of
some work may end early, and is continued by work that has more rows.

Listing a folder loads no numpy, because `status` asks.
"""

import contextlib
import hashlib
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cld_core.errors import CldError
from cld_core.files import NO_FILE, read_bytes, write_arrays
from cld_core.sanitize import one_line

if TYPE_CHECKING:
    import numpy as np

Arrays = dict[str, "np.ndarray"]
_FILE = re.compile(r"([0-9]{6,9})-([0-9]{6})\.npz")
# A chunk of features has some megabytes.
_MOST_BYTES = 2**28


class DamagedRowsError(CldError):
    """A chunk is gone, or its file is not what was written."""


@dataclass(frozen=True)
class Rows:
    """Rows of one kind in a folder, ``chunk`` of them in each file."""

    folder: Path
    chunk: int

    def bounds(self, number: int, n: int) -> tuple[int, int]:
        """The rows ``first <= i < last`` of a chunk of work that has n rows."""
        return number * self.chunk, min((number + 1) * self.chunk, n)

    def lengths(self) -> dict[int, int]:
        """How many rows of each chunk are there, by its number, from one look into the folder.

        Raises:
            OSError: it cannot be listed at this moment.
        """
        try:
            names = os.listdir(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        found: dict[int, int] = {}
        for name in names:
            if match := _FILE.fullmatch(name):
                number, length = int(match[1]), int(match[2])
                found[number] = max(length, found.get(number, 0))
        return found

    def file(self, number: int, length: int) -> Path:
        """Where so many rows of a chunk are."""
        return self.folder / f"{number:06d}-{length:06d}.npz"

    def save(self, number: int, arrays: Arrays, before: int = 0) -> None:
        """Keep the first rows of a chunk, arrays (length, ...).

        Args:
            before: how many of these rows are there already; their file is removed.

        Raises:
            OSError: they cannot be written at this moment.
        """
        length = len(next(iter(arrays.values())))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_arrays(self.file(number, length), arrays)
        if 0 < before < length:
            self.remove(number, before)

    def load(self, number: int, length: int) -> tuple[Arrays, str]:
        """The rows of a chunk in the file that has so many, and the SHA-256 of the file.

        Raises:
            DamagedRowsError: it is gone, or not what was written.
            OSError: it cannot be read at this moment.
        """
        import numpy as np

        file = self.file(number, length)
        try:
            content = read_bytes(file, limit=_MOST_BYTES)
        except OSError as error:
            if error.errno in NO_FILE:
                raise DamagedRowsError(f"{file}: {error.strerror}") from error
            raise
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except Exception as error:  # zipfile and numpy raise anything for a damaged file
            raise DamagedRowsError(f"{file}: {one_line(error) or type(error).__name__}") from error
        if not arrays or any(values.shape[:1] != (length,) for values in arrays.values()):
            raise DamagedRowsError(f"{file}: it does not have {length} rows")
        return arrays, hashlib.sha256(content).hexdigest()

    def remove(self, number: int, length: int) -> None:
        """Forget a file. One that cannot be removed stays, and is in nobody's way but that of the disk."""
        with contextlib.suppress(OSError):
            self.file(number, length).unlink()
