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


def _watched(now):
    pytest.fail("another owner is watched")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "lease"


def foreign(folder, number=1, **more):
    """A lease file of a job on another host."""
    folder.mkdir(exist_ok=True)
    owner = {
        "job_id": "77",
        "restart": 0,
        "host": "elsewhere",
        "pid": 12,
        "process_started": 1.0,
        **more,
    }
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
    monkeypatch.setattr(leases, "time", Clock(then=_watched))
    Lease.acquire(folder, job_id="2").release()


def test_a_silent_owner_elsewhere_is_taken_over_after_a_while(folder, monkeypatch):
    monkeypatch.setattr(leases, "time", clock := Clock())
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
    monkeypatch.setattr(leases, "time", Clock(then=_watched))
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
    """Start times are derived from the clock; a process that was given the same id began at another
    time."""
    foreign(
        folder,
        host=socket.gethostname(),
        pid=os.getpid(),
        process_started=start_time(os.getpid()) + later_s,
    )
    assert seems_alive(folder) is alive


def test_of_many_that_want_it_one_gets_it(folder):
    won, lost = [], []

    def attempt(number):
        try:
            won.append(Lease.acquire(folder, job_id=str(number)))
        except LeaseHeldError:
            lost.append(number)

    with ThreadPoolExecutor(16) as pool:
        pool.map(attempt, range(16))
    assert (len(won), len(lost)) == (1, 15)
    won[0].release()


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


def test_who_owns_the_folder_is_asked_again_before_anything_is_written(folder, blind, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_S", 1000.0)
    lease = Lease.acquire(folder, job_id="1")
    monkeypatch.setattr("cld_core.files.time", Clock())
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


def test_a_lease_that_cannot_be_released_raises_nothing(folder, blind, monkeypatch):
    lease = Lease.acquire(folder, job_id="1")
    monkeypatch.setattr("cld_core.files.time", Clock())
    blind(float("inf"))
    lease.release()
    assert not seems_alive(folder)
    assert leases.local_holder(folder) is None


def test_a_newcomer_that_cannot_see_the_owner_waits(folder, monkeypatch, blind):
    """A live owner is not taken for dead because the newcomer's view of it fails."""
    foreign(folder)
    monkeypatch.setattr(leases, "time", clock := Clock())
    monkeypatch.setattr(
        leases.os, "listdir", lambda path, real=os.listdir: seen(clock, real(path), folder)
    )
    with pytest.raises(LeaseHeldError, match="elsewhere"):
        Lease.acquire(folder, job_id="2")
    assert clock.now >= 30.0


def seen(clock, names, folder):
    """A listing that fails between 1 and 30 seconds; then the owner has beaten once more."""
    if 1 <= clock.now < 30:
        raise STALE
    if clock.now >= 30:
        foreign(folder, beat=1)
    return names


@pytest.mark.parametrize("content", ["", '{"host": 7, "pid": -5, "job_id": null, "restart": "3"}'])
def test_a_damaged_lease_file_raises_nothing(folder, monkeypatch, content):
    folder.mkdir()
    (folder / "00000001.json").write_text(content)
    assert seems_alive(folder)
    assert leases.local_holder(folder) is None
    assert "unknown" in leases.held_message(folder.parent, newest(folder)[1])
    assert "unknown" in leases.held_message(folder.parent, {})
    monkeypatch.setattr(leases, "time", clock := Clock())
    Lease.acquire(folder, job_id="2").release()
    assert clock.now >= 45.0, "it is watched"


def test_a_link_that_was_made_although_it_is_said_to_exist(folder, monkeypatch):
    """As a network file system answers a request that it got twice."""

    def twice(source, target, real=os.link):
        real(source, target)
        raise FileExistsError

    monkeypatch.setattr(leases.os, "link", twice)
    lease = Lease.acquire(folder, job_id="1")
    assert lease.number == 1
    lease.release()
