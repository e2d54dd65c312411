"""The fold of a ledger: attempts, requests, jobs, and what counts towards retries and noise."""

import pytest

from cld_core.run import events
from cld_core.run.events import JobRef
from cld_core.run.history import History


def history(*happened, progress=None):
    return History.of(happened).with_progress(progress or {})


def submitted(job_id, successor_of=None):
    return events.Submitted(job=JobRef(cluster="any", job_id=job_id), successor_of=successor_of)


def started(attempt, *, step=0, job_id="1", time=0.0, **more):
    return events.Started(time=time, attempt=attempt, job_id=job_id, step=step, **more)


def ended(attempt, cause, **more):
    return events.Ended(attempt=attempt, cause=cause, **more)


EARLY = events.Failed("early", job_id="1", restart=1, reason="x")


def test_attempts():
    made = history(
        started(0, time=1.0, job_id="0"),
        started(1, time=2.0, job_id="1", step=10, reached=12),
        ended(1, "preempted", time=3.0, step=17, detail="SIGUSR2"),
        started(2, time=4.0, job_id="2", step=17),
        events.Cancelled(time=4.5, job_id="2"),
        ended(2, "terminated", time=5.0, step=25),
        started(3, time=6.0, job_id="3", step=25, reached=99),
        progress={"attempt": 3, "step": 31},
    )
    assert [entry.cause for entry in made.attempts] == ["killed", "preempted", "cancelled", None]
    assert [entry.ended for entry in made.attempts] == [2.0, 3.0, 5.0, None]
    assert [entry.last_step for entry in made.attempts] == [12, 17, 25, 31]
    assert [entry.first_step for entry in made.attempts] == [0, 10, 17, 25]
    assert made.attempts[1].detail == "SIGUSR2"
    assert made.last == made.attempts[3]


def test_an_attempt_reached_at_least_the_step_that_the_next_one_begins_from():
    """Reports are rarer than checkpoints, and a crash comes between them."""
    happened = [started(0), ended(0, "crashed", step=50), started(1, step=80)]
    assert history(*happened).attempts[0].last_step == 80
    rewound = [
        started(0),
        ended(0, "crashed", step=50),
        events.Requested(steps=99, from_step=80),
        started(1, step=80),
    ]
    assert history(*rewound).attempts[0].last_step == 50, "somebody named that step"
    now = History.of(happened)
    assert now.with_progress({"attempt": 1, "step": 100}, [80, 120]).attempts[1].last_step == 120
    assert now.with_progress({"attempt": 1, "step": 100}, [80]).attempts[1].last_step == 100


def test_an_end_that_is_explained_later_keeps_its_time():
    explained = events.Ended(afterwards=True, time=9.0, attempt=0, cause="requeued")
    made = history(started(0), ended(0, "terminated", time=3.0), explained)
    assert (made.attempts[0].cause, made.attempts[0].ended) == ("requeued", 3.0)
    silent = history(
        started(0), events.Ended(afterwards=True, time=9.0, attempt=0, cause="node_failure")
    )
    assert (silent.attempts[0].cause, silent.attempts[0].ended) == ("node_failure", 9.0)


def test_progress_of_another_attempt_says_nothing_about_the_last():
    assert history(started(0), progress={"attempt": 1, "step": 5}).attempts[0].last_step is None
    whole = history(started(0), ended(0, "finished", step=9), progress={"attempt": 0, "step": 5})
    assert whole.attempts[0].last_step == 9


def test_an_import_is_attempt_0():
    made = history(events.Imported(time=2.0, step=800, source="a.pth"), started(1, step=800))
    first = made.attempts[0]
    assert (first.attempt, first.cause, first.first_step, first.last_step) == (
        0,
        "imported",
        800,
        800,
    )
    assert (first.detail, first.job_id, first.ended) == ("imported from a.pth", None, 2.0)
    assert made.imported_step == 800
    assert len(made.attempts) == 2, "the number of the next attempt, which keys its noise"
    assert (
        history(events.Imported(step=8, source="a", finished=True)).attempts[0].cause == "finished"
    )


