"""Files that are written whole or not at all."""

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file that replaces ``path`` once everything is on disk.

    If the block raises, ``path`` is unchanged and the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Replace ``path`` by ``content`` as JSON."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_arrays(path: Path, arrays: "Mapping[str, numpy.ndarray]") -> None:
    """Replace ``path`` by ``arrays`` as an .npz file."""
    import numpy

    with replacing(path) as file:
        # numpy's signature has a parameter, allow_pickle, among the names of arrays; none of ours has that name.
        numpy.savez(file, **arrays)  # type: ignore[arg-type]


def append_line(path: Path, text: str) -> None:
    """Append one line in one write, so that lines of several writers never mix.

    A last line that a killed writer left unfinished is closed first, so that it spoils only itself.
    """
    assert "\n" not in text, "one line at a time"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        line = (("\n" if torn else "") + text + "\n").encode()
        # A disk that is nearly full takes the beginning of the line only.
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
