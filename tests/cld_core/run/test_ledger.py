"""The file of a ledger: it is read again when it has changed, and what cannot be written waits."""

import errno
import gc
import os

import pytest

from cld_core import files
from cld_core.run.events import Ended, Failed, JobRef, Started, Submitted
from cld_core.run.history import History
from cld_core.run.ledger import Ledger
from tests.support.clock import Clock
from tests.support.failing import Failing

STARTED = Started(attempt=0, job_id="7", step=0)
ENDED = Ended(attempt=0, cause="crashed", step=3)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "attempts.jsonl")


@pytest.fixture
def full(monkeypatch):
    """Let the disk be full, or not."""
    state = {"full": False}
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(files.os, "write", Failing(os.write, lambda call: state["full"], full))
    monkeypatch.setattr("cld_core.files.time", Clock())
    return state


def test_events_wait_in_order_and_are_known_meanwhile(ledger, full, capsys):
    assert ledger.note(Submitted(job=JobRef(cluster="any", job_id="7")))
    full["full"] = True
    assert not ledger.note(STARTED, within_s=5.0)
    assert not ledger.note(ENDED)
    assert len(ledger.events()) == 1
    assert ledger.full_history().last.cause == "crashed", "what waits is known"
    assert isinstance(ledger.settle(5.0), OSError)
    full["full"] = False
    assert ledger.settle(5.0) is None
    assert ledger.events()[1:] == [STARTED, ENDED]
    said = capsys.readouterr().out
    assert said.count("cannot be written (No space left on device); its lines wait in memory") == 1


def test_what_waits_is_written_before_the_next_event(ledger, full, capsys):
    full["full"] = True
    ledger.note(STARTED)
    full["full"] = False
    assert ledger.note(ENDED)
    assert ledger.events() == [STARTED, ENDED]
    assert "can be written again" in capsys.readouterr().out


def test_an_event_of_which_only_the_way_to_the_disk_failed_is_written_once(ledger, monkeypatch):
    broken = OSError(errno.EIO, os.strerror(errno.EIO))
    monkeypatch.setattr(files.os, "fsync", Failing(os.fsync, lambda call: call == 1, broken))
    assert ledger.note(STARTED, within_s=5.0)
    assert ledger.note(ENDED)
    assert ledger.events() == [STARTED, ENDED]


def test_a_disk_that_takes_the_beginning_of_a_line_only(ledger, monkeypatch):
    real, short = os.write, [True]

    def write(descriptor, data):
        return real(descriptor, data[:10] if short and short.pop() else data)

    monkeypatch.setattr(files.os, "write", write)
    assert ledger.note(STARTED, within_s=5.0)
    assert ledger.events() == [STARTED]


def test_a_ledger_that_grows_is_read_again_and_its_earlier_histories_are_forgotten(tmp_path):
    ledger = Ledger(tmp_path / "jobs.jsonl")
    for number in range(20):
        ledger.append(Failed("crash", job_id=f"1_{number}", restart=0, code=1))
        assert len(ledger.history().crashes) == number + 1
    assert ledger.history() is ledger.history(), "an unchanged file is not read again"
    gc.collect()
    mine = [it for it in gc.get_objects() if type(it) is History and "1_0" in it.crashes]
    assert len(mine) == 1
