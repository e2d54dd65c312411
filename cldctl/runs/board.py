"""TensorBoard on chosen runs, as a child of this process that ends with it."""

import contextlib
import ctypes
import getpass
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cld_core.errors import CldError, UsageError
from cld_core.run import RunFolder
from cld_core.sanitize import one_line
from cldctl.clusters.this_machine import safe_path

HOST = "127.0.0.1"
USUAL_PORT = 6006
# Loading it from a slow disk takes most of it.
READY_WITHIN_S = 120.0
_EVERY_S, _END_WITHIN_S = 0.1, 10.0
_PR_SET_PDEATHSIG = 1


class Board:
    """A TensorBoard that is starting or running.

    Attributes:
        port: of this machine.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.process, self.port, self._log = process, port, log

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/"

    @property
    def tunnel(self) -> str:
        """What to type elsewhere, so that the same address works there."""
        return f"ssh -N -L {self.port}:localhost:{self.port} {getpass.getuser()}@{_host()}"

    def wait_until_ready(self) -> None:
        """Return when it answers.

        Raises:
            CldError: it ends instead, or takes too long.
        """
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise self._ended()
            with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1):
                return
            time.sleep(_EVERY_S)
        raise CldError(f"TensorBoard does not answer within {READY_WITHIN_S:.0f} s. Try again.")

    def stay(self) -> None:
        """Return on Ctrl-C or SIGTERM.

        Raises:
            CldError: it ends by itself.
        """
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                self.process.wait()
                raise self._ended()
        finally:
            signal.signal(signal.SIGTERM, before)

    def _ended(self) -> CldError:
        lines = self._log.read_text(errors="replace").strip().splitlines() or ["without a message"]
        return CldError(f"TensorBoard ended with {self.process.returncode}: {one_line(lines[-1])}. Try another --port.")


@contextlib.contextmanager
def tensorboard(runs: Sequence[RunFolder], port: int | None = None) -> Iterator[Board]:
    """Start TensorBoard on runs, each under its name; it has ended when the block has.

    Raises:
        UsageError: the port is taken, or two runs have the same name.
    """
    port = _free_port(port)
    with tempfile.TemporaryDirectory(prefix="cldctl-board-") as name:
        folder = Path(name)
        (folder / "runs").mkdir()
        for run in runs:
            try:
                (folder / "runs" / run.name).symlink_to(run.tensorboard.absolute())
            except FileExistsError as error:
                raise UsageError(f"two runs are called {run.name}. Name one of them at a time.") from error
        command = [sys.executable, "-P", "-m", "tensorboard.main", "--logdir", str(folder / "runs")]
        command += ["--host", HOST, "--port", str(port), "--reload_interval", "10"]
        log = folder / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env={**os.environ, **safe_path()},
                # Ctrl-C is for this process, which then ends the other one.
                start_new_session=True,
                preexec_fn=_end_with(os.getpid()),
            )
        try:
            yield Board(process, port, log)
        finally:
            process.terminate()
            try:
                process.wait(_END_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _end_with(parent: int) -> Callable[[], None]:
    """What a child does between fork and exec, so that it ends with its parent."""
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        """Let Linux end this process when its parent ends, even if that is killed."""
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def _free_port(wanted: int | None) -> int:
    """``wanted``, or else the usual port, or any that is free.

    Raises:
        UsageError: ``wanted`` is taken.
    """
    for port in (USUAL_PORT, 0) if wanted is None else (wanted,):
        with socket.socket() as tried:
            try:
                tried.bind((HOST, port))
            except OSError as error:
                if wanted is not None:
                    text = f"--port {wanted} cannot be used ({error.strerror})"
                    raise UsageError(f"{text}. Use another one, or leave it out.") from error
                continue
            number: int = tried.getsockname()[1]
            return number
    raise CldError("this machine has no free port. Try again.")


def _host() -> str:
    """This machine's name for other machines: what resolves to itself alone is of no use there."""
    name = socket.getfqdn()
    return socket.gethostname() if name.partition(".")[0] == "localhost" else name
