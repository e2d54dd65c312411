"""What attempts gained, lost and waited."""

import time
from dataclasses import replace

import pytest

from cld_core.run.events import (
    Ended,
    Failed,
    Imported,
    Requested,
    Started,
    Submitted,
    Wished,
    fate_of,
)
from cld_core.run.history import History
from cld_core.run.timeline import stretches
from tests.support.made_up import job


def made_of(*events, saved=None, heard=None, alive=False, progress=None):
    history = History.of(events).with_progress(progress or {})
    return stretches(replace(history, saved=saved, heard=heard), alive=alive)


def started(attempt, step, time, **more):
    return Started(time=time, attempt=attempt, job_id=more.pop("job_id", "7"), step=step, **more)


def ended(attempt, time, step, cause="crashed"):
    return Ended(time=time, attempt=attempt, cause=cause, step=step)


def steps(found):
    """Of each stretch, the steps that are kept, lost and set aside."""
    return [(one.kept, one.lost, one.set_aside) for one in found]


QUEUED = Submitted(time=100.0, job=job("7"))


def test_steps_beyond_the_checkpoint_that_the_next_attempt_began_from_are_lost():
    found = made_of(
        QUEUED,
        started(0, 0, 130.0, began=120.0),
        ended(0, 230.0, 100),
        Wished(time=231.0, job_id="7", cause="crashed", delay_s=10.0, exclude=("n1",)),
        started(1, 80, 251.0, began=246.0, restart=1),
        ended(1, 351.0, 200, "finished"),
    )
    assert steps(found) == [(80, 20, 0), (120, 0, 0)]
    first, second = found
    assert (first.waited_s, first.startup_s, first.trained_s) == (20.0, 10.0, 100.0)
    assert first.split(alive=False) == (80.0, 20.0, 0.0)
    assert (second.waited_s, second.startup_s, second.delay_s) == (15.0, 5.0, 10.0)


def test_the_last_attempt_loses_the_steps_that_it_has_not_saved_unless_it_is_alive():
    events = (started(0, 0, 100.0), ended(0, 200.0, 50, "preempted"))
    assert steps(made_of(*events, saved=40)) == [(40, 10, 0)]
    assert steps(made_of(*events)) == [(0, 50, 0)]
    report = {"attempt": 0, "step": 50}
    running = made_of(started(0, 0, 100.0), progress=report, heard=150.0, alive=True)
    assert steps(running) == [(50, 0, 0)]
    assert running[0].trained_s == 50.0


def test_steps_after_the_one_of_resume_from_are_set_aside():
    found = made_of(
        started(0, 0, 100.0),
        ended(0, 200.0, 120),
        started(1, 100, 210.0, restart=1),
        ended(1, 300.0, 200, "finished"),
        Requested(time=310.0, steps=300, from_step=60),
        Submitted(time=311.0, job=job("8")),
        started(2, 60, 320.0, job_id="8"),
        ended(2, 330.0, 300, "finished"),
    )
    assert steps(found) == [(60, 20, 40), (0, 0, 100), (240, 0, 0)]


def test_an_attempt_without_a_step_is_lost_whole():
    (only,) = made_of(started(0, 0, 100.0), ended(0, 130.0, 0))
    assert only.split(alive=False) == (0.0, 30.0, 0.0)
    assert only.split(alive=True) == (30.0, 0.0, 0.0)


def test_an_import_is_not_a_stretch_and_a_wait_without_a_submission_is_unknown():
    imported = Imported(time=50.0, step=10, source="x")
    (only,) = made_of(imported, started(1, 10, 60.0, job_id="hand"))
    assert (only.attempt.attempt, only.queued, only.waited_s) == (1, None, 0.0)


HOUR = 3600.0
BEGUN = started(0, 0, 1000.0, began=990.0)
END = ended(0, 2000.0, 100)
AGAIN = Wished(time=2010.0, job_id="7", cause="crashed")
SILENT = started(1, 0, 3000.0, restart=1, heard=2000.0 + 10 * HOUR)


@pytest.mark.parametrize(
    ("lines", "startup_s", "trained_s"),
    [
        ((BEGUN, END, AGAIN), 10.0, 1000.0),
        # The clock is set back while it trains, or is ahead until its end, or at its start.
        ((BEGUN, replace(END, time=2000.0 - 2 * HOUR)), 10.0, 0.0),
        ((BEGUN, replace(END, time=2000.0 + 10 * HOUR), AGAIN), 10.0, 1010.0),
        ((replace(BEGUN, time=1000.0 + 10 * HOUR), END, AGAIN), 1010.0, 0.0),
        # The clock of its process has the time at which the machine was started.
        ((replace(BEGUN, began=990.0 - 28 * HOUR), END, AGAIN), 100.0, 1000.0),
        ((started(0, 0, 1000.0 - 28 * HOUR), END, AGAIN), 0.0, 1100.0),
        # Its end was not recorded.
        ((started(0, 0, 1000.0), SILENT), 0.0, 2000.0),
    ],
)
def test_a_stretch_is_bounded_by_the_lines_around_it(lines, startup_s, trained_s):
    first, *_ = made_of(replace(QUEUED, time=900.0), *lines)
    assert (first.startup_s, first.trained_s) == (startup_s, trained_s)


def test_an_end_is_not_later_than_now():
    now = time.time()
    (only,) = made_of(started(0, 0, now - 100.0), ended(0, now + 10 * HOUR, 100))
    assert only.trained_s < 5 * HOUR


def test_an_untrained_start_began_after_its_job_was_put_into_the_queue():
    began = 1000.0 - 28 * HOUR
    early = Failed("early", time=1000.0, job_id="7", restart=1, reason="x", began=began)
    assert History.of([QUEUED, early]).untrained == {early.start: (100.0, 1000.0)}


def test_failures_are_those_of_the_start_in_the_order_of_their_times():
    def failed(time, rank, restart=0):
        return Failed("rank", time=time, job_id="7", restart=restart, rank=rank, reason="x")

    (only,) = made_of(started(0, 0, 100.0), failed(120.0, 2), failed(110.0, 1), failed(90.0, 0, 1))
    assert [event.rank for event in only.failures] == [1, 2]


def test_steps_are_lost_to_preemption_or_to_crashes():
    assert fate_of("timeout") == fate_of("preempted") == "preemption"
    assert fate_of("node_failure") == fate_of("killed") == fate_of("nonfinite") == "crashes"
    assert fate_of("finished") is fate_of(None) is None
