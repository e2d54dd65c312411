"""`cldctl top` as it is typed: on a terminal, without one, and without textual."""

import contextlib
import fcntl
import importlib.util
import os
import pty
import re
import struct
import subprocess
import sys
import termios

from cldctl.cli import look
from tests.support import on_screen as made_up
from tests.support.tools import invoke, wait_for

# Of text or background, other than the terminal's own (39, 49).
COLOUR = re.compile(rb"\x1b\[(?:[0-9;]*;)?[349][0-8](?:;[0-9;]*)?m")


def test_it_needs_a_terminal_and_says_how_to_install_textual(monkeypatch):
    assert "draws on a terminal, and this is not one" in invoke("top", code=2).stderr
    find = importlib.util.find_spec
    monkeypatch.setattr(
        look.importlib.util, "find_spec", lambda name: None if name == "textual" else find(name)
    )
    monkeypatch.setattr(look.out, "_force_terminal", True)
    monkeypatch.setattr(look.sys.stdin, "isatty", lambda: True, raising=False)
    assert "pip install 'cldctl[top]'" in invoke("top", code=2).stderr


def test_on_a_terminal_it_shows_runs_until_somebody_leaves_without_colour_if_refused(tmp_path):
    made_up.ended(made_up.Fleet(tmp_path), "mine", 7_200.0, "finished", "17")
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    os.set_blocking(master, False)
    known = {
        "CLDCTL_RUNS": str(tmp_path),
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
        "NO_COLOR": "1",
    }
    env = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")
    } | known
    command = [sys.executable, "-m", "cldctl", "top"]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    output = bytearray()

    def read():
        with contextlib.suppress(OSError):  # Nothing to read, or closed.
            output.extend(os.read(master, 2**20))
        return bytes(output)

    wait_for(lambda: b"mine" in read())
    os.write(master, b"?")
    wait_for(lambda: b"Cursor" in read())
    os.write(master, b"\x03")
    wait_for(lambda: read() and process.poll() is not None)
    os.close(master)
    assert process.returncode == 0
    assert COLOUR.findall(output) == []
