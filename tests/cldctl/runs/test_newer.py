"""An answer of half a minute ago, and what the ledger says since: each state is shown within seconds."""

import pytest

from cld_core.run import events
from cld_core.run.events import JobRef
from cld_core.run.history import History
from cldctl.clusters.records import Seen, Survey
from cldctl.runs.state import seen_by, state_of
from cldctl.runs.survey import Answers

ASKED, NOW = 1000.0, 1020.0
BEFORE, SINCE = ASKED - 100, ASKED + 15


def submitted(when):
    return events.Submitted(time=when, job=JobRef(cluster="any", job_id="1", restarts=True))


def started(when, attempt=0):
    return events.Started(time=when, attempt=attempt, job_id="1", step=0)


def ended(when, cause):
    return events.Ended(time=when, attempt=0, cause=cause, step=5, detail="what it died of")


NOT_REQUEUED = events.NotRequeued(time=SINCE, job_id="1", reason="no")


def requeued(when):
    return events.Requeued(time=when, job_id="1", cause="preempted")


def answers(phase, as_of, problem=None, **more):
    jobs = {} if phase is None else {("any", "1"): Seen(phase, **more)}
    return Answers({"any": Survey(jobs, problem, as_of)})


def state(happened, phase, as_of=ASKED, now=NOW, **more):
    history = History.of(happened)
    return state_of(history, seen_by(history, answers(phase, as_of, **more), now), now)[0]


BEGUN = (submitted(BEFORE), started(BEFORE))


@pytest.mark.parametrize(
    ("happened", "phase", "wanted"),
    [
        ((submitted(SINCE),), None, "PENDING"),
        ((submitted(SINCE),), "gone", "PENDING"),
        ((submitted(BEFORE), started(SINCE)), "pending", "RUNNING"),
        ((submitted(BEFORE), started(SINCE)), "gone", "RUNNING"),
        ((*BEGUN, ended(SINCE, "finished")), "running", "FINISHED"),
        ((*BEGUN, ended(SINCE, "cancelled")), "running", "CANCELLED"),
        ((*BEGUN, ended(SINCE, "nonfinite")), "running", "FAILED"),
        ((*BEGUN, ended(SINCE, "crashed")), "running", "RUNNING"),
        ((*BEGUN, ended(SINCE, "crashed")), "pending", "RUNNING"),
        ((*BEGUN, ended(SINCE, "crashed"), events.GivenUp(time=SINCE, reason="spent")), "running", "FAILED"),
        ((*BEGUN, ended(SINCE, "crashed"), requeued(SINCE + 1)), "running", "REQUEUED"),
        ((*BEGUN, ended(SINCE, "preempted"), requeued(SINCE)), "running", "REQUEUED"),
        ((*BEGUN, ended(SINCE, "preempted"), requeued(SINCE)), "gone", "REQUEUED"),
        ((*BEGUN, ended(SINCE, "preempted")), "running", "REQUEUED"),
        ((*BEGUN, ended(SINCE, "timeout"), NOT_REQUEUED), "running", "STOPPED"),
        ((*BEGUN, ended(BEFORE, "preempted"), requeued(BEFORE), started(SINCE, 1)), "pending", "RUNNING"),
        ((submitted(BEFORE), events.NotBegun(time=SINCE, job_id="1", reason="bad recipe")), "running", "FAILED"),
        # What the answer knows already.
        (BEGUN, "gone", "LOST"),
        (BEGUN, "pending", "REQUEUED"),
        ((*BEGUN, ended(BEFORE, "preempted"), requeued(BEFORE)), "gone", "STOPPED"),
        ((*BEGUN, ended(BEFORE, "crashed")), "gone", "FAILED"),
        ((submitted(BEFORE),), "pending", "PENDING"),
    ],
)  # fmt: skip
def test_an_answer_that_is_older_than_the_ledger(happened, phase, wanted):
    assert state(happened, phase) == wanted


def test_a_crash_that_nothing_follows_is_one_after_a_while():
    happened = (*BEGUN, ended(SINCE, "crashed"))
    assert state(happened, "running", now=SINCE + 29) == "RUNNING"
    assert state(happened, "running", now=SINCE + 31) == "FAILED"


@pytest.mark.parametrize("as_of", [None, ASKED])
def test_a_run_that_is_requeued_while_its_launcher_is_away_waits(as_of):
    """`--follow` took it for stopped, and ended with exit code 1."""
    happened = (*BEGUN, ended(BEFORE, "timeout"), requeued(BEFORE))
    assert state(happened, None, as_of, problem="nobody answers") == "REQUEUED"
    assert state((*BEGUN, ended(BEFORE, "preempted")), None, as_of, problem="nobody answers") == "REQUEUED"
    assert state((*BEGUN, ended(BEFORE, "timeout")), None, as_of, problem="nobody answers") == "STOPPED"
