"""Files of numpy arrays (.npz) that anybody may have made: read by numpy, and nothing is unpickled."""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cld_core.files import opened
from cld_core.sanitize import one_line


class DamagedError(ValueError):
    """What is wrong with a file."""


@dataclass(frozen=True)
class Outline:
    """What a member says of itself."""

    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"


class Arrays:
    """The members of an open file, by name without `.npy`."""

    def __init__(self, archive: np.lib.npyio.NpzFile) -> None:
        self._archive = archive
        self.outlines = {name: self._outline(name) for name in archive.files}

    def load(self, name: str) -> np.ndarray:
        """The array of a member, its checksum compared; raises as `arrays` does."""
        with _named():
            array: np.ndarray = self._archive[name]
            return array

    def _outline(self, name: str) -> Outline:
        assert self._archive.zip is not None, "the file is open"
        with self._archive.zip.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(member)
        return Outline(shape, dtype)


@contextlib.contextmanager
def arrays(path: Path) -> Iterator[Arrays]:
    """The arrays of a file.

    Raises:
        OSError: it cannot be read, or is not a regular file.
        DamagedError: it is not such a file, or damaged.
    """
    with opened(path, follow=True) as file:
        with _named():
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DamagedError("it is not an archive of arrays")
            content = Arrays(archive)
        yield content


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Raise what zipfile, zlib and numpy make of a damaged file, which may be anything, as `DamagedError`."""
    try:
        yield
    except (DamagedError, OSError):
        raise
    except Exception as error:
        raise DamagedError(f"{type(error).__name__}: {one_line(error)}") from error


def load(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of these names, or all of them; raises as `arrays` does."""
    with arrays(path) as content:
        missing = sorted(set(names or ()) - set(content.outlines))
        if missing:
            raise DamagedError(f"it has no array {', '.join(missing)}")
        return {name: content.load(name) for name in (content.outlines if names is None else names)}
