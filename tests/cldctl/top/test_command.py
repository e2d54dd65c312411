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
from pathlib import Path

import pytest

from cldctl.cli import top
from tests.support import on_screen as made_up
from tests.support.tools import invoke, wait_for

# Of text or background, other than the terminal's own (39, 49).
COLOUR = re.compile(rb"\x1b\[(?:[0-9;]*;)?[349][0-8](?:;[0-9;]*)?m")


def test_it_needs_a_terminal(tmp_path):
    done = invoke("top", runs=tmp_path, code=2)
    assert done.stderr == "error: `cldctl top` draws on a terminal, and this is not one. Use `cldctl status`.\n"


def test_it_says_how_to_install_textual(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(top.importlib.util, "find_spec", lambda name: None if name == "textual" else find(name))
    monkeypatch.setattr(top, "_is_terminal", lambda: True)
    done = invoke("top", runs=tmp_path, code=2)
    assert done.stderr == (
        "error: `cldctl top` needs textual, which is not installed. Install it: pip install 'cldctl[top]'\n"
    )


def test_wrong_filters_are_refused_as_by_status(tmp_path):
    assert "Did you mean 'RUNNING'?" in invoke("top", "--state", "RUNNINGG", runs=tmp_path, code=2).stderr


def test_nothing_but_the_screen_imports_textual():
    code = "import sys, cldctl.app; print([name for name in sys.modules if name.partition('.')[0] == 'textual'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


class Terminal:
    """`cldctl top` on a terminal of 80 columns and 24 lines."""

    def __init__(self, runs: Path, **env: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        os.set_blocking(self._master, False)
        variables = {**os.environ, "CLDCTL_RUNS": str(runs), "TERM": "xterm-256color", "COLORTERM": "truecolor", **env}
        variables = {name: value for name, value in variables.items() if name not in ("COLUMNS", "LINES")}
        command = [sys.executable, "-m", "cldctl", "top"]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=variables)
        os.close(slave)
        self.output = b""

    def read(self) -> bytes:
        with contextlib.suppress(OSError):  # Nothing to read, or closed.
            self.output += os.read(self._master, 2**20)
        return self.output

    def sees(self, text: str) -> None:
        wait_for(lambda: text.encode() in self.read())

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def ends(self) -> int:
        wait_for(lambda: self.read() is not None and self.process.poll() is not None)
        os.close(self._master)
        return self.process.returncode


@pytest.fixture
def runs(tmp_path):
    made_up.ended(made_up.Fleet(tmp_path / "runs"), "mine", 7_200.0, "finished", "17")
    return tmp_path / "runs"


def test_on_a_terminal_it_shows_runs_in_colour_until_q(runs):
    terminal = Terminal(runs)
    terminal.sees("mine")
    terminal.press("?")
    terminal.sees("Cursor")
    terminal.press("q")
    assert terminal.ends() == 0
    assert COLOUR.search(terminal.output)
    assert b"Traceback" not in terminal.output


def test_no_color_is_respected(runs):
    terminal = Terminal(runs, NO_COLOR="1")
    terminal.sees("FINISHED")
    terminal.press("\x03")
    assert terminal.ends() == 0
    assert not COLOUR.search(terminal.output), COLOUR.findall(terminal.output)[:5]
