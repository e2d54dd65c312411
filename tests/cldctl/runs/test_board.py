"""`cldctl board`: TensorBoard starts, serves the chosen runs to this machine alone, and ends with the command."""

import json
import os
import signal
import subprocess
import sys
import urllib.request

import psutil
import pytest
from torch.utils.tensorboard import SummaryWriter

from cldctl.runs import board
from tests.support.made_up import run_with
from tests.support.tools import held_port, invoke, is_gone, wait_for


@pytest.fixture
def runs(tmp_path):
    root = tmp_path / "runs"
    for name in ("one", "two", "other"):
        run = run_with(root / name)
        with SummaryWriter(str(run.tensorboard)) as writer:
            writer.add_scalar("train/loss", 1.5, 1)
    return root


@pytest.fixture
def started(runs):
    """Start the command as a process, and read its address; it is ended afterwards, whatever happens."""
    processes = []

    def start(*words):
        # Two that start at the same time on the usual port both see that it is free, and one of them shows the other's.
        with held_port() as port:
            own = "--port", str(port)
        process = subprocess.Popen(
            [sys.executable, "-m", "cldctl", "board", *words, *own],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "CLDCTL_RUNS": str(runs)},
        )  # fmt: skip
        processes.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def served(url):
    with urllib.request.urlopen(f"{url}data/runs", timeout=30) as answer:
        return sorted(json.load(answer))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_it_serves_the_chosen_runs_and_dies_with_the_command(started, number, code):
    process, url = started("one", "two")
    wait_for(lambda: served(url) == ["one", "two"])
    (child,) = psutil.Process(process.pid).children()

    def addresses() -> set[str]:
        return {connection.laddr.ip for connection in child.net_connections() if connection.status == "LISTEN"}

    # The kernel's table of connections, read while others change, may lack one.
    assert wait_for(addresses) == {"127.0.0.1"}
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code
    port = url.rstrip("/").rpartition(":")[2]
    assert f"ssh -N -L {port}:localhost:{port} " in said
    wait_for(lambda: is_gone(child))


def test_one_that_ends_says_why(runs, monkeypatch, tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho loading\necho 'ValueError: no such thing'\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(board.sys, "executable", str(script))
    run_with(runs / "bare")
    assert "has no curves yet" in invoke("board", "bare", runs=runs, code=1).stderr
    failed = invoke("board", "one", runs=runs, code=1)
    assert "TensorBoard ended with 3: ValueError: no such thing" in failed.stderr


def test_a_port_that_is_taken_is_refused(runs):
    with held_port() as port:
        refused = invoke("board", "one", "--port", str(port), runs=runs, code=2)
    assert f"--port {port} cannot be used (Address already in use)" in refused.stderr
