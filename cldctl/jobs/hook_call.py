"""One call of a command of the user's: limited in time and output, and nothing of it is left behind."""

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Of the output, what is kept, and with how much more the command is ended.
KEPT_BYTES, MOST_BYTES = 8 * 2**10, 2**20
_LOOK_S = 0.2


@dataclass(frozen=True)
class Result:
    """How a call ended; ``problem`` is None if that was by itself with exit code 0."""

    output: str
    seconds: float
    problem: str | None = None


def call(command: str, *, environment: Mapping[str, str], content: str, timeout_s: float, folder: Path) -> Result:
    """Run a shell command with ``content`` on its standard input. Whatever it started is ended when this returns.

    Args:
        environment: all of it.
        folder: its working directory.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile() as stdin:
        stdin.write(content.encode())
        stdin.seek(0)
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=dict(environment),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return Result("", time.monotonic() - began, f"could not be started: {error}")
    with process:
        try:
            output, problem = _followed(process, began + timeout_s, timeout_s)
        finally:
            # Before the shell is reaped: until then nobody else has its number.
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
    if problem is None and process.returncode != 0:
        code = process.returncode
        problem = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
    return Result(output.decode(errors="replace"), time.monotonic() - began, problem)


def _followed(process: "subprocess.Popen[bytes]", deadline: float, timeout_s: float) -> tuple[bytes, str | None]:
    """What a process writes until it ends, and why it must not go on."""
    assert process.stdout is not None, "its output is a pipe"
    stream, kept, size, is_open = process.stdout.fileno(), b"", 0, True
    while True:
        # Asked before reading: what it wrote before it ended is in the pipe by now.
        ended = _has_ended(process.pid)
        while is_open and select.select([stream], [], [], 0 if ended else _LOOK_S)[0]:
            piece = os.read(stream, 2**16)
            is_open, size = bool(piece), size + len(piece)
            kept += piece[: KEPT_BYTES - len(kept)]
            if size > MOST_BYTES:
                return kept, f"wrote more than {MOST_BYTES:,} bytes and was ended"
            if time.monotonic() > deadline:
                break
        if ended:
            return kept, None
        if time.monotonic() > deadline:
            return kept, f"did not end within {timeout_s:g} s (hooks.timeout_s) and was ended"
        if not is_open:
            time.sleep(_LOOK_S / 4)


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; it is not reaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
