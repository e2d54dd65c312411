"""Files of numpy arrays (.npz) of any origin: they are read by numpy, and nothing is unpickled."""

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
    """A file is not an intact archive of arrays."""


@contextlib.contextmanager
def arrays(file: IO[bytes]) -> Iterator[np.lib.npyio.NpzFile]:
    """The arrays of an open file, by name without `.npy`.

    An array is loaded, and its checksum compared, when it is used.

    Raises:
        OSError: the file cannot be read.
        DamagedError: it is not such a file, or damaged. Other errors that the block raises become
            this error, too, because reading a damaged file may raise any error.
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
    by_name = {}
    for name in archive.files:
        with archive.zip.open(f"{name}.npy") as member:
            by_name[name], _, _ = header(member)
    return by_name


def header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, "np.dtype[Any]"]:
    """The header of an .npy file that begins here: shape, whether in Fortran order, and type."""
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    return read(file)


def load(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """All arrays of a file, and the SHA-256 of the bytes that they were read from.

    Both are of the same bytes, even if the file is replaced meanwhile.

    Raises:
        OSError: it cannot be read, or is not a regular file.
        DamagedError: it is not an archive of arrays, or damaged.
    """
    with opened(path, follow=True) as file:
        with arrays(file) as content:
            # `shapes` raises for a member that is not an array, which numpy returns as bytes.
            loaded = {name: content[name] for name in shapes(content)}
        file.seek(0)
        return loaded, hashlib.file_digest(file, "sha256").hexdigest()
