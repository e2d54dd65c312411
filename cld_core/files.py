"""Reading, replacing and appending to files of run folders.

A run folder may be a colleague's, damaged, or made by hand. What looks like a small file may be a
pipe, a device, a link to another place, or a terabyte: none of these may block, fill the memory, or
be followed.

A disk may be full for a moment, and a network file system may lose a handle. A write that matters
is retried (`retried`); one that does not is dropped and counted (`Dropping`).
"""

import errno
import json
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    import numpy

T = TypeVar("T")

# A ledger of a million events fits.
MAX_BYTES = 256 * 2**20
MAX_JSON_BYTES = 64 * 2**20
# Bytes to read beyond the size that a file had when it was opened: it may have grown.
_MORE = 2**16
# Errors of a path without such a file, or with something else in its place. Any other error may be
# temporary, such as a file server that does not answer.
NO_FILE = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EINVAL,
    errno.EISDIR,
    errno.ENXIO,
    errno.ELOOP,
    errno.EFBIG,
)
# Temporary errors: the next attempt may succeed. A wrong path and missing permissions are not
# temporary.
PASSING = frozenset(
    {
        # The disk, or its server.
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EIO,
        errno.EREMOTEIO,
        errno.ESTALE,
        # Something else is using it.
        errno.EAGAIN,
        errno.EBUSY,
        errno.EINTR,
        errno.ENOLCK,
        errno.ETIMEDOUT,
        # Too little memory, or too many open files.
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.ENFILE,
        errno.EMFILE,
        # The connection.
        errno.ENOTCONN,
        errno.ESHUTDOWN,
        errno.ECONNRESET,
        errno.ECONNREFUSED,
        errno.ECONNABORTED,
        # The network.
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)
# Seconds between two attempts: at first, and at most.
_FIRST_S = 0.1
_MOST_S = 10.0


@contextmanager
def opened(path: Path, *, follow: bool = False) -> Iterator[BufferedReader]:
    """A regular file, open for reading.

    Args:
        follow: whether ``path`` itself may be a symbolic link; its folders may always be.

    Raises:
        OSError: it cannot be opened; a link (ELOOP) or anything but a regular file (EINVAL) is
            refused.
    """
    descriptor, _ = _regular(path, os.O_RDONLY | (0 if follow else os.O_NOFOLLOW))
    with os.fdopen(descriptor, "rb") as file:
        yield file


def descriptor_for_writing(path: Path, flags: int = 0) -> int:
    """A descriptor for reading and writing a regular file in place; the file is created if there is
    none.

    Args:
        flags: further flags of `os.open`. Nothing is truncated, since the file may belong to
            another user or program.

    Raises:
        OSError: it cannot be opened; a link (ELOOP) or anything but a regular file (EINVAL) is
            refused.
    """
    return _regular(path, flags | os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)[0]


def _regular(path: Path, flags: int) -> tuple[int, os.stat_result]:
    """A descriptor of a regular file, and its status."""
    try:
        # Without O_NONBLOCK, `open` would wait for the writer of a pipe.
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and flags & os.O_NOFOLLOW and path.is_symlink():
            raise OSError(
                errno.ELOOP, "a symbolic link, which is not followed", str(path)
            ) from error
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor, status


def read_bytes(path: Path, *, limit: int = MAX_BYTES, follow: bool = False) -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Raises:
        OSError: it cannot be opened or read, is not a regular file (EINVAL), is a link although
            ``follow`` is False (ELOOP), or is larger (EFBIG).
    """
    # Without `opened`: a stream makes twice as many calls, which are slow on network file systems.
    descriptor, status = _regular(path, os.O_RDONLY | (0 if follow else os.O_NOFOLLOW))
    content = b""
    try:
        # One call in most cases.
        while part := os.read(descriptor, min(status.st_size, limit) + _MORE):
            content += part
            if len(content) > limit:
                raise OSError(errno.EFBIG, f"larger than {limit} bytes", str(path))
            if len(content) == status.st_size:
                break
    finally:
        os.close(descriptor)
    return content


def parse_json(text: str | bytes) -> Any:
    """A JSON value.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        # Python would guess other encodings of bytes.
        return json.loads(text if isinstance(text, str) else text.decode())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is none, or if it cannot be read."""
    try:
        return existing_object(path) or {}
    except OSError:
        return {}


def existing_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no such file, or something else is in it.

    Raises:
        OSError: the file cannot be read, so what is in it is unknown.
    """
    try:
        content = parse_json(read_bytes(path, limit=MAX_JSON_BYTES))
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in NO_FILE:
            raise
        return None
    return content if isinstance(content, dict) else None


def by_age(files: Iterable[Path]) -> list[Path]:
    """Those of ``files`` that exist, the least recently changed one first; links are not
    followed."""
    aged = []
    for file in files:
        # A file may be removed while its folder is read.
        with suppress(OSError):
            aged.append((file.lstat().st_mtime, file))
    return [file for _, file in sorted(aged)]


@contextmanager
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
        # In numpy's signature, an array could be called allow_pickle. None is.
        numpy.savez(file, **arrays)  # type: ignore[arg-type]


def append_line(path: Path, text: str) -> None:
    """Append one line in one write, so that lines of several writers never mix.

    If a killed writer left the last line unfinished, a line break is added first, so that no other
    line is damaged.

    Raises:
        OSError: the line cannot be written, or ``path`` is not a regular file.
    """
    assert "\n" not in text, "one line at a time"
    descriptor = descriptor_for_writing(path, os.O_APPEND)
    try:
        size = os.fstat(descriptor).st_size
        is_unfinished = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        line = (("\n" if is_unfinished else "") + text + "\n").encode()
        # If the disk is nearly full, only the beginning of the line may be written.
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def passes(error: BaseException | None) -> bool:
    """Whether an error is temporary (`PASSING`)."""
    return isinstance(error, OSError) and error.errno in PASSING


def system_error(error: BaseException | None) -> OSError | None:
    """The `OSError` that an error is, or that it was raised for; None if there is none."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def pauses() -> Iterator[float]:
    """Seconds to wait before each further attempt: twice as long each time, at most 10."""
    pause = _FIRST_S
    while True:
        yield pause
        pause = min(2 * pause, _MOST_S)


def retried(
    work: Callable[[], T], within_s: float, *, stop: Callable[[], bool] = lambda: False
) -> T:
    """Call ``work`` until it succeeds, again after each temporary error (`passes`).

    Returns the result of ``work``.

    Args:
        within_s: seconds after which the error is raised instead.
        stop: called before each further attempt; the error is raised if it returns True.

    Raises:
        OSError: the error of the last attempt.
    """
    deadline = time.monotonic() + within_s
    for pause in pauses():
        try:
            return work()
        except OSError as error:
            if not passes(error) or time.monotonic() + pause > deadline or stop():
                raise
        time.sleep(pause)
    raise AssertionError("pauses never end")


class Dropping:
    """Writes that may fail: they are dropped and counted.

    A line is printed when the first write fails, and when one succeeds again.

    Args:
        what: the subject of these lines, for example "progress.json".
        over: called when a write succeeds again, with the number of failures and the first reason.
    """

    def __init__(
        self, what: str, over: Callable[[int, str], object] = lambda count, reason: None
    ) -> None:
        self._what = what
        self._over = over
        self.count = 0
        self._reason = ""

    def attempt(self, work: Callable[[], object]) -> bool:
        """Call ``work``; returns False if it raised an `OSError`."""
        try:
            work()
        except OSError as error:
            self.failed(error)
            return False
        self.succeeded()
        return True

    def failed(self, error: OSError) -> None:
        self.count += 1
        if self.count == 1:
            self._reason = error.strerror or str(error)
            print(f"{self._what} cannot be written ({self._reason}); going on without", flush=True)

    def succeeded(self) -> None:
        if self.count:
            print(f"{self._what} can be written again; dropped {self.count} time(s)", flush=True)
        self.ended()

    def ended(self) -> None:
        """Report the failures so far: nothing more will be written."""
        if self.count:
            self._over(self.count, self._reason)
        self.count = 0


class _Output:
    """A text stream whose reader or disk may be gone: text that cannot be written is dropped."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def forgive_output() -> None:
    """Drop output of this process that cannot be written, instead of raising errors."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Output):
            setattr(sys, name, cast(IO[str], _Output(stream)))
