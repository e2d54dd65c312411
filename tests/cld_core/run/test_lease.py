"""One writer per run folder."""

import os
import subprocess
import sys
import threading
import time

import pytest

from cld_core.errors import LeaseHeldError, LeaseLostError
from cld_core.run import lease as leases
from cld_core.run.atomic import read_json, write_json
from cld_core.run.lease import Lease, newest, seems_alive


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


def test_a_dead_process_of_this_host_is_taken_over_at_once(folder):
    code = "import os; from pathlib import Path; from cld_core.run import Lease; "
    code += f"Lease.acquire(Path({str(folder)!r}), job_id='1'); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert newest(folder)[1]["job_id"] == "1"
    before = time.monotonic()
    lease = Lease.acquire(folder, job_id="2", stale_after_s=30)
    assert time.monotonic() - before < 5
    lease.release()


def test_a_silent_owner_elsewhere_is_taken_over_after_a_while(folder):
    foreign(folder)
    before = time.monotonic()
    lease = Lease.acquire(folder, job_id="2", stale_after_s=1.0)
    assert time.monotonic() - before >= 1.0
    assert lease.number == 2
    lease.release()


def test_an_owner_elsewhere_that_shows_life_is_left_alone(folder):
    foreign(folder)
    beat = threading.Timer(0.3, lambda: foreign(folder, beat=1))
    beat.start()
    with pytest.raises(LeaseHeldError, match="elsewhere"):
        Lease.acquire(folder, job_id="2", stale_after_s=5.0)


def test_a_job_that_was_started_again_takes_over_from_its_former_process_at_once(folder, monkeypatch):
    def waiting(seconds):
        raise AssertionError("it watches its former process")

    monkeypatch.setattr(leases.time, "sleep", waiting)
    foreign(folder, restart=3)
    lease = Lease.acquire(folder, job_id="77", restart=4)
    assert (lease.number, newest(folder)) == (2, (2, lease.owner))
    lease.release()
    foreign(folder, number=3, restart=4)
    with pytest.raises(AssertionError, match="watches"):
        Lease.acquire(folder, job_id="77", restart=4)


def test_a_loser_sees_that_it_lost_and_leaves_the_winner_alone(folder):
    loser = Lease.acquire(folder, job_id="1", heartbeat_s=0.05)
    foreign(folder, number=loser.number + 1)
    with pytest.raises(LeaseLostError, match="job 77 on elsewhere"):
        loser.check()
    deadline = time.monotonic() + 5
    while not loser.lost and time.monotonic() < deadline:
        time.sleep(0.01)
    assert loser.lost
    assert not loser.owned()
    loser.release()
    assert newest(folder)[1]["job_id"] == "77"


def test_the_heartbeat_changes_the_file(folder):
    lease = Lease.acquire(folder, job_id="1", heartbeat_s=0.02)
    deadline = time.monotonic() + 5
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
