"""TensorBoard on chosen runs, inside this process."""

import contextlib
import getpass
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from cld_core.errors import CldError, UsageError
from cld_core.run import RunFolder
from cld_core.sanitize import one_line

HOST = "127.0.0.1"
USUAL_PORT = 6006


@contextlib.contextmanager
def tensorboard(runs: Sequence[RunFolder], port: int | None = None) -> Iterator[int]:
    """Serve runs, each under its name, to this machine alone: on ``port``, or else the usual or any other free one.

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
                raise UsageError(f"two runs are called {run.name}. Name one of them at a time.") from error
        yield _launched(folder, _free_port(port))


def _launched(folder: str, port: int) -> int:
    # It remarks on requests that clients break off.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        from tensorboard import program

        board = program.TensorBoard()
        board.configure(logdir=folder, host=HOST, port=port, reload_interval=10)
        with _aside():
            board.launch()
    # Its plug-ins may raise anything, and its server exits.
    except (Exception, SystemExit) as error:
        raise CldError(f"TensorBoard does not start: {type(error).__name__}: {one_line(error)}.") from error
    return port


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """What TensorBoard, and the process that reads its files for it, remark is not for this terminal."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as remarks:
        os.dup2(remarks.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _free_port(wanted: int | None) -> int:
    """``wanted``, or else the usual port, or any that is free: TensorBoard starts to read before it finds one taken."""
    for port in (USUAL_PORT, 0) if wanted is None else (wanted,):
        with socket.socket() as tried:
            try:
                tried.bind((HOST, port))
            except OSError as error:
                if wanted is not None:
                    text = f"--port {wanted} cannot be used ({error.strerror})"
                    raise UsageError(f"{text}. Use another one, or leave it out.") from error
                continue
            return int(tried.getsockname()[1])
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
    """What to type elsewhere, so that the same address works there."""
    # What resolves to this machine alone is of no use there.
    name = socket.getfqdn()
    host = socket.gethostname() if name.partition(".")[0] == "localhost" else name
    return f"ssh -N -L {port}:localhost:{port} {getpass.getuser()}@{host}"
