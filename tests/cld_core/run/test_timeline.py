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
from cld_core.run.timeline import in_vain, stretches
from tests.support.made_up import job


def told(*events, saved=None, heard=None, alive=False, progress=None):
    history = History.of(events).with_progress(progress or {})
    return stretches(replace(history, saved=saved, heard=heard), alive=alive)


def started(attempt, step, time, **more):
    return Started(time=time, attempt=attempt, job_id="7", step=step, **more)


def costs(stretch):
    return stretch.kept, stretch.lost, stretch.set_aside


def test_steps_beyond_the_checkpoint_that_the_next_attempt_began_from_are_lost():
    first, second = told(
        Submitted(time=100.0, job=job("7")),
        started(0, 0, 130.0, began=120.0),
        Ended(time=230.0, attempt=0, cause="crashed", step=100),
        Wished(time=231.0, job_id="7", cause="crashed", delay_s=10.0, exclude=("n1",)),
        started(1, 80, 251.0, began=246.0, restart=1),
        Ended(time=351.0, attempt=1, cause="finished", step=200),
    )
    assert costs(first) == (80, 20, 0)
    assert (first.waited_s, first.startup_s, first.trained_s) == (20.0, 10.0, 100.0)
    assert first.split(alive=False) == (80.0, 20.0, 0.0)
    assert costs(second) == (120, 0, 0)
    assert (second.waited_s, second.startup_s, second.delay_s) == (15.0, 5.0, 10.0)


def test_the_last_attempt_loses_what_it_has_not_saved_unless_it_is_alive():
    events = (started(0, 0, 100.0), Ended(time=200.0, attempt=0, cause="preempted", step=50))
    assert [costs(it) for it in told(*events, saved=40)] == [(40, 10, 0)]
    assert [costs(it) for it in told(*events)] == [(0, 50, 0)]
    running = told(
        started(0, 0, 100.0), progress={"attempt": 0, "step": 50}, heard=150.0, alive=True
    )
    assert [costs(it) for it in running] == [(50, 0, 0)]
    assert running[0].trained_s == 50.0


def test_steps_that_somebody_went_back_behind_are_set_aside_not_lost():
    stretches_ = told(
        started(0, 0, 100.0),
        Ended(time=200.0, attempt=0, cause="crashed", step=120),
        started(1, 100, 210.0, restart=1),
        Ended(time=300.0, attempt=1, cause="finished", step=200),
        Requested(time=310.0, steps=300, from_step=60),
        Submitted(time=311.0, job=job("8")),
        Started(time=320.0, attempt=2, job_id="8", step=60),
        Ended(time=330.0, attempt=2, cause="finished", step=300),
    )
    assert [costs(it) for it in stretches_] == [(60, 20, 40), (0, 0, 100), (240, 0, 0)]


def test_an_attempt_without_a_step_is_lost_whole():
    (only,) = told(started(0, 0, 100.0), Ended(time=130.0, attempt=0, cause="crashed", step=0))
    assert only.split(alive=False) == (0.0, 30.0, 0.0)
    assert only.split(alive=True) == (30.0, 0.0, 0.0)


def test_an_import_is_no_attempt_and_a_wait_without_a_submission_is_not_known():
    (only,) = told(
        Imported(time=50.0, step=10, source="x"),
        Started(time=60.0, attempt=1, job_id="hand", step=10),
    )
    assert (only.attempt.attempt, only.queued, only.waited_s) == (1, None, 0.0)


HOUR = 3600.0
END = Ended(time=2000.0, attempt=0, cause="crashed", step=100)
AGAIN = Wished(time=2010.0, job_id="7", cause="crashed")


@pytest.mark.parametrize(
    ("lines", "startup_s", "trained_s"),
    [
        ((started(0, 0, 1000.0, began=990.0), END, AGAIN), 10.0, 1000.0),
        # While it trained: back, and not back again; ahead, until it had ended; ahead, when it
        # began.
        ((started(0, 0, 1000.0, began=990.0), replace(END, time=2000.0 - 2 * HOUR)), 10.0, 0.0),
        (
            (started(0, 0, 1000.0, began=990.0), replace(END, time=2000.0 + 10 * HOUR), AGAIN),
            10.0,
            1010.0,
        ),
        ((started(0, 0, 1000.0 + 10 * HOUR, began=990.0), END, AGAIN), 1010.0, 0.0),
        # Its process reads a clock that says when the machine was started.
        ((started(0, 0, 1000.0, began=990.0 - 28 * HOUR), END, AGAIN), 100.0, 1000.0),
        ((started(0, 0, 1000.0 - 28 * HOUR), END, AGAIN), 0.0, 1100.0),
        # Nobody noted the end.
        (
            (started(0, 0, 1000.0), started(1, 0, 3000.0, restart=1, heard=2000.0 + 10 * HOUR)),
            0.0,
            2000.0,
        ),
    ],
)
def test_a_stretch_is_bounded_by_the_lines_around_it(lines, startup_s, trained_s):
    first, *_ = told(Submitted(time=900.0, job=job("7")), *lines)
    assert (first.startup_s, first.trained_s) == (startup_s, trained_s)


def test_an_end_is_not_later_than_now():
    now = time.time()
    (only,) = told(
        started(0, 0, now - 100.0),
        Ended(time=now + 10 * HOUR, attempt=0, cause="crashed", step=100),
    )
    assert only.trained_s < 5 * HOUR


def test_a_start_in_vain_began_after_its_job_was_put_into_the_queue():
    early = Failed(
        "early", time=1000.0, job_id="7", restart=1, reason="x", began=1000.0 - 28 * HOUR
    )
    assert in_vain(History.of([Submitted(time=900.0, job=job("7")), early])) == [(900.0, 1000.0)]


def test_failures_are_those_of_the_start_in_the_order_of_their_times():
    def failed(time, rank, restart):
        return Failed(
            "rank", time=time, job_id="7", restart=restart, rank=rank, host="n1", reason="x"
        )

    (only,) = told(
        started(0, 0, 100.0), failed(120.0, 2, 0), failed(110.0, 1, 0), failed(90.0, 0, 1)
    )
    assert [event.rank for event in only.failures] == [1, 2]


def test_what_is_lost_is_lost_to_preemption_or_to_crashes():
    assert fate_of("timeout") == fate_of("preempted") == "preemption"
    assert fate_of("node_failure") == fate_of("killed") == fate_of("nonfinite") == "crashes"
    assert fate_of("finished") is fate_of(None) is None
