"""Small files that anybody may have made, read within bounds.

A run folder may be a colleague's, damaged, or made by hand. What looks like a small file of ours may be a pipe, a
device, a link to somewhere else, or a terabyte: none of these may block, fill the memory, or be followed.
"""

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

# A ledger of a million events fits.
MAX_BYTES = 256 * 2**20
MAX_JSON_BYTES = 64 * 2**20
# No file of ours is nested deeper than ten levels.
MAX_DEPTH = 50
# Beyond this, a number of steps, bytes or seconds is damage.
MAX_NUMBER = 2**62
# Bytes that are asked for beyond what a file had when it was opened.
_MORE = 2**16
# A pipe without a writer would keep `open` waiting.
_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
# What says that there is no such file, or something else in its place. Anything else may pass, such as a server that is
# away for a while.
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.EISDIR, errno.ENXIO, errno.ELOOP, errno.EFBIG)


@contextlib.contextmanager
def opened(path: Path, *, follow: bool = False) -> Iterator[BufferedReader]:
    """A regular file, open for reading.

    Args:
        follow: whether ``path`` itself may be a symbolic link; its folders may always be.

    Raises:
        OSError: it cannot be opened; a link (ELOOP) or anything but a regular file (EINVAL) is refused.
    """
    with os.fdopen(_descriptor(path, _READING | (0 if follow else os.O_NOFOLLOW)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield file


def descriptor_for_writing(path: Path, flags: int = 0) -> int:
    """A descriptor for reading and writing a regular file in place; the file is created if there is none.

    Args:
        flags: further flags of `os.open`. Nothing is truncated: the content of a file that is not ours would be gone.

    Raises:
        OSError: as `opened`, for a link too.
    """
    flags |= os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = _descriptor(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def _descriptor(path: Path, flags: int) -> int:
    try:
        # The umask decides who else may write: runs can be shared by a group.
        return os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and flags & os.O_NOFOLLOW and path.is_symlink():
            raise OSError(errno.ELOOP, "a symbolic link, which is not followed", str(path)) from error
        raise


def read_bytes(path: Path, *, limit: int = MAX_BYTES, follow: bool = False) -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Raises:
        OSError: as `opened`; EFBIG if the file is larger.
    """
    # Not `opened`: a stream asks the file system for twice as much, and that of a cluster is slow.
    descriptor = _descriptor(path, _READING | (0 if follow else os.O_NOFOLLOW))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        content = _read_up_to(descriptor, limit + 1, status.st_size)
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes", str(path))
    return content


def _read_up_to(descriptor: int, most: int, size: int) -> bytes:
    """The first ``most`` bytes of a file that had ``size`` bytes when it was opened; one call, if it still has."""
    parts, length = [], 0
    while length < most:
        wanted = min(most, max(size + 1, length + _MORE)) - length
        part = os.read(descriptor, wanted)
        parts.append(part)
        length += len(part)
        if not part or (len(part) < wanted and length == size):
            break
    return b"".join(parts)


def parse_json(text: str | bytes, *, depth: int = MAX_DEPTH) -> Any:
    """A JSON value nested at most ``depth`` levels deep.

    Raises:
        ValueError: it is not JSON, or nested deeper.
    """
    try:
        # Python would guess other encodings of bytes.
        content = json.loads(text if isinstance(text, str) else text.decode())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    level = [content]
    for _ in range(depth):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return content
    raise ValueError(f"nested more than {depth} levels deep")


def read_json(path: Path) -> Any:
    """The JSON value in a file; None if it cannot be read, or is not JSON within bounds."""
    try:
        return parse_json(read_bytes(path, limit=MAX_JSON_BYTES))
    except (OSError, ValueError):
        return None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is none."""
    content = read_json(path)
    return content if isinstance(content, dict) else {}


def existing_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no such file, or something else is in it.

    Raises:
        OSError: nobody knows, because the file cannot be read.
    """
    try:
        content = parse_json(read_bytes(path, limit=MAX_JSON_BYTES))
    except ValueError:
        return None
    except OSError as error:
        if error.errno in NO_FILE:
            return None
        raise
    return content if isinstance(content, dict) else None


def by_age(files: Iterable[Path]) -> list[Path]:
    """Those of ``files`` that exist, the one that was changed first of all first; links count as themselves."""
    aged = []
    for file in files:
        with contextlib.suppress(OSError):
            aged.append((file.lstat().st_mtime, file))
    return [file for _, file in sorted(aged)]


def whole(value: Any, least: int = 0) -> int | None:
    """``value`` if it is a whole number from ``least`` to `MAX_NUMBER`; else None."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and least <= value <= MAX_NUMBER else None


def real(value: Any) -> float | None:
    """``value`` if it is a finite number within `MAX_NUMBER`; else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) <= MAX_NUMBER else None


def text(value: Any) -> str | None:
    """``value`` if it is a text that can be written as UTF-8; else None."""
    return value if isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value) else None


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
