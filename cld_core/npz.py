"""Files of numpy arrays (.npz) that anybody may have made: read by numpy, and nothing is unpickled."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cld_core.errors import CldError
from cld_core.files import opened
from cld_core.sanitize import one_line


class DamagedError(ValueError):
    """What is wrong with a file."""


@contextlib.contextmanager
def arrays(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """The arrays of a file, by name without `.npy`; each is loaded, and its checksum compared, when it is asked for.

    Raises:
        OSError: it cannot be read, or is not a regular file.
        DamagedError: it is not such a file, or damaged. What the block meets in a damaged one, which may be anything,
            becomes this, too.
    """
    with opened(path, follow=True) as file:
        try:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DamagedError("it is not an archive of arrays")
            yield archive
        except (DamagedError, OSError, CldError):
            raise
        except Exception as error:
            raise DamagedError(f"{type(error).__name__}: {one_line(error)}") from error


def outlines(archive: np.lib.npyio.NpzFile) -> "dict[str, tuple[tuple[int, ...], np.dtype[Any]]]":
    """The shape and type of each array, from its header."""
    assert archive.zip is not None, "the file is open"
    found = {}
    for name in archive.files:
        with archive.zip.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(member)
        found[name] = shape, dtype
    return found


def load(path: Path) -> dict[str, np.ndarray]:
    """All arrays; raises as `arrays` does."""
    with arrays(path) as content:
        # numpy returns a member that is no array as bytes, which has no outline.
        return {name: content[name] for name in outlines(content)}
