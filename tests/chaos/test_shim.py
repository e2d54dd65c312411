"""Each kind of fault is really injected, and nothing is injected outside of the folder."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .shim import CLASSES, Faults, library

pytestmark = [pytest.mark.by_hand, pytest.mark.skipif(library() is None, reason="needs a C compiler")]

# One call of each class, on the folder in argv[1]; prints what failed and how.
PROGRAM = """
import os, pathlib, sys
folder = sys.argv[1]
calls = {
    "open_read": lambda: os.open(f"{folder}/file", os.O_RDONLY),
    "open_write": lambda: os.open(f"{folder}/new", os.O_WRONLY | os.O_CREAT),
    "read": lambda: os.read(file, 4),
    "write": lambda: os.write(file, b"text"),
    "sync": lambda: os.fsync(file),
    "rename": lambda: os.rename(f"{folder}/a", f"{folder}/b"),
    "link": lambda: os.link(f"{folder}/file", f"{folder}/linked"),
    "unlink": lambda: os.unlink(f"{folder}/c"),
    "mkdir": lambda: os.mkdir(f"{folder}/inner"),
    "stat": lambda: os.stat(f"{folder}/file"),
    "list": lambda: os.listdir(folder),
    "truncate": lambda: os.ftruncate(file, 3),
    "touch": lambda: os.utime(f"{folder}/file"),
}
for name in "abc":
    pathlib.Path(folder, name).write_text(name)
file = os.open(f"{folder}/file", os.O_RDWR | os.O_CREAT)
sys.stdin.readline()
for name, call in calls.items():
    try:
        call()
    except OSError as error:
        print(name, error.errno, flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def faults(folder: Path, tmp_path: Path) -> Faults:
    return Faults(tmp_path / "control", folder)


def python(code: str, *arguments: object, faults: Faults, kill_at: int | None = None, torn: bool = False) -> str:
    """What a program prints; its exit code if that is not 0."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *map(str, arguments)], input="\n", capture_output=True, text=True,
        env=faults.environment(kill_at=kill_at, torn=torn),
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return done.stdout if done.returncode == 0 else str(done.returncode)


def failures(folder: Path, faults: Faults, calls: tuple[str, ...], error: int) -> dict[str, int]:
    """What fails in PROGRAM where ``calls`` do, from the moment at which its files exist."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", PROGRAM, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=faults.environment(),
    )  # fmt: skip
    with process:
        while not (folder / "file").exists():
            assert process.poll() is None
        faults.fail(calls, error)
        out, _ = process.communicate("\n", timeout=60)
    assert process.returncode == 0
    return {line.split()[0]: int(line.split()[1]) for line in out.splitlines()}


@pytest.mark.parametrize("call", CLASSES)
def test_each_class_of_calls_fails_alone(call: str, folder: Path, faults: Faults) -> None:
    assert failures(folder, faults, (call,), errno.EIO) == {call: errno.EIO}
    assert {name for name, count in faults.injected.items() if count} == {call}


def test_every_errno_and_nothing_outside(folder: Path, faults: Faults, tmp_path: Path) -> None:
    assert failures(folder, faults, CLASSES, errno.ESTALE) == dict.fromkeys(CLASSES, errno.ESTALE)
    before = faults.failed
    beside = tmp_path / "inside"  # begins with the name of the folder
    beside.mkdir()
    assert failures(beside, faults, CLASSES, errno.EROFS) == {}
    assert faults.failed == before


def test_clocks_jump_and_stopwatches_do_not(folder: Path, faults: Faults) -> None:
    code = "import time; print(time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME))"
    before = [float(word) for word in python(code, faults=faults).split()]
    faults.jump(-3600)
    after = [float(word) for word in python(code, faults=faults).split()]
    assert -3600 <= after[0] - before[0] < -3000
    assert all(0 <= late - early < 600 for early, late in zip(before[1:], after[1:], strict=True))


WRITER = """
import os, subprocess, sys
folder = sys.argv[1]
with open(folder + "/a", "w") as file:
    file.write("0123456789")
os.rename(folder + "/a", folder + "/b")
subprocess.run([sys.executable, "-I", "-c", "import sys; open(sys.argv[1] + '/child', 'w').write('whole')", folder])
os.mkdir(folder + "/c")
"""


def test_a_process_dies_at_each_of_its_writes(folder: Path, faults: Faults, tmp_path: Path) -> None:
    python(WRITER, folder, faults=faults, kill_at=0)
    assert faults.count("writes") == 4
    left = []
    for number in (1, 2, 3, 4):
        fresh = tmp_path / f"in{number}"
        fresh.mkdir()
        dying = Faults(tmp_path / f"control{number}", fresh)
        assert python(WRITER, fresh, faults=dying, kill_at=number) == str(-signal.SIGKILL)
        left.append({path.name: path.read_text() for path in fresh.iterdir()})
    assert left == [{}, {"a": ""}, {"a": "0123456789"}, {"b": "0123456789", "child": "whole"}]
