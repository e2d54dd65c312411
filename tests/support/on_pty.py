"""A command on a terminal of a certain width, and the lines that somebody sees there."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

import pyte

_LINES = 200


def lines_of(arguments: Sequence[str], runs: Path, columns: int, code: int = 0) -> list[str]:
    """What `cldctl` leaves on the screen, without trailing blanks.

    Args:
        arguments: the command and its arguments.
        runs: the runs folder.
        columns: of the terminal.
        code: with which it must end.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, columns, 0, 0))
    variables = {**os.environ, "CLDCTL_RUNS": str(runs), "TERM": "xterm-256color"}
    variables = {name: value for name, value in variables.items() if name not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "cldctl", *arguments]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=variables)
    os.close(slave)
    screen = pyte.Screen(columns, _LINES)
    stream = pyte.ByteStream(screen)
    with contextlib.suppress(OSError):  # The other end of the terminal is closed.
        while part := os.read(master, 65536):
            stream.feed(part)
    os.close(master)
    text = "\n".join(line.rstrip() for line in screen.display).rstrip()
    assert process.wait() == code, text
    return text.splitlines()
