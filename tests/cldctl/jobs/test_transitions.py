"""What a hook hears about a ledger: each change once, and an end together with what is decided about it."""

import pytest

from cld_core.run.events import (
    Cancelled,
    DiedEarly,
    Ended,
    Explained,
    GivenUp,
    JobRef,
    NotBegun,
    NotRequeued,
    Requested,
    Requeued,
    RolledBack,
    Started,
    Submitted,
)
from cldctl.jobs.transitions import changes

REQUESTED = Requested(steps=100)


def submitted(job_id="7", restarts=True):
    return Submitted(job=JobRef(cluster="made-up", job_id=job_id, restarts=restarts))


def started(attempt=0, step=0, job_id="7"):
    return Started(attempt=attempt, job_id=job_id, step=step, host="n1")


def ended(cause, step=30, attempt=0, detail=None):
    return Ended(attempt=attempt, cause=cause, step=step, detail=detail)


def told(*events, is_over=False):
    return [(change.state, change.cause, change.step) for change in changes(events, is_over=is_over)]


@pytest.mark.parametrize(
    ("cause", "state"),
    [
        ("finished", "FINISHED"),
        ("timeout", "STOPPED"),
        ("terminated", "STOPPED"),
        ("cancelled", "CANCELLED"),
        ("killed", "LOST"),
        ("crashed", "FAILED"),
        ("out_of_memory", "FAILED"),
        ("nonfinite", "FAILED"),
        ("save_failed", "FAILED"),
    ],
)
def test_a_beginning_and_an_end(cause, state):
    events = REQUESTED, submitted(), started(), ended(cause)
    assert told(*events) == [("RUNNING", None, 0), (state, cause, 30)]


@pytest.mark.parametrize("cause", ["preempted", "node_failure", "requeued"])
def test_a_job_that_its_launcher_starts_again_is_requeued(cause):
    assert told(submitted(), started(), ended(cause))[-1] == ("REQUEUED", cause, 30)
    assert told(submitted(restarts=False), started(), ended(cause))[-1][0] in ("STOPPED", "LOST")


def test_an_end_and_its_requeue_are_one_change():
    events = [submitted(), started(), ended("crashed", detail="ValueError: no"), Requeued(job_id="7", cause="crashed")]
    last = changes(events)[-1]
    assert (last.state, last.cause, last.step, last.place) == ("REQUEUED", "crashed", 30, 3)
    assert last.reason == "ValueError: no"
    assert told(*events, started(1, 20))[-1] == ("RUNNING", "crashed", 20), "and why the one before ended"


@pytest.mark.parametrize(
    ("decision", "state", "reason"),
    [
        (GivenUp(job_id="7", reason="4 crashes in a row"), "FAILED", "4 crashes in a row"),
        (NotRequeued(job_id="7", reason="nobody answers"), "STOPPED", "could not be requeued: nobody answers"),
    ],
)
def test_an_end_after_which_the_job_does_not_begin_again(decision, state, reason):
    last = changes([submitted(), started(), ended("crashed"), decision])[-1]
    assert (last.state, last.cause, last.reason) == (state, "crashed", reason)


def test_a_requeue_that_comes_to_nothing_is_told_as_a_change_of_its_own():
    events = [submitted(), started(), ended("crashed"), Requeued(job_id="7", cause="crashed")]
    before = changes(events)[-1].place
    last = changes([*events, NotRequeued(job_id="7", reason="no")])[-1]
    assert last.state == "STOPPED"
    assert last.place > before, "so that a hook that has heard of the requeue hears of this, too"


def test_a_job_that_cannot_begin_has_failed():
    assert told(submitted(), NotBegun(job_id="7", reason="no checkpoint")) == [("FAILED", None, None)]
    events = submitted(), started(), ended("preempted"), DiedEarly(job_id="7", restart=1, reason="no disk")
    assert told(*events)[-1] == ("FAILED", "crashed", None)
    assert told(*events, Requeued(job_id="7", cause="crashed"))[-1] == ("REQUEUED", "crashed", None)


def test_a_rollback_changes_no_state():
    assert len(told(submitted(), started(), RolledBack(attempt=0, to_step=10, reason="nan"))) == 1


def test_a_silent_end_is_told_with_the_next_beginning():
    events = submitted(), started(), Explained(attempt=0, cause="node_failure"), started(1, 20)
    assert told(*events) == [("RUNNING", None, 0), ("RUNNING", "node_failure", 20)]


def test_what_is_found_out_about_an_end_is_part_of_it():
    events = submitted(), started(), ended("crashed"), Explained(attempt=0, cause="out_of_memory")
    assert told(*events, Requeued(job_id="7", cause="crashed"))[-1] == ("REQUEUED", "out_of_memory", 30)


class TestCancelling:
    def test_a_running_job_notes_its_end_itself(self):
        events = submitted(), started(), Cancelled(job_id="7")
        assert told(*events) == [("RUNNING", None, 0)]
        assert told(*events, ended("terminated"))[-1] == ("CANCELLED", "cancelled", 30)
        assert told(*events, is_over=True)[-1] == ("CANCELLED", "cancelled", None), "it was killed"

    def test_a_waiting_job_notes_nothing(self):
        assert told(submitted(), Cancelled(job_id="7")) == [("CANCELLED", "cancelled", None)]

    def test_one_that_waits_to_begin_again(self):
        events = submitted(), started(), ended("preempted"), Requeued(job_id="7", cause="preempted")
        assert told(*events, Cancelled(job_id="7"))[-1] == ("CANCELLED", "preempted", 30)

    def test_what_was_over_stays_what_it_was(self):
        events = submitted(), started(), ended("finished"), Cancelled(job_id="7")
        assert told(*events)[-1][0] == "FINISHED"
        assert len(told(*events)) == 2

    def test_a_waiting_continuation_of_a_failed_run(self):
        events = submitted(), started(), ended("crashed"), REQUESTED, submitted("8"), Cancelled(job_id="8")
        assert told(*events)[-1] == ("CANCELLED", "cancelled", None)
