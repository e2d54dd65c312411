"""Ranks that are processes: where they meet, through which interface they talk, and what a suspension does."""

import datetime
import signal
import time

import psutil
import pytest
import torch
import torch.multiprocessing as multiprocessing

from cld_core import ranks as distributed
from cld_core.ranks import Consensus, join
from cld_core.rendezvous import Place
from cld_core.stop import StopCode
from tests.support.tools import wait_for


def _talk(rank: int, meeting: str, out: str) -> None:
    torch.set_num_threads(1)
    ranks = join(Place(rank, 2, init_method=f"file://{meeting}"), gpu=False, timeout_s=600.0)
    said = (ranks.from_first("hello" if ranks.is_first else None), ranks.gather(rank))
    said = (*said, ranks.sums(torch.tensor([1.0, float(rank)])).tolist())
    consensus = Consensus(ranks)
    consensus.begin(StopCode.NONE if ranks.is_first else StopCode.USR2)
    torch.save((*said, int(consensus.result())), f"{out}.{rank}")
    ranks.leave()


def test_ranks_meet_at_a_file_talk_and_leave_nothing(tmp_path):
    multiprocessing.spawn(_talk, args=(str(tmp_path / "meeting"), str(tmp_path / "out")), nprocs=2)
    first, second = (torch.load(tmp_path / f"out.{rank}") for rank in range(2))
    assert first == ("hello", [0, 1], [2.0, 1.0], StopCode.USR2)
    assert second == ("hello", None, [2.0, 1.0], StopCode.USR2)
    assert not (tmp_path / "meeting").exists()


# Seconds: of an exchange that nothing holds up, however busy the machine is, and of one that is held up for good.
LONG_S, SHORT_S = 300.0, 3.0


def _add_up(rank: int, meeting: str, pipe) -> None:
    """Join, then talk to the other rank when the test says so: with the limit of `join`, then with a short one."""
    torch.set_num_threads(1)
    distributed._PATIENCE_S = 0.0
    ranks = join(Place(rank, 2, init_method=f"file://{meeting}"), gpu=False, timeout_s=LONG_S)
    backend = ranks.control._get_backend(torch.device("cpu"))
    pipe.send(backend.options._timeout.total_seconds())
    for limit in (LONG_S, SHORT_S):
        # Not by joining with a short limit: two processes need not meet in it.
        backend._set_default_timeout(datetime.timedelta(seconds=limit))
        pipe.recv()
        pipe.send("talking")
        try:
            pipe.send(ranks.sums(torch.tensor([rank / 2])).item())
        except RuntimeError as error:
            pipe.send(f"failed: {error}")
    ranks.leave()


@pytest.fixture
def two_ranks(tmp_path):
    """Two processes with `_add_up`, and a pipe to each."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for rank in range(2):
        ours, theirs = context.Pipe()
        process = context.Process(target=_add_up, args=(rank, str(tmp_path / "meeting"), theirs), daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(psutil.Process(process.pid))
    yield processes, pipes
    for process in processes:
        process.kill()


def received(pipes) -> list:
    assert all(pipe.poll(120) for pipe in pipes), "a rank does not answer"
    return [pipe.recv() for pipe in pipes]


def suspend(process: psutil.Process) -> None:
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: process.status() == psutil.STATUS_STOPPED)


@pytest.mark.slow
def test_a_suspended_job_goes_on_if_the_limit_is_longer(two_ranks):
    """As with PreemptMode=SUSPEND: clocks run on while processes are stopped."""
    processes, pipes = two_ranks
    first, second = pipes
    assert received(pipes) == [LONG_S] * 2
    suspend(processes[1])
    first.send("talk")
    second.send("talk")
    assert received([first]) == ["talking"]
    wait_for(lambda: processes[0].status() == psutil.STATUS_SLEEPING)
    suspend(processes[0])
    time.sleep(1.5 * SHORT_S)
    for process in processes:
        process.send_signal(signal.SIGCONT)
    assert received([second]) == ["talking"]
    assert received(pipes) == [0.5] * 2

    suspend(processes[1])
    first.send("talk")
    assert received([first]) == ["talking"]
    (answer,) = received([first])
    assert "failed" in answer
    assert "imed out" in answer
