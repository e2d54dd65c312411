"""A run that saves before each crash is given up, too."""

import time

from cld_core.run.events import Ended, Started
from cld_core.run.history import History
from cldctl.jobs.aftermath import GiveUp, Retry, after_bad_end
from cldctl.jobs.crashes import lately
from cldctl.runs.status import with_trouble
from tests.support.scripted import REF

NOW = time.time()


def loop(crashes: int, every_s: float = 600.0, first: int = 0) -> list:
    """Each attempt gains 40 steps, saves them, and crashes."""
    events = []
    for number in range(first, first + crashes):
        began = NOW - (first + crashes - number) * every_s
        events += [
            Started(time=began, attempt=number, job_id="7", step=40 * number, restart=number),
            Ended(time=began + every_s - 10, attempt=number, cause="crashed", step=40 * number + 40),
        ]
    return events


def decided(events, crashes: int):
    return after_bad_end(History.of(events), REF, crashes - 1, 3, max_crashes_a_day=20)


def test_a_loop_of_crashes_with_progress_ends():
    assert decided(loop(20), 20) == Retry(1, 10.0)
    decision = decided(loop(21), 21)
    assert isinstance(decision, GiveUp)
    assert decision.reason == "crashed 21 times in 3 h, 40 steps each (train.max_crashes_a_day=20)"


def test_only_the_last_day_counts():
    assert lately(History.of(loop(40, every_s=7200.0)), NOW).crashes < 14


def test_status_tells_it():
    history = History.of(loop(7))
    assert (
        with_trouble("(BeginTime)", "REQUEUED", history, "7") == "(BeginTime); crashed 7 times in 70 min, 40 steps each"
    )
    assert with_trouble(None, "FINISHED", history, "7") is None
    assert with_trouble(None, "RUNNING", History.of(loop(2)), "7") is None
