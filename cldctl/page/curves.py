"""Scalars that runs wrote for TensorBoard, and TensorBoard itself, served by this process."""

import contextlib
import getpass
import logging
import math
import os
import signal
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from cld_core.errors import CldError, UsageError
from cld_core.run import RunFolder
from cld_core.sanitize import one_line

# The tag of the loss of a training.
LOSS = "train/loss"
# Bytes of one run that are read in one look, and of the largest record that may be a scalar.
_LOOK_BYTES = 2**20
_RECORD_BYTES = 2**14
# The most losses that are drawn: many more than a screen has columns.
_LOSSES = 512
# A record begins with its length and a checksum of that, and ends with a checksum of the content.
_HEAD = struct.Struct("<QI")
_TAIL_BYTES = 4
Points = Sequence[tuple[float, ...]]


def is_inside(run: RunFolder, folder: Path, *, follow: bool) -> bool:
    """Whether a page may show the files of a folder, which links must not lead out of the run.

    Args:
        follow: any folder may be shown, for runs that have parts on another disk.
    """
    try:
        return follow or folder.resolve().is_relative_to(run.path.resolve())
    except (OSError, RuntimeError):  # A link that leads to itself.
        return False


def read(run: RunFolder, *, follow: bool = False) -> dict[str, Points]:
    """The finite values of each tag by step; tags of a subfolder begin with its name."""
    by_tag: dict[str, Points] = {}
    files = [*run.tensorboard.glob("*tfevents*"), *run.tensorboard.glob("*/*tfevents*")]
    for folder in sorted({file.parent for file in files}):
        if not is_inside(run, folder, follow=follow):
            continue
        curves = Curves(folder)
        with contextlib.suppress(OSError):
            while curves.look():
                pass
        prefix = "" if folder == run.tensorboard else f"{folder.name}: "
        by_tag |= {
            f"{prefix}{tag}": sorted(points.items()) for tag, points in curves.values.items()
        }
    return by_tag


def parts(values: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    """Split values into at most ``most`` consecutive parts of one size; the last may be smaller."""
    size = -(-len(values) // most)
    return (values[start : start + size] for start in range(0, len(values), max(size, 1)))


@dataclass
class Curves:
    """The scalars in the event files of a folder; each look continues where the last one ended.

    Pictures are skipped, and each look reads a limited number of bytes, so that a screen can look
    every second. Steps that a later attempt repeats are replaced. A damaged file is read up to the
    damage.

    Attributes:
        only: the tag that is kept; None for all.
        values: the finite values by tag and step.
        losses: the losses of the training by step; of many, means of consecutive ones.
    """

    folder: Path
    only: str | None = None
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    losses: Sequence[float] = ()
    _file: str = ""
    _offset: int = 0

    def look(self) -> bool:
        """Read new records; return whether there are more for the next look.

        Raises:
            OSError: a file cannot be read.
        """
        left = _LOOK_BYTES
        files = (str(file) for file in self.folder.glob("*tfevents*") if file.is_file())
        for file in sorted(file for file in files if file >= self._file):
            if file > self._file:
                self._file = file
                self._offset = 0
            left -= self._read(left)
            if left <= 0:
                break
        if left < _LOOK_BYTES:
            losses = [value for _, value in sorted(self.values.get(LOSS, {}).items())]
            self.losses = tuple(map(fmean, parts(losses, _LOSSES)))
        return left <= 0

    def _read(self, most: int) -> int:
        """Read complete records of the file; return how many bytes were read."""
        size = os.stat(self._file).st_size
        count = 0
        with open(self._file, "rb") as stream:
            while count < most and self._offset + _HEAD.size <= size:
                stream.seek(self._offset)
                length = _HEAD.unpack(stream.read(_HEAD.size))[0]
                after = self._offset + _HEAD.size + length + _TAIL_BYTES
                if after > size:
                    break
                # A larger record is a picture.
                record = stream.read(length) if length <= _RECORD_BYTES else b""
                count += _HEAD.size + len(record)
                # After a damaged record, it is unknown where the next record begins.
                self._offset = after if self._add(record) else size
        return count

    def _add(self, record: bytes) -> bool:
        """Add the scalars of a record; return False if it is damaged."""
        from google.protobuf.message import DecodeError
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        try:
            event = Event.FromString(record)
        except DecodeError:
            return False
        if event.session_log.status == SessionLog.START:
            # A new attempt replaces later steps of those before it.
            for tag, points in self.values.items():
                self.values[tag] = {
                    step: value for step, value in points.items() if step < event.step
                }
        for value in event.summary.value:
            is_wanted = value.HasField("simple_value") and self.only in (None, value.tag)
            if is_wanted and math.isfinite(value.simple_value):
                self.values.setdefault(value.tag, {})[event.step] = value.simple_value
        return True


HOST = "127.0.0.1"
USUAL_PORT = 6006


@contextlib.contextmanager
def tensorboard(runs: Sequence[RunFolder], port: int | None = None) -> Iterator[int]:
    """Serve runs, each under its name, to this machine alone.

    Args:
        port: None for the usual port, or another one if that is taken.

    Returns:
        The port. It answers inside the block; the threads that serve it end with the process.

    Raises:
        UsageError: the port is taken, or two runs have the same name.
        CldError: TensorBoard does not start.
    """
    with tempfile.TemporaryDirectory(prefix="cldctl-board-") as folder:
        for run in runs:
            try:
                (Path(folder) / run.name).symlink_to(run.tensorboard.absolute())
            except FileExistsError as error:
                raise UsageError(
                    f"two runs are called {run.name}. Name one of them at a time."
                ) from error
        port = _free_port(port)
        # TensorBoard logs requests that clients break off.
        logging.getLogger().addHandler(logging.NullHandler())
        try:
            from tensorboard import program

            board = program.TensorBoard()
            board.configure(logdir=folder, host=HOST, port=port, reload_interval=10)
            with _aside():
                board.launch()
        # Its plug-ins may raise anything, and its server exits.
        except (Exception, SystemExit) as error:
            raise CldError(
                f"TensorBoard does not start: {type(error).__name__}: {one_line(error)}."
            ) from error
        yield port


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """Hide what TensorBoard, and the process that reads its files, print on stderr."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as remarks:
        os.dup2(remarks.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _free_port(wanted: int | None) -> int:
    """A port that is free: ``wanted``, or else the usual or any other one.

    TensorBoard itself finds out that a port is taken only after it has begun to read files.
    """
    for port in (USUAL_PORT, 0) if wanted is None else (wanted,):
        try:
            with socket.create_server((HOST, port)) as server:
                return int(server.getsockname()[1])
        except OSError as error:
            if wanted is not None:
                raise UsageError(
                    f"--port {wanted} cannot be used ({os.strerror(error.errno or 0)}). Use "
                    "another one, or leave it out."
                ) from error
    raise CldError("this machine has no free port. Try again.")


def stay() -> None:
    """Return on Ctrl-C or SIGTERM.

    Raises:
        CldError: TensorBoard ends by itself.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            for thread in threading.enumerate():
                if thread.name == "TensorBoard":
                    thread.join()
            raise CldError("TensorBoard ended. Start it again.")
    finally:
        signal.signal(signal.SIGTERM, before)


def tunnel(port: int) -> str:
    """The command that makes the address of the page work on another machine."""
    # "localhost" would be the other machine itself.
    name = socket.getfqdn()
    host = socket.gethostname() if name.partition(".")[0] == "localhost" else name
    return f"ssh -N -L {port}:localhost:{port} {getpass.getuser()}@{host}"
