"""One writer per run folder."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from cld_core.errors import LeaseHeldError, LeaseLostError
from cld_core.run import lease as leases
from cld_core.run.atomic import write_json
from cld_core.run.lease import Lease, newest, seems_alive
from cld_core.run.process import start_time
from cld_core.small_files import read_json


class Clock:
    """Time that passes only while `Lease.acquire` sleeps.

    Args:
        at_sleep: called each time, with a message.
    """

    def __init__(self, at_sleep: Callable[[str], object] = lambda text: None) -> None:
        self.now, self.at_sleep, self.time = 0.0, at_sleep, time.time

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.at_sleep("another owner is watched")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run" / "lease"


@pytest.fixture(autouse=True)
def _made(folder):
    folder.parent.mkdir()


def foreign(folder, number=1, **more):
    """A lease file of a job on another host."""
    folder.mkdir(exist_ok=True)
    owner = {"job_id": "77", "restart": 0, "host": "elsewhere", "pid": 12, "process_started": 1.0, **more}
    write_json(folder / f"{number:08d}.json", owner)


def test_a_held_folder_refuses_a_second_job_and_names_the_first(folder):
    first = Lease.acquire(folder, job_id="1")
    assert seems_alive(folder)
    with pytest.raises(LeaseHeldError, match=rf"job 1 .*process {os.getpid()}.*cldctl cancel run"):
        Lease.acquire(folder, job_id="2")
    first.check()
    first.release()
    assert not seems_alive(folder)
    Lease.acquire(folder, job_id="2").release()


def test_a_dead_process_of_this_host_is_taken_over_at_once(folder, monkeypatch):
    code = "import os; from pathlib import Path; from cld_core.run import Lease; "
    code += f"Lease.acquire(Path({str(folder)!r}), job_id='1'); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert newest(folder)[1]["job_id"] == "1"
    monkeypatch.setattr(leases, "time", Clock(at_sleep=pytest.fail))
    Lease.acquire(folder, job_id="2").release()


def test_a_silent_owner_elsewhere_is_taken_over_after_a_while(folder, monkeypatch):
    monkeypatch.setattr(leases, "time", clock := Clock())
    foreign(folder)
    lease = Lease.acquire(folder, job_id="2", stale_after_s=20.0)
    assert clock.now >= 20.0
    assert lease.number == 2
    lease.release()


def test_an_owner_elsewhere_that_shows_life_is_left_alone(folder, monkeypatch):
    monkeypatch.setattr(leases, "time", Clock(at_sleep=lambda text: foreign(folder, beat=1)))
    foreign(folder)
    with pytest.raises(LeaseHeldError, match="elsewhere"):
        Lease.acquire(folder, job_id="2")


def test_a_job_that_was_started_again_takes_over_from_its_former_process_at_once(folder, monkeypatch):
    monkeypatch.setattr(leases, "time", Clock(at_sleep=pytest.fail))
    foreign(folder, restart=3)
    lease = Lease.acquire(folder, job_id="77", restart=4)
    assert (lease.number, newest(folder)) == (2, (2, lease.owner))
    lease.release()
    foreign(folder, number=3, restart=4)
    with pytest.raises(pytest.fail.Exception, match="watched"):
        Lease.acquire(folder, job_id="77", restart=4)


def test_a_loser_sees_that_it_lost_and_leaves_the_winner_alone(folder):
    loser = Lease.acquire(folder, job_id="1", heartbeat_s=0.05)
    foreign(folder, number=loser.number + 1)
    with pytest.raises(LeaseLostError, match="job 77 on elsewhere"):
        loser.check()
    loser._thread.join(timeout=300)
    assert loser.lost
    assert not loser.owned()
    loser.release()
    assert newest(folder)[1]["job_id"] == "77"


@pytest.mark.parametrize(("later_s", "alive"), [(0.0, True), (0.5, True), (100.0, False)])
def test_the_same_process_though_the_clock_was_set(folder, later_s, alive):
    """Start times are derived from the clock; a process that was given the same id began at another time."""
    foreign(folder, host=socket.gethostname(), pid=os.getpid(), process_started=start_time(os.getpid()) + later_s)
    assert seems_alive(folder) is alive


def test_the_heartbeat_changes_the_file(folder):
    lease = Lease.acquire(folder, job_id="1", heartbeat_s=0.02)
    deadline = time.monotonic() + 300
    while "beat" not in read_json(folder / f"{lease.number:08d}.json") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert read_json(folder / f"{lease.number:08d}.json")["beat"] >= 1
    lease.release()


def test_of_many_that_want_it_one_gets_it(folder):
    won, lost = [], []

    def attempt(number):
        try:
            won.append(Lease.acquire(folder, job_id=str(number)))
        except LeaseHeldError:
            lost.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 15)
    won[0].release()


def test_old_numbers_are_cleared_away(folder):
    for job in range(12):
        Lease.acquire(folder, job_id=str(job)).release()
    assert newest(folder)[0] == 12
    assert len(list(folder.iterdir())) <= leases.KEPT_NUMBERS
