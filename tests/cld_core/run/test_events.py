"""The lines of a ledger: nothing is lost on the way to the file and back, even of versions to come."""

import json

import pytest

from cld_core.codec import RecordError, from_plain
from cld_core.run import events
from cld_core.run.events import KINDS, JobRef
from cld_core.run.ledger import Ledger, parse, to_line

JOB = JobRef(cluster="local", job_id="7", logs="/logs", restarts=True, details={"pid": 12, "host": "a"})
STARTED = events.Started(
    attempt=1, job_id="7", step=10, host="n3", warning="no GPU", versions={"torch": "2"}, hosts=("n3", "n4"), began=2.5
)
EXAMPLES = (
    events.Requested(steps=5, overrides=("train.steps=5",), profile="juwels", code="ab12", from_step=2, pid=12),
    events.Submitted(job=JOB, successor_of="6", shards=(3, 7), code="ab12"),
    STARTED,
    events.Ended(attempt=1, cause="crashed", step=17, detail="KeyError", bug=True),
    events.Wished(job_id="7", cause="crashed", delay_s=10.0, exclude=("n1",)),
    events.Labelled(add=("paper",), remove=("draft",)),
)


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


def test_unknown_fields_are_kept():
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
        *("", "{", "[]", "3", "[" * 5000, '{"event": "ended"}', '{"time": null, "event": "ended"}'),
        *('{"time": 1e999, "event": "x"}', '{"time": NaN, "event": "x"}', '{"time": 1, "event": 3}'),
    ],
)
def test_what_is_no_event_of_this_version_is_skipped(line):
    assert parse(line) is None


def test_unknown_causes_are_kept():
    event = parse('{"time": 1.0, "event": "ended", "attempt": 1, "cause": "moved"}')
    assert event.cause == "moved"


def test_a_torn_line_spoils_only_itself(tmp_path):
    ledger = Ledger(tmp_path / "attempts.jsonl")
    assert ledger.events() == []
    ledger.append(EXAMPLES[0])
    with ledger.path.open("a") as file:
        file.write('{"time": 1, "event": "sta')
    ledger.append(STARTED)
    assert ledger.events() == [EXAMPLES[0], STARTED]