def test_what_requests_asked_for():
    first = events.Requested(steps=5, overrides=("train.steps=5",), from_step=2)
    second = events.Requested(steps=9, overrides=("train.steps=9",))
    assert history(first).from_step == 2
    made = history(first, second)
    assert (made.steps, made.overrides, made.from_step) == (
        9,
        ("train.steps=5", "train.steps=9"),
        None,
    )
    refused = history(first, second, events.Refused("submission", reason="no"))
    assert (refused.steps, refused.overrides, refused.from_step) == (5, ("train.steps=5",), 2)
    assert history(first, submitted("1")).from_step == 2, "the job has yet to start there"
    assert history(first, submitted("1"), started(0)).from_step is None


def test_jobs_that_were_turned_away_do_not_count():
    away = events.TurnedAway(job_id="2", why="held", reason="job 1 is alive")
    made = history(submitted("1"), submitted("2"), away, submitted("3", successor_of="1"))
    assert [event.job.job_id for event in made.jobs] == ["1", "3"]
    assert [job.job_id for job in made.successors_of("1")] == ["3"]
    assert made.last_of["2"] == away
    assert [event.job.job_id for event in made.submitted] == ["1", "2", "3"]
    assert made.turned_away == {"2": "held"}
    assert (
        len(
            history(
                submitted("0"), events.TurnedAway(job_id="0", why="held"), started(0, job_id="0")
            ).jobs
        )
        == 1
    )


def current(*happened, gone=()):
    job = history(*happened).current(lambda job: job.job_id in gone)
    return None if job is None else job.job.job_id


def test_the_current_job():
    first, second = submitted("1"), submitted("2", successor_of="1")
    assert current(first) == "1"
    assert current(first, submitted("2")) == "2", "it waits for no other"
    assert current(first, second) == "1", "the first is still there"
    assert current(first, second, gone=("1",)) == "2"
    assert current(first, second, started(0, job_id="1"), ended(0, "finished"), gone=("1",)) == "1"
    assert current(first, second, started(0, job_id="1"), ended(0, "cancelled"), gone=("1",)) == "1"
    assert current(first, second, started(0, job_id="1"), ended(0, "crashed"), gone=("1",)) == "2"
    assert current(first, second, started(0, job_id="2")) == "2", (
        "it has begun, so its turn has come"
    )
    assert (
        current(submitted("2", successor_of="0"), submitted("3", successor_of="2"), gone=("2",))
        == "3"
    )
    assert current(first, second, submitted("3", successor_of="2"), gone=("1",)) == "2"
    assert current(submitted("9"), submitted("2", successor_of="unknown")) == "2", (
        "what it waited for is forgotten"
    )


@pytest.mark.parametrize(
    ("happened", "count"),
    [
        ((), 0),
        ((started(0), ended(0, "crashed")), 1),
        ((started(0), ended(0, "preempted")), 0),
        (
            (
                started(0),
                ended(0, "crashed"),
                started(1),
                ended(1, "killed"),
                started(2),
                ended(2, "out_of_memory"),
            ),
            3,
        ),
        ((started(0), ended(0, "crashed"), started(1, step=10), ended(1, "crashed")), 1),
        (
            (
                started(0),
                ended(0, "crashed"),
                started(1),
                ended(1, "timeout"),
                started(2),
                ended(2, "crashed"),
            ),
            1,
        ),
        ((started(0), ended(0, "crashed"), started(1)), 0),
        ((started(0), started(1), ended(1, "crashed")), 2),
        ((started(0), ended(0, "crashed"), EARLY), 2),
        ((started(0), EARLY, started(1), ended(1, "crashed")), 2),
    ],
    ids=[
        "none",
        "one",
        "not a crash",
        "three",
        "progress",
        "broken",
        "running",
        "killed",
        "early",
        "early before",
    ],
)
def test_crashes_in_a_row(happened, count):
    assert history(*happened).crashes_in_a_row == count


