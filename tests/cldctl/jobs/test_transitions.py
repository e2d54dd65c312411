"""What a hook hears about a ledger: each change once, and an end together with what is decided about it."""

import pytest

from cld_core.run.events import (
    CAUSES,
    Cancelled,
    DiedEarly,
    Ended,
    Explained,
    GivenUp,
    JobRef,
    NotBegun,
    NotCancelled,
    NotRequeued,
    Requeued,
    Started,
    Submitted,
    Unfit,
)
from cld_core.run.history import History
from cldctl.clusters.records import Seen
from cldctl.jobs.transitions import changes
from cldctl.runs.state import state_of


def submitted(job_id="7", restarts=True, successor_of=None):
    return Submitted(job=JobRef(cluster="scripted", job_id=job_id, restarts=restarts), successor_of=successor_of)


def unfit(restart=0, job_id="7", rank=0):
    return Unfit(job_id=job_id, restart=restart, rank=rank, host="n1", check="gpu", reason="n1: gpu: it is gone")


def requeued(cause, job_id="7"):
    return Requeued(job_id=job_id, cause=cause)


def started(attempt=0, step=0, job_id="7"):
    return Started(attempt=attempt, job_id=job_id, step=step, host="n1")


def ended(cause, step=30, attempt=0, detail=None):
    return Ended(attempt=attempt, cause=cause, step=step, detail=detail)


def told(*events, is_over=False):
    return [(change.state, change.cause, change.step) for change in changes(events, is_over=is_over)]


def test_a_requeue_that_comes_to_nothing_is_told_as_a_change_of_its_own():
    events = [submitted(), started(), ended("crashed"), Requeued(job_id="7", cause="crashed")]
    before = changes(events)[-1].place
    last = changes([*events, NotRequeued(job_id="7", reason="no")])[-1]
    assert last.state == "STOPPED"
    assert last.place > before, "so that a hook that has heard of the requeue hears of this, too"


BEGUN = submitted(), started()
NOT_CANCELLED = Cancelled(job_id="7"), NotCancelled(job_id="7", reason="nobody answers")

# What happened, and the phase of the newest job.
LEDGERS = {
    "trains": (BEGUN, "running"),
    "finished": ((*BEGUN, ended("finished")), "gone"),
    "preempted": ((*BEGUN, ended("preempted")), "pending"),
    "crashed, and again": ((*BEGUN, ended("crashed"), requeued("crashed")), "pending"),
    "crashed, not requeued": ((*BEGUN, ended("crashed"), NotRequeued(job_id="7", reason="no")), "gone"),
    "given up": ((*BEGUN, ended("crashed"), GivenUp(job_id="7", reason="4 crashes")), "gone"),
    "not begun": ((submitted(), NotBegun(job_id="7", reason="no checkpoint")), "gone"),
    "unfit at last": ((submitted(), unfit(), GivenUp(job_id="7", reason="11 starts")), "gone"),
    "unfit without a scheduler": ((submitted(restarts=False), unfit()), "gone"),
    "unfit, then fit": ((submitted(), unfit(), requeued("unfit"), started()), "running"),
    "unfit after a crash": ((*BEGUN, ended("crashed"), requeued("crashed"), unfit(1), requeued("unfit")), "pending"),
    "unfit, cancelled": ((submitted(), unfit(), requeued("unfit"), Cancelled(job_id="7")), "gone"),
    "resumed, unfit": ((*BEGUN, ended("crashed"), submitted("8"), unfit(0, "8"), requeued("unfit", "8")), "pending"),
    "a successor is unfit": (
        (
            submitted(),
            submitted("8", successor_of="7"),
            started(),
            ended("node_failure"),
            unfit(0, "8"),
            requeued("unfit", "8"),
        ),
        "pending",
    ),
    "setup too long": ((submitted(), DiedEarly(job_id="7", restart=0, reason="setup"), requeued("timeout")), "pending"),
    "cancelled": ((*BEGUN, Cancelled(job_id="7"), ended("terminated")), "gone"),
    "not cancelled": ((*BEGUN, *NOT_CANCELLED), "running"),
    "not cancelled, then terminated": ((*BEGUN, *NOT_CANCELLED, ended("terminated")), "gone"),
    "not cancelled, requeued": ((*BEGUN, ended("crashed"), requeued("crashed"), *NOT_CANCELLED), "pending"),
    "cancelled at the second try": ((submitted(), *NOT_CANCELLED, Cancelled(job_id="7")), "gone"),
}


@pytest.mark.parametrize(("happened", "phase"), LEDGERS.values(), ids=LEDGERS)
def test_a_hook_hears_the_state_that_status_shows(happened, phase):
    """Two folds of the same ledger: one tells of changes, the other knows the launcher's answer."""
    newest = [event for event in happened if isinstance(event, Submitted)][-1].job.job_id
    seen = {"7": Seen("gone"), newest: Seen(phase)}
    state, _ = state_of(History.of(happened), lambda job: seen[job.job_id], 1000.0)
    assert changes(happened)[-1].state == state


@pytest.mark.parametrize("cause", CAUSES)
def test_after_any_cause_a_hook_hears_what_status_shows(cause):
    test_a_hook_hears_the_state_that_status_shows((submitted(restarts=False), started(), ended(cause)), "gone")


def test_a_silent_end_is_told_with_the_next_beginning():
    events = submitted(), started(), Explained(attempt=0, cause="node_failure"), started(1, 20)
    assert told(*events) == [("RUNNING", None, 0), ("RUNNING", "node_failure", 20)]
