"""The lines of a ledger, of later versions too, and its file: events that cannot be written yet."""

import errno
import gc
import json
import os
import threading

import pytest

from cld_core import files
from cld_core.records import RecordError, from_plain
from cld_core.run import events
from cld_core.run.events import KINDS, Ended, Failed, JobRef, Started, Submitted
from cld_core.run.history import History
from cld_core.run.ledger import Ledger, parse, to_line
from tests.support.failing import FULL_DISK, Failing

JOB = JobRef(
    cluster="local", job_id="7", logs="/logs", restarts=True, details={"pid": 12, "host": "a"}
)
STARTED = Started(
    attempt=1,
    job_id="7",
    step=10,
    host="n3",
    warning="no GPU",
    versions={"torch": "2"},
    hosts=("n3", "n4"),
    began=2.5,
)
ENDED = Ended(attempt=1, cause="crashed", step=17, detail="KeyError", bug=True)
EXAMPLES = (
    events.Requested(
        steps=5, overrides=("train.steps=5",), profile="juwels", code="ab12", from_step=2, pid=12
    ),
    Submitted(job=JOB, successor_of="6", shards=(3, 7), code="ab12"),
    STARTED,
    ENDED,
    events.Wished(job_id="7", cause="crashed", delay_s=10.0, exclude=("n1",)),
    events.Labelled(add=("paper",), remove=("draft",)),
)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "attempts.jsonl")


@pytest.fixture
def full(monkeypatch, disk_clock):
    """An event; while it is set, the disk is full."""
    full = threading.Event()
    monkeypatch.setattr(files.os, "write", Failing(os.write, lambda call: full.is_set(), FULL_DISK))
    return full


def test_events_wait_in_order_and_are_known_meanwhile(ledger, full, capsys):
    assert ledger.note(Submitted(job=JobRef(cluster="any", job_id="7")))
    full.set()
    assert not ledger.note(STARTED, within_s=5.0)
    assert not ledger.note(ENDED)
    assert len(ledger.events()) == 1
    assert ledger.full_history().last.cause == "crashed", "what waits is known"
    assert isinstance(ledger.settle(5.0), OSError)
    full.clear()
    assert ledger.settle(5.0) is None
    assert ledger.events()[1:] == [STARTED, ENDED]
    words = "cannot be written (No space left on device); its lines wait in memory"
    assert capsys.readouterr().out.count(words) == 1


def test_events_that_wait_are_written_before_the_next_one(ledger, full, capsys):
    full.set()
    ledger.note(STARTED)
    full.clear()
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
    real = os.write
    lengths = iter([10])
    monkeypatch.setattr(
        files.os, "write", lambda file, data: real(file, data[: next(lengths, len(data))])
    )
    assert ledger.note(STARTED, within_s=5.0)
    assert ledger.events() == [STARTED]


def test_a_ledger_that_grows_is_read_again_and_its_earlier_histories_are_forgotten(ledger):
    for number in range(20):
        ledger.append(Failed("crash", job_id=f"1_{number}", restart=0, code=1))
        assert len(ledger.history().crashes) == number + 1
    assert ledger.history() is ledger.history(), "an unchanged file is not read again"
    gc.collect()
    mine = [it for it in gc.get_objects() if type(it) is History and "1_0" in it.crashes]
    assert len(mine) == 1


@pytest.mark.parametrize("kind", KINDS.values())
def test_every_kind_has_fields_that_a_line_can_hold(kind):
    with pytest.raises(RecordError, match=r"missing|an object"):
        from_plain(kind, {} if kind is not events.Labelled else [])


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: events.name_of(type(event)))
def test_a_line_turns_back_into_an_equal_event(event):
    line = to_line(event)
    assert "\n" not in line
    assert parse(line) == event
    assert list(json.loads(line))[:2] == ["time", "event"]


def test_unknown_fields_and_causes_are_kept():
    assert parse('{"time": 1.0, "event": "ended", "attempt": 1, "cause": "moved"}').cause == "moved"
    line = '{"time": 1.0, "event": "cancelled", "job_id": "7", "by": "ann", "why": ["a", "b"]}'
    event = parse(line)
    assert event.extra == {"by": "ann", "why": ["a", "b"]}
    assert to_line(event) == line


@pytest.mark.parametrize(
    "line",
    [
        '{"time": 1, "event": "paused", "job_id": "7"}',
        '{"time": 1, "event": "ended", "reason": "tired"}',
        '{"time": 1, "event": "submitted", "job_id": "7"}',
        '{"time": 1, "event": "started", "attempt": "first", "job_id": "17", "step": 0}',
        '{"time": 1, "event": "ended", "attempt": 1, "cause": {"a": 1}}',
        '{"time": 1, "event": "requested", "steps": 99999999999999999999}',
        '{"time": 1, "event": "wished", "job_id": "1", "cause": "crashed", "delay_s": 1e300}',
        '{"time": 1, "event": "submitted", "job": {"cluster": "slurm", "job_id": "--user=root"}}',
        '{"time": 1, "event": "submitted", "job": {"cluster": "../x", "job_id": "1"}}',
        '{"event": "ended"}',
        '{"time": null, "event": "ended"}',
        '{"time": 1e999, "event": "x"}',
        '{"time": NaN, "event": "x"}',
        '{"time": 1, "event": 3}',
        "",
        "{",
        "[]",
        "3",
        "[" * 5000,
    ],
)
def test_a_line_that_is_not_an_event_of_this_version_is_skipped(line):
    assert parse(line) is None


def test_a_torn_line_spoils_only_itself(ledger):
    assert ledger.events() == []
    ledger.append(EXAMPLES[0])
    with ledger.path.open("a") as file:
        file.write('{"time": 1, "event": "sta')
    ledger.append(STARTED)
    assert ledger.events() == [EXAMPLES[0], STARTED]
