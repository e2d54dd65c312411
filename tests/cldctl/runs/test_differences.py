"""What `status` and `why` say about attempts that ran other code, packages or machines."""

import time

from cld_core.run.events import Ended, RecipeEdited, Requested, Started
from cld_core.run.history import History
from cldctl.runs.differences import changed_between

OLD, NEW = "a" * 64, "b" * 64
WHEN = "2026-11-26 12:00"
NOON = time.mktime(time.strptime(WHEN, "%Y-%m-%d %H:%M"))
SINCE_2 = f"since attempt 2 ({WHEN})"


def started(attempt, **more):
    return Started(time=NOON, attempt=attempt, job_id="7", step=0, **more)


def changes(*events):
    return changed_between(History.of(events))


def test_code_versions_driver_and_gpu():
    before = started(1, code=OLD, versions={"torch": "2.6.0", "numpy": "2.0"}, gpu="A100", driver="535.1")
    after = started(2, code=NEW, versions={"torch": "2.7.0", "numpy": "2.0"}, gpu="H100", driver="550.2")
    assert changes(before, Ended(attempt=1, cause="preempted"), after) == [
        f"code bbbbbbbbbbbb instead of aaaaaaaaaaaa, {SINCE_2}",
        f"torch 2.7.0 instead of 2.6.0, {SINCE_2}",
        f"GPU H100 instead of A100, {SINCE_2}",
        f"driver 550.2 instead of 535.1, {SINCE_2}",
    ]


def test_the_last_change_of_each_thing_counts():
    told = changes(*(started(number, gpu=gpu) for number, gpu in enumerate(("A", "B", "A", "A"), start=1)))
    assert told == [f"GPU A instead of B, since attempt 3 ({WHEN})"]


def test_a_job_that_does_not_find_its_code():
    asked = Requested(steps=5, code=OLD)
    (line,) = changes(asked, started(1, code="live " + NEW))
    assert line == "attempt 1 runs code live bbbbbbbbbbbb, not that of the run, aaaaaaaaaaaa"
    assert changes(Requested(steps=5, code="live"), started(1, code="live " + NEW)) == []


def test_an_edited_recipe():
    edited = RecipeEdited(keys=("optim.lr",), values=("optim.lr 0.5 instead of 0.001",))
    assert changes(edited) == ["recipe.yaml was edited by hand: optim.lr 0.5 instead of 0.001"]
    assert changes(edited, RecipeEdited()) == []