def test_a_bug_is_that_of_the_last_attempt():
    bug = (started(0), ended(0, "crashed", detail="KeyError: 'x'", bug=True))
    assert history(*bug).bug == "KeyError: 'x'"
    assert history(*bug).attempts[0].bug
    assert history(*bug, started(1)).bug is None
    assert history(*bug, EARLY).bug is None
    assert history(started(0), ended(0, "crashed", detail="device lost")).bug is None


def test_rollbacks_key_the_noise():
    made = history(
        *(events.RolledBack(attempt=0, to_step=step, reason="nan") for step in (0, 4, 4))
    )
    assert (made.rollbacks(), made.rollbacks(4), made.rollbacks(8)) == (3, 2, 0)


def test_what_was_decided_counts_until_the_next_end():
    requeued = events.Wished(job_id="1", cause="preempted")
    given_up = events.GivenUp(reason="budget spent")
    first = (started(0, time=1.0), ended(0, "preempted"))
    assert history(*first, requeued).requeued == requeued
    assert history(*first, given_up).given_up == "budget spent"
    never = events.GivenUp(never_began=True, job_id="1", reason="no checkpoint")
    assert history(*first, never).given_up == "no checkpoint"
    second = (started(1), ended(1, "crashed"))
    later = history(*first, requeued, given_up, *second)
    assert (later.requeued, later.given_up) == (None, None)
    assert later.was_requeued(later.attempts[0])
    silent = history(
        *first, given_up, started(1), events.Ended(afterwards=True, attempt=1, cause="killed")
    )
    assert silent.given_up is None
    explained = history(
        *first, given_up, events.Ended(afterwards=True, attempt=0, cause="requeued")
    )
    assert explained.given_up == "budget spent", "the end itself was known before"


def test_what_one_task_was_given_up_for_is_not_said_of_the_next_job():
    def task(job_id):
        return events.Submitted(job=JobRef(cluster="any", job_id=job_id), shards=(0,))

    given_up = events.GivenUp(reason="budget spent", job_id="5_0")
    assert history(task("5_0"), given_up, task("5_1")).given_up == "budget spent", (
        "a task of the same array"
    )
    assert history(task("5_0"), given_up, task("6_0")).given_up is None


def test_a_requeue_belongs_to_the_attempt_before_it_whatever_the_clock_says():
    history = History.of(
        [
            events.Started(time=7200.0, attempt=0, job_id="1", step=0),
            events.Ended(time=3600.0, attempt=0, cause="crashed", step=5),
            events.Wished(time=3601.0, job_id="1", cause="crashed"),
            events.Started(time=3612.0, attempt=1, job_id="1", step=0, restart=1),
            events.Wished(time=3613.0, job_id="2", cause="crashed"),
        ]
    )
    first, second = history.attempts
    assert history.was_requeued(first)
    assert not history.was_requeued(second)


def test_a_silent_end_was_when_the_attempt_was_last_heard_of():
    """Not when the next one began, after hours in the queue."""
    made = history(started(0, time=1.0), started(1, time=900.0, step=10, reached=12, heard=7.0))
    assert (made.attempts[0].ended, made.attempts[0].last_step) == (7.0, 12)
    explained = events.Ended(afterwards=True, time=890.0, attempt=0, cause="node_failure")
    made = history(
        started(0, time=1.0), explained, started(1, time=900.0, step=10, reached=12, heard=7.0)
    )
    assert (made.attempts[0].ended, made.attempts[0].cause) == (7.0, "node_failure")
    end = ended(0, "preempted", time=8.0, step=13)
    made = history(
        started(0, time=1.0), end, started(1, time=900.0, step=13, reached=12, heard=7.0)
    )
    assert (made.attempts[0].ended, made.attempts[0].last_step) == (8.0, 13), (
        "it noted its end itself"
    )
