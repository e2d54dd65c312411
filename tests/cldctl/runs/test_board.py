"""`cldctl board`: TensorBoard starts, serves the chosen runs to this machine alone, and ends with
the command."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import psutil
import pytest
from tensorboard.program import TensorBoard
from torch.utils.tensorboard import SummaryWriter

from cldctl.page import curves as board
from tests.support.made_up import run_with
from tests.support.tools import held_port, invoke, is_gone, wait_for


@pytest.fixture
def runs(tmp_path):
    root = tmp_path / "runs"
    for name in ("one", "two", "other"):
        with SummaryWriter(str(run_with(root / name).tensorboard)) as writer:
            writer.add_scalar("train/loss", 1.5, 1)
    return root


@pytest.fixture
def started(runs):
    """The command as a process, which is ended afterwards, whatever happens."""
    # Two that start at the same time on the usual port both see that it is free, and one of them
    # shows the other's.
    with held_port() as port:
        command = [sys.executable, "-m", "cldctl", "board", "one", "two", "--port", str(port)]
    env = {**os.environ, "CLDCTL_RUNS": str(runs)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        yield process
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_it_serves_the_chosen_runs_and_dies_with_the_command(started, number, code):
    url = started.stdout.readline().strip()
    wait_for(
        lambda: (
            sorted(json.load(urllib.request.urlopen(f"{url}data/runs", timeout=30)))
            == ["one", "two"]
        )
    )
    own = psutil.Process(started.pid)
    family = [own, *own.children(recursive=True)]

    def addresses():
        found = [connection for member in family for connection in member.net_connections()]
        return {connection.laddr.ip for connection in found if connection.status == "LISTEN"}

    # The kernel's table of connections, read while others change, may lack one.
    assert wait_for(addresses) == {"127.0.0.1"}
    started.send_signal(number)
    assert "ssh -N -L " in started.communicate(timeout=60)[1]
    assert started.returncode == code
    wait_for(lambda: all(is_gone(member) for member in family[1:]))


def test_one_that_does_not_start_or_stay_says_why(runs, monkeypatch):
    run_with(runs / "bare")
    monkeypatch.setattr(TensorBoard, "launch", lambda self: {}["no such thing"])
    failed = invoke("board bare", code=1)
    assert "has no curves yet" in failed.stderr
    assert "TensorBoard does not start: KeyError: 'no such thing'" in failed.stderr
    monkeypatch.setattr(TensorBoard, "launch", lambda self: None)
    assert "error: TensorBoard ended" in invoke("board one", code=1).stderr


def test_a_port_that_is_taken_is_refused_and_the_usual_one_is_not_needed(runs, monkeypatch):
    launched = []
    monkeypatch.setattr(TensorBoard, "launch", lambda self: launched.append(self.flags.port))
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        refused = invoke(f"board one --port {port}", code=2)
        assert f"--port {port} cannot be used (Address already in use)" in refused.stderr
        monkeypatch.setattr(board, "USUAL_PORT", port)
        shown = invoke("board one", code=1).stdout
    (other,) = launched
    assert shown == f"http://localhost:{other}/\n"
    assert other != port
