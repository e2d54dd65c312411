"""The fold of a ledger: attempts, requests, jobs, and what counts towards retries and noise."""

import pytest

from cld_core.run import events
from cld_core.run.history import History
from tests.support.made_up import queued


def history(*happened, progress=None):
    return History.of(happened).with_progress(progress or {})


def started(attempt, *, step=0, job_id="1", time=0.0, **more):
    return events.Started(time=time, attempt=attempt, job_id=job_id, step=step, **more)


def ended(attempt, cause, **more):
    return events.Ended(attempt=attempt, cause=cause, **more)


def explained(attempt, cause):
    """The cause of an end, found out at second 9."""
    return ended(attempt, cause, afterwards=True, time=9.0)


def attempt(number, cause, *, first_step=0, **more):
    return started(number, step=first_step), ended(number, cause, **more)


EARLY = events.Failed("early", job_id="1", restart=1, reason="x")
REQUEUED = events.Wished(job_id="1", cause="preempted")
GIVEN_UP = events.GivenUp(reason="budget spent")
FIRST = queued("1")
SECOND = queued("2", successor_of="1")


def test_attempts():
    made = history(
        started(0, time=1.0, job_id="0"),
        started(1, time=2.0, step=10, reached=12),
        ended(1, "preempted", time=3.0, step=17, detail="SIGUSR2"),
        started(2, time=4.0, job_id="2", step=17),
        events.Cancelled(time=4.5, job_id="2"),
        ended(2, "terminated", time=5.0, step=25),
        started(3, time=6.0, job_id="3", step=25, reached=99),
        progress={"attempt": 3, "step": 31},
    )
    assert [(one.cause, one.first_step, one.last_step, one.ended) for one in made.attempts] == [
        ("killed", 0, 12, 2.0),
        ("preempted", 10, 17, 3.0),
        ("cancelled", 17, 25, 5.0),
        (None, 25, 31, None),
    ]
    assert made.attempts[1].detail == "SIGUSR2"
    assert made.last == made.attempts[3]


def test_an_attempt_reached_at_least_the_step_that_the_next_one_begins_from():
    """Reports are rarer than checkpoints, and a crash comes between them."""
    crashed = attempt(0, "crashed", step=50)
    now = history(*crashed, started(1, step=80))
    assert now.attempts[0].last_step == 80
    rewinds = events.Requested(steps=99, from_step=80)
    assert history(*crashed, rewinds, started(1, step=80)).attempts[0].last_step == 50
    report = {"attempt": 1, "step": 100}
    assert now.with_progress(report, [80]).attempts[1].last_step == 100
    assert now.with_progress(report, [80, 120]).attempts[1].last_step == 120


NEXT = started(1, time=900.0, step=10, reached=12, heard=7.0)


@pytest.mark.parametrize(
    ("lines", "cause", "end", "step"),
    [
        ((ended(0, "terminated", time=3.0), explained(0, "requeued")), "requeued", 3.0, None),
        ((explained(0, "node_failure"),), "node_failure", 9.0, None),
        # The last report of a silent attempt, not the start after hours in the queue.
        ((NEXT,), "killed", 7.0, 12),
        ((explained(0, "node_failure"), NEXT), "node_failure", 7.0, 12),
        ((ended(0, "preempted", time=8.0, step=13), NEXT), "preempted", 8.0, 13),
    ],
)
def test_when_an_attempt_ended(lines, cause, end, step):
    first = history(started(0, time=1.0), *lines).attempts[0]
    assert (first.cause, first.ended, first.last_step) == (cause, end, step)


def test_progress_of_another_attempt_says_nothing_about_the_last():
    assert history(started(0), progress={"attempt": 1, "step": 5}).attempts[0].last_step is None
    done = history(*attempt(0, "finished", step=9), progress={"attempt": 0, "step": 5})
    assert done.attempts[0].last_step == 9


def test_an_import_is_attempt_0():
    made = history(events.Imported(time=2.0, step=800, source="a.pth"), started(1, step=800))
    first = made.attempts[0]
    assert (first.attempt, first.job_id, first.cause) == (0, None, "imported")
    assert (first.first_step, first.last_step, first.ended) == (800, 800, 2.0)
    assert first.detail == "imported from a.pth"
    assert made.imported_step == 800
    assert len(made.attempts) == 2, "the number of the next attempt, which keys its noise"
    finished = events.Imported(step=8, source="a", finished=True)
    assert history(finished).cause == "finished"


def test_the_last_request_that_was_not_refused_is_in_force():
    first = events.Requested(steps=5, overrides=("train.steps=5",), from_step=2)
    second = events.Requested(steps=9, overrides=("train.steps=9",))
    made = history(first, second)
    assert (made.steps, made.from_step) == (9, None)
    assert made.overrides == ("train.steps=5", "train.steps=9")
    refused = history(first, second, events.Refused("submission", reason="no"))
    assert (refused.steps, refused.from_step) == (5, 2)
    assert refused.overrides == ("train.steps=5",)
    assert history(first, FIRST).from_step == 2, "the job has yet to start there"
    assert history(first, FIRST, started(0)).from_step is None


