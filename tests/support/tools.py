"""The command line, in this process or in one of its own, and waiting with a deadline."""

import contextlib
import functools
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from unittest import mock

import psutil
import pytest
import torch
import typer.main

from cld_core.ranks import Ranks
from cld_core.run import RunFolder
from cld_core.run.pids import is_up
from cld_core.run.work import Start, Training
from tests.support.recipes import shipped_recipe

# Every call of the command line would make all of its commands again, which takes longer than most
# of them.
typer.main.get_command = functools.cache(typer.main.get_command)

# A toy that trains in no time, on two processes.
SMALL = (
    "network.width=16",
    "network.layers=3",
    "train.batch_size=16",
    "train.log_every=5",
    "cluster.tasks_per_node=2",
    "eval.samples=32",
)
ONE = (*SMALL, "cluster.tasks_per_node=1", "train.steps=20", "train.checkpoint_every=10")
DEBUG = ("--cluster", "debug")


def program(file, text):
    """Write a script that can be called; returns its path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    return file


def cldctl(line, *words, runs, code=0, timeout=180, **env):
    """Run a command, which has to end with ``code``: stdout, stderr and returncode.

    Args:
        line: the command without `cldctl`, as it is typed.
        words: more of it, which no shell would split.
    """
    done = subprocess.run(
        [sys.executable, "-m", "cldctl", *shlex.split(line), *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "CLDCTL_RUNS": str(runs), "OMP_NUM_THREADS": "1", **env},
        stdin=subprocess.DEVNULL,
    )
    return _expect(code, done)


def _expect(code, done):
    """The process, which has to have ended with ``code``, if one is given."""
    if code is not None:
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def invoke(line, *words, runs=None, code=0, width=200, **env):
    """As `cldctl`, in this process: for tests without processes, signals and imports.

    Without ``runs``, those of the environment; in tests/cldctl, that is the folder of the test.
    """
    from cldctl import app
    from cldctl.show import console

    if runs is not None:
        env["CLDCTL_RUNS"] = str(runs)
    arguments = [*shlex.split(line), *words]
    out = io.StringIO()
    err = io.StringIO()
    with (
        mock.patch.dict(os.environ, env),
        mock.patch.object(console.out, "_width", width),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        signal_handlers(),
    ):
        returned = app.run(arguments)
    done = subprocess.CompletedProcess(arguments, returned, out.getvalue(), err.getvalue())
    return _expect(code, done)


def json_of(line, *words, **how):
    """What a command prints, as `invoke`."""
    return json.loads(invoke(line, *words, **how).stdout)


@contextlib.contextmanager
def signal_handlers():
    """Put back the handlers that a job in this process, or a test, replaces."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def trained(path, recipe, *overrides):
    """A run of a shipped recipe that was trained in this process."""
    run = RunFolder.create(path, shipped_recipe(recipe, *overrides), {"created": 1.0})
    return train(run)


def stepped(trainer, last, first=0):
    """A trainer after its steps up to ``last``."""
    for step in range(first, last):
        trainer.step(step)
    return trainer


def train(run):
    """Train a run to its end in this process."""
    assert Training(run.path).compute(Ranks(), start=Start(job_id="test")).is_done
    return run


def status(name, runs=None):
    return json_of(f"status {name} --json", runs=runs)[0]


def wait_for(condition, timeout=240, every=0.05, *, what="something", last_seen=lambda: ""):
    """The first true value of ``condition``; fails after ``timeout`` seconds, naming ``what``."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, (
            f"waited {timeout:g} s for {what} in vain; {last_seen()}"
        )
        time.sleep(every)
    return value


@contextlib.contextmanager
def held_port():
    """A port that only sockets which ask for this number and set SO_REUSEADDR, as torch's do, can
    have meanwhile."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("", 0))
        yield held.getsockname()[1]


@contextlib.contextmanager
def small_disk(folder, megabytes=48):
    """A file system of its own at an empty folder; skips the test if none can be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this machine does not let the tests mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk):
    """Use all space that is left, down to the last byte; returns the file that takes it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return ballast


def wait_step(run, step):
    wait_for(lambda: run.progress().get("step", 0) >= step)


def wait_ended(name, runs=None, timeout=120):
    """The status of a run once it is over."""
    over = ("STOPPED", "FAILED", "CANCELLED", "FINISHED", "LOST")
    return wait_for(
        lambda: (row := status(name, runs))["state"] in over and row, timeout, every=0.1
    )


def ranks_of(run):
    """The living rank processes of a run's newest job, in the order of their ranks."""
    jobs = run.ledger.history().jobs
    if not jobs:
        return []
    try:
        children = [
            (child.environ(), child)
            for child in psutil.Process(int(jobs[-1].job.job_id)).children()
        ]
        # One that was forked this very moment has its parent's environment still, and is no rank
        # yet.
        number = "SUBMITIT_LOCAL_GLOBALID"
        ranked = [
            (int(variables[number]), child) for variables, child in children if number in variables
        ]
    except psutil.Error:
        return []
    return [child for _, child in sorted(ranked, key=lambda pair: pair[0])]


def is_gone(process):
    """Whether a process has ended; one that was not waited for counts as ended."""
    return not is_up(process)


def same(a, b):
    """Whether two states of nested dicts, lists and tensors are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        if not isinstance(b, dict) or a.keys() != b.keys():
            return False
        return all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def told_by_solution(solution):
    """What a tuning found, apart from how long that took and when it was."""
    assert solution is not None, "the tuning is not complete"
    about = {
        name: value for name, value in solution.about.items() if name not in ("seconds", "created")
    }
    return {**solution.content(), "about": about}
