"""One writer per run folder."""

import errno
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from cld_core.errors import LeaseHeldError, LeaseLostError
from cld_core.files import write_json
from cld_core.run import lease as leases
from cld_core.run.lease import Lease, newest, seems_alive
from cld_core.run.pids import start_time
from tests.support.clock import Clock
from tests.support.failing import Failing
from tests.support.tools import wait_for

NEVER = Clock(then=lambda now: pytest.fail("another owner is watched"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "lease"


def foreign(folder, number=1, **more):
    """A lease file of a job on another host."""
    folder.mkdir(exist_ok=True)
    owner = {"job_id": "77", "restart": 0, "host": "elsewhere", "pid": 12, "process_started": 1.0}
    write_json(folder / f"{number:08d}.json", {**owner, **more})


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
    code = (
        "import os; from pathlib import Path; from cld_core.run import Lease; "
        f"Lease.acquire(Path({str(folder)!r}), job_id='1'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert newest(folder)[1]["job_id"] == "1"
    monkeypatch.setattr(leases, "time", NEVER)
    Lease.acquire(folder, job_id="2").release()


def test_a_silent_owner_elsewhere_is_taken_over_after_a_while(folder, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(leases, "time", clock)
    foreign(folder)
    lease = Lease.acquire(folder, job_id="2")
    assert clock.now >= 45.0
    assert lease.number == 2
    lease.release()


def test_an_owner_elsewhere_that_shows_life_is_left_alone(folder, monkeypatch):
    monkeypatch.setattr(leases, "time", Clock(then=lambda now: foreign(folder, beat=1)))
    foreign(folder)
    with pytest.raises(LeaseHeldError, match="elsewhere"):
        Lease.acquire(folder, job_id="2")


def test_a_job_that_was_started_again_takes_over_from_its_former_process_at_once(
    folder, monkeypatch
):
    monkeypatch.setattr(leases, "time", NEVER)
    foreign(folder, restart=3)
    lease = Lease.acquire(folder, job_id="77", restart=4)
    assert (lease.number, newest(folder)) == (2, (2, lease.owner))
    lease.release()
    foreign(folder, number=3, restart=4)
    with pytest.raises(pytest.fail.Exception, match="watched"):
        Lease.acquire(folder, job_id="77", restart=4)


def test_a_loser_sees_that_it_lost_and_leaves_the_winner_alone(folder, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.05)
    loser = Lease.acquire(folder, job_id="1")
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
    """Start times are derived from the clock; a later process of the same id began much later."""
    began = start_time(os.getpid()) + later_s
    foreign(folder, host=socket.gethostname(), pid=os.getpid(), process_started=began)
    assert seems_alive(folder) is alive


def test_one_of_many_jobs_gets_the_folder(folder):
    def attempt(number):
        try:
            return Lease.acquire(folder, job_id=str(number))
        except LeaseHeldError:
            return None

    with ThreadPoolExecutor(16) as pool:
        (won,) = filter(None, pool.map(attempt, range(16)))
    won.release()


STALE = OSError(errno.ESTALE, os.strerror(errno.ESTALE))


@pytest.fixture
def blind(monkeypatch):
    """Let `os.listdir` fail so many times."""
    real = os.listdir

    def let(times):
        monkeypatch.setattr(leases.os, "listdir", Failing(real, lambda call: call <= times, STALE))

    return let


@pytest.mark.parametrize("function", ["listdir", "utime"])
def test_the_heart_beats_on_after_a_fault(folder, monkeypatch, function):
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.02)
    lease = Lease.acquire(folder, job_id="1")
    failing = Failing(getattr(os, function), lambda call: call <= 3, STALE)
    with monkeypatch.context() as patched:
        patched.setattr(leases.os, function, failing)
        wait_for(lambda: failing.calls > 2)
    beat = lease._file.stat().st_mtime_ns
    wait_for(lambda: lease._file.stat().st_mtime_ns > beat)
    assert lease._thread.is_alive()
    assert not lease.lost
    lease.release()
    assert newest(folder) == (1, None)


def test_ownership_is_checked_again_before_anything_is_written(
    folder, blind, monkeypatch, disk_clock
):
    monkeypatch.setattr(leases, "HEARTBEAT_S", 1000.0)
    lease = Lease.acquire(folder, job_id="1")
    blind(3)
    lease.check()
    blind(float("inf"))
    assert lease.owned(), "what cannot be seen is not lost"
    with pytest.raises(OSError, match="Stale file handle"):
        lease.check()
    foreign(folder, number=2)
    blind(3)
    with pytest.raises(LeaseLostError, match="job 77 on elsewhere"):
        lease.check()


def test_a_lease_that_cannot_be_released_raises_nothing(folder, blind, disk_clock):
    lease = Lease.acquire(folder, job_id="1")
    blind(float("inf"))
    lease.release()
    assert not seems_alive(folder)
    assert leases.local_holder(folder) is None


def test_a_newcomer_that_cannot_see_the_owner_waits(folder, monkeypatch, blind):
    """Its view fails between seconds 1 and 30; then the owner has beaten once more."""
    clock = Clock()
    real = os.listdir

    def listdir(path):
        if 1 <= clock.now < 30:
            raise STALE
        if clock.now >= 30:
            foreign(folder, beat=1)
        return real(path)

    foreign(folder)
    monkeypatch.setattr(leases, "time", clock)
    monkeypatch.setattr(leases.os, "listdir", listdir)
    with pytest.raises(LeaseHeldError, match="elsewhere"):
        Lease.acquire(folder, job_id="2")
    assert clock.now >= 30.0


@pytest.mark.parametrize("content", ["", '{"host": 7, "pid": -5, "job_id": null, "restart": "3"}'])
def test_a_damaged_lease_file_raises_nothing(folder, monkeypatch, content):
    folder.mkdir()
    (folder / "00000001.json").write_text(content)
    assert seems_alive(folder)
    assert leases.local_holder(folder) is None
    assert "unknown" in leases.held_message(folder.parent, newest(folder)[1])
    assert "unknown" in leases.held_message(folder.parent, {})
    clock = Clock()
    monkeypatch.setattr(leases, "time", clock)
    Lease.acquire(folder, job_id="2").release()
    assert clock.now >= 45.0, "it is watched"


def test_a_network_file_system_that_repeats_a_link_and_reports_that_it_exists(folder, monkeypatch):
    real = os.link

    def twice(source, target):
        real(source, target)
        raise FileExistsError

    monkeypatch.setattr(leases.os, "link", twice)
    lease = Lease.acquire(folder, job_id="1")
    assert lease.number == 1
    lease.release()
