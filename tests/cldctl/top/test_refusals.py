"""Keys that can do nothing in the state of a run: they say so at once, and ask nothing."""

from dataclasses import replace

import pytest

from cld_core.evaluation.evaluation import Evaluation
from cld_core.evaluation.request import EvalRequest
from cld_core.run.events import Ended, JobRef, Submitted
from cldctl.runs.state import ALIVE, STATES
from cldctl.runs.status import RunStatus
from cldctl.top import refusals
from tests.support.made_up import run_with, seeds
from tests.support.piloted import Screen, on_screen
from tests.support.scripted import trained

pytestmark = pytest.mark.usefixtures("clock")
STEPS = ("train.steps=50",)
# What each key says of a run in a state; nothing where it asks, or does what it is for.
RESUMED = ("STOPPED", "FAILED", "CANCELLED", "LOST")


@pytest.mark.parametrize("state", STATES)
def test_every_key_knows_what_a_state_allows(state):
    row = RunStatus(name="mine", path="runs/mine", state=state, step=50, steps=50, checkpoint_step=50)
    refused = {
        "r": refusals.of_resume(row),
        "c": refusals.of_cancel(row),
        "s": refusals.of_sample(row),
    }
    assert {key for key, said in refused.items() if said is None} == {
        *(["r"] if state in RESUMED else []),
        *(["c"] if state in ALIVE else []),
        "s",
    }
    assert all(f"mine is {state}" in said for said in refused.values() if said is not None)
    assert refusals.of_cancel(replace(row, evals=[{"state": "PENDING"}])) is None, "an evaluation can be cancelled"


def test_what_cannot_be_read_is_neither_resumed_nor_sampled():
    row = RunStatus(name="mine", path="mine", state="LOST", reason="format 99", is_readable=False, checkpoint_step=5)
    assert [refusal(row) for refusal in (refusals.of_resume, refusals.of_sample)] == [
        "mine cannot be read: format 99"
    ] * 2
    assert refusals.of_cancel(row) == "mine is LOST: there is nothing to cancel."


def test_a_finished_run_is_refused_before_a_question(tmp_path, scripted, asked):
    run = trained(run_with(tmp_path / "mine", 50, overrides=STEPS), "1", "gone")
    run.ledger.append(Ended(attempt=0, cause="finished", step=50))
    run_with(tmp_path / "new")

    async def look(screen: Screen) -> None:
        await screen.select("mine")
        for key, said in (
            ("c", "mine is FINISHED: there is nothing to cancel."),
            ("r", "mine is FINISHED at step 50. To train it for longer: cldctl resume mine"),
            ("space", "Select a group of runs, or a run of one, to fold it."),
        ):
            await screen.press(key)
            await screen.sees(said)
            assert "mine?" not in screen.text
            await screen.press("escape")
            await screen.until(lambda said=said: said not in screen.text)
        await screen.select("new")
        await screen.press("s")
        await screen.sees("new has no checkpoint yet")
        assert "$ cldctl sample" not in screen.text

    on_screen(tmp_path, look, everything=True)
    assert (asked, scripted.calls) == ([], [])


def test_the_evaluations_of_a_finished_run_are_cancelled(tmp_path, scripted):
    run = trained(run_with(tmp_path / "mine", 50, overrides=STEPS), "1", "gone")
    run.ledger.append(Ended(attempt=0, cause="finished", step=50))
    work = Evaluation(EvalRequest.of(run.recipe(), ("elbo",), 50).save(run))
    scripted.phases["2"] = "running"
    work.ledger.append(Submitted(job=JobRef(cluster="scripted", job_id="2", logs=str(work.folder / "logs"))))

    async def look(screen: Screen) -> None:
        await screen.select("mine")
        await screen.press("c")
        await screen.sees("Cancel the evaluations of mine?", "Its training is FINISHED")
        await screen.press("y")
        await screen.sees("mine: its evaluations are cancelled", "STOPPED  0/1 shards")
        await screen.press("c")
        await screen.sees("mine is FINISHED: there is nothing to cancel.")

    on_screen(tmp_path, look, everything=True)
    assert scripted.calls == [("cancel", ["2"])]


def test_a_group_without_anything_to_resume_is_refused(tmp_path, scripted, asked):
    for number, run in enumerate(seeds(tmp_path, "g", 2, 50, overrides=STEPS)):
        trained(run, str(number), "running" if number else "gone")
        if not number:
            run.ledger.append(Ended(attempt=0, cause="finished", step=50))

    async def look(screen: Screen) -> None:
        await screen.select("g")
        await screen.press("r")
        await screen.sees("g: all of its runs are alive or finished")
        await screen.press("c")
        await screen.sees("Cancel 1 run of g?")

    on_screen(tmp_path, look, everything=True)
    assert asked == []
