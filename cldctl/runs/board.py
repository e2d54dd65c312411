"""TensorBoard on chosen runs, inside this process."""

import contextlib
import getpass
import io
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
    with tempfile.TemporaryDirectory(prefix="cldctl-board-", ignore_cleanup_errors=True) as folder:
        for run in runs:
            try:
                (Path(folder) / run.name).symlink_to(run.tensorboard.absolute())
            except FileExistsError as error:
                raise UsageError(f"two runs are called {run.name}. Name one of them at a time.") from error
        yield _launched(folder, port)


def _launched(folder: str, wanted: int | None) -> int:
    remarks, problem = io.StringIO(), ""
    for port in (USUAL_PORT, 0) if wanted is None else (wanted,):
        # It remarks on how it loads the files.
        with contextlib.redirect_stderr(remarks):
            from tensorboard import program

            board = program.TensorBoard()
            try:
                board.configure(logdir=folder, host=HOST, port=port, reload_interval=10)
                return int(board.launch().rstrip("/").rpartition(":")[2])
            except (program.TensorBoardServerException, SystemExit) as error:
                # Its server prints some reasons, and exits.
                said = remarks.getvalue().split("\n") if isinstance(error, SystemExit) else [str(error)]
                problem = one_line(next(filter(None, reversed(said)), "no reason given"))
            except Exception as error:  # Its plug-ins may raise anything.
                raise CldError(f"TensorBoard does not start: {type(error).__name__}: {one_line(error)}.") from error
    if wanted is not None:
        raise UsageError(f"--port {wanted} cannot be used ({problem}). Use another one, or leave it out.")
    raise CldError(f"this machine has no free port ({problem}). Try again.")


def stay() -> None:
    """Return on Ctrl-C or SIGTERM."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    finally:
        signal.signal(signal.SIGTERM, before)


def tunnel(port: int) -> str:
    """What to type elsewhere, so that the same address works there."""
    # What resolves to this machine alone is of no use there.
    name = socket.getfqdn()
    host = socket.gethostname() if name.partition(".")[0] == "localhost" else name
    return f"ssh -N -L {port}:localhost:{port} {getpass.getuser()}@{host}"