def test_jobs_that_were_turned_away_do_not_count():
    away = events.TurnedAway(job_id="2", why="held", reason="job 1 is alive")
    made = history(FIRST, queued("2"), away, queued("3", successor_of="1"))
    assert [event.job.job_id for event in made.submitted] == ["1", "2", "3"]
    assert [event.job.job_id for event in made.jobs] == ["1", "3"]
    assert [job.job_id for job in made.successors_of("1")] == ["3"]
    assert made.last_of["2"] == away
    assert made.turned_away == {"2": "held"}
    assert len(history(queued("2"), away, started(0, job_id="2")).jobs) == 1, "it starts later"


@pytest.mark.parametrize(
    ("happened", "gone", "job"),
    [
        ((FIRST,), "", "1"),
        ((FIRST, queued("2")), "", "2"),
        # A successor counts once its turn has come.
        ((FIRST, SECOND), "", "1"),
        ((FIRST, SECOND), "1", "2"),
        ((FIRST, SECOND, *attempt(0, "finished")), "1", "1"),
        ((FIRST, SECOND, *attempt(0, "cancelled")), "1", "1"),
        ((FIRST, SECOND, *attempt(0, "crashed")), "1", "2"),
        ((FIRST, SECOND, started(0, job_id="2")), "", "2"),
        ((SECOND, queued("3", successor_of="2")), "2", "3"),
        ((FIRST, SECOND, queued("3", successor_of="2")), "1", "2"),
        ((queued("9"), queued("2", successor_of="unknown")), "", "2"),
    ],
)
def test_the_current_job(happened, gone, job):
    assert history(*happened).current(lambda job: job.job_id == gone).job.job_id == job


CRASHED = attempt(0, "crashed")
THREE = (*CRASHED, *attempt(1, "killed"), *attempt(2, "out_of_memory"))


@pytest.mark.parametrize(
    ("happened", "count"),
    [
        ((), 0),
        (CRASHED, 1),
        (attempt(0, "preempted"), 0),
        (THREE, 3),
        # There was a checkpoint between them, or another end.
        ((*CRASHED, *attempt(1, "crashed", first_step=10)), 1),
        ((*CRASHED, *attempt(1, "timeout"), *attempt(2, "crashed")), 1),
        ((*CRASHED, started(1)), 0),
        ((started(0), *attempt(1, "crashed")), 2),
        ((*CRASHED, EARLY), 2),
        ((started(0), EARLY, *attempt(1, "crashed")), 2),
    ],
)
def test_crashes_in_a_row(happened, count):
    assert history(*happened).crashes_in_a_row == count


def test_a_bug_is_that_of_the_last_attempt():
    bug = attempt(0, "crashed", detail="KeyError: 'x'", bug=True)
    assert history(*bug).bug == "KeyError: 'x'"
    assert history(*bug).attempts[0].bug
    assert history(*bug, started(1)).bug is None
    assert history(*bug, EARLY).bug is None
    assert history(*attempt(0, "crashed", detail="device lost")).bug is None


def test_rollbacks_key_the_noise():
    back = [events.RolledBack(attempt=0, to_step=step, reason="nan") for step in (0, 4, 4)]
    made = history(*back)
    assert (made.rollbacks(), made.rollbacks(4), made.rollbacks(8)) == (3, 2, 0)


def test_a_decision_counts_until_the_next_end():
    first = attempt(0, "preempted")
    assert history(*first, REQUEUED).requeued == REQUEUED
    assert history(*first, GIVEN_UP).given_up == "budget spent"
    never = events.GivenUp(never_began=True, job_id="1", reason="no checkpoint")
    assert history(*first, never).given_up == "no checkpoint"
    later = history(*first, REQUEUED, GIVEN_UP, *attempt(1, "crashed"))
    assert (later.requeued, later.given_up) == (None, None)
    silent = history(*first, GIVEN_UP, started(1), explained(1, "killed"))
    assert silent.given_up is None
    known = history(*first, GIVEN_UP, explained(0, "requeued"))
    assert known.given_up == "budget spent", "only the cause is new"


@pytest.mark.parametrize(("job_id", "reason"), [("5_1", "budget spent"), ("6_0", None)])
def test_a_task_is_given_up_until_a_job_of_another_array_is_submitted(job_id, reason):
    given_up = events.GivenUp(reason="budget spent", job_id="5_0")
    after = history(queued("5_0", 0), given_up, queued(job_id, 0))
    assert after.given_up == reason


def test_a_requeue_belongs_to_the_attempt_on_the_lines_before_it_whatever_the_clock_says():
    made = history(
        started(0, time=7200.0),
        ended(0, "crashed", time=3600.0),
        events.Wished(time=3601.0, job_id="1", cause="crashed"),
        started(1, time=3612.0, restart=1),
        events.Wished(time=3613.0, job_id="2", cause="crashed"),
    )
    assert [made.was_requeued(one) for one in made.attempts] == [True, False]
