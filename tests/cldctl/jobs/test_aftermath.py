"""What follows a bad end, decided without a cluster."""

from typing import Any

import pytest

from cld_core.run.events import (
    DiedEarly,
    Ended,
    Event,
    JobRef,
    NotBegun,
    Started,
    Submitted,
    TurnedAway,
)
from cld_core.run.history import History
from cldctl.jobs.aftermath import GiveUp, Leave, Retry, after_bad_end, after_crash, missing_event

REF = JobRef(cluster="any", job_id="7", restarts=True)


def started(attempt: int = 0, step: int = 0, restart: int = 0, job_id: str = "7") -> Started:
    return Started(attempt=attempt, job_id=job_id, step=step, restart=restart)


def ended(attempt: int = 0, cause: str = "crashed", **more: Any) -> Ended:
    return Ended(attempt=attempt, cause=cause, **more)


def after(*events: Event, restart: int = 0, max_retries: int = 3) -> Leave | GiveUp | Retry:
    return after_bad_end(History.of(events), REF, restart, max_retries)


def test_a_job_that_never_began_is_left():
    assert after(Submitted(job=REF)) == Leave()
    assert after(started(job_id="6"), ended(), Submitted(job=REF)) == Leave()


def test_crashes_are_retried_later_and_later_until_the_budget_is_spent():
    crash = [started(0), ended(0)]
    assert after(*crash) == Retry(1, 10.0)
    again = [*crash, started(1, restart=1), ended(1)]
    assert after(*again, restart=1) == Retry(2, 20.0)
    decision = after(*again, restart=1, max_retries=1)
    assert isinstance(decision, GiveUp)
    assert decision.reason == "2 crashes in a row without a new checkpoint (train.max_retries=1)"
    saved = [*crash, started(1, step=50, restart=1), ended(1)]
    assert after(*saved, restart=1) == Retry(1, 10.0), "a checkpoint was saved between the crashes"


@pytest.mark.parametrize("cause", ["crashed", "out_of_memory", "killed"])
def test_what_another_start_may_get_past(cause):
    assert isinstance(after(started(), ended(cause=cause)), Retry)


@pytest.mark.parametrize("cause", ["finished", "preempted", "timeout", "cancelled", "nonfinite", "save_failed"])
def test_an_end_that_explains_itself_is_left(cause):
    assert after(started(), ended(cause=cause)) == Leave()


def test_a_bug_is_given_up_at_once():
    decision = after(started(), ended(detail="TypeError: no", bug=True))
    assert decision == GiveUp("TypeError: no", "a fault in code or recipe")


def test_another_job_has_taken_over():
    assert after(started(0), ended(0), started(1, job_id="8")) == Leave()


def test_a_start_that_died_before_it_trained_counts_as_a_crash():
    before = [started(0), ended(0, cause="preempted")]
    assert after(*before, restart=1) == Leave()
    early = DiedEarly(job_id="7", restart=1, reason="no port")
    assert after(*before, early, restart=1) == Retry(1, 10.0)
    assert after(*before, early, early, restart=2) == Retry(2, 20.0)


def test_a_task_of_sharded_work_has_a_budget_of_its_own():
    assert after_crash(1, code=137, retries=3) == Retry(1, 10.0)
    assert after_crash(2, code=137, retries=3) == Retry(2, 20.0)
    assert after_crash(2, code=137, retries=1) == GiveUp("2 crashes (1 allowed)", "the budget is spent")
    assert after_crash(1, code=2, retries=3) == Leave(), "a fault in the request"
    assert after_crash(1, code=3, retries=3) == Leave(), "its checkpoint is gone"


def missing(*events: Event, restart: int = 0, code: int = 1, hung: bool = False) -> Event | None:
    return missing_event(History.of(events), REF, restart, code, hung=hung, step=30)


def test_an_attempt_that_could_not_note_its_end_crashed():
    event = missing(started(), code=137)
    assert isinstance(event, Ended)
    assert (event.cause, event.step, event.detail) == ("crashed", 30, "a rank ended with code 137; see cldctl logs")
    event = missing(started(), hung=True)
    assert isinstance(event, Ended)
    assert event.detail is not None
    assert event.detail.startswith("no step finished within train.hang_timeout_s")


def test_nothing_is_missing():
    assert missing() is None
    assert missing(started(), ended()) is None
    assert missing(started(0), ended(0), started(1, job_id="8")) is None, "another job is at work"


def test_a_second_start_that_said_nothing_died_early():
    before = [started(0), ended(0, cause="preempted")]
    assert isinstance(missing(*before, restart=1), DiedEarly)
    assert missing(*before, restart=1, code=2) is None, "wrong usage is there at the next start, too"
    assert missing(*before, NotBegun(job_id="7", reason="damaged"), restart=1) is None
    assert missing(*before, TurnedAway(job_id="7", reason="held", why="held"), restart=1) is None
