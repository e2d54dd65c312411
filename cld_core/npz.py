"""Files of numpy arrays (.npz) that anybody may have made: read by numpy, and nothing is
unpickled."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from cld_core.errors import CldError
from cld_core.files import opened
from cld_core.sanitize import one_line


class DamagedError(ValueError):
    """What is wrong with a file."""


@contextlib.contextmanager
def arrays(file: IO[bytes]) -> Iterator[np.lib.npyio.NpzFile]:
    """The arrays of an open file, by name without `.npy`; each is loaded, and its checksum
    compared, when asked for.

    Raises:
        OSError: it cannot be read.
        DamagedError: it is not such a file, or damaged. What the block meets in a damaged one,
            which may be anything, becomes this, too.
    """
    try:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DamagedError("it is not an archive of arrays")
        yield archive
    except (DamagedError, OSError, CldError):
        raise
    except Exception as error:
        raise DamagedError(f"{type(error).__name__}: {one_line(error)}") from error


def shapes(archive: np.lib.npyio.NpzFile) -> dict[str, tuple[int, ...]]:
    """The shape of each array, from its header."""
    assert archive.zip is not None, "the file is open"
    found = {}
    for name in archive.files:
        with archive.zip.open(f"{name}.npy") as member:
            found[name], _, _ = header(member)
    return found


def header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, "np.dtype[Any]"]:
    """Shape, whether in the order of Fortran, and type of the array that begins here as in an .npy
    file."""
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    return read(file)


def load(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """All arrays of a file, and the SHA-256 of the bytes that they were read from, whoever replaces
    it meanwhile.

    Raises:
        OSError: it cannot be read, or is not a regular file.
        DamagedError: as `arrays`.
    """
    with opened(path, follow=True) as file:
        with arrays(file) as content:
            # numpy returns a member that is no array as bytes, which has no shape.
            found = {name: content[name] for name in shapes(content)}
        file.seek(0)
        return found, hashlib.file_digest(file, "sha256").hexdigest()
