"""Which runs can be continued, from where, and what is refused, on clusters that are made up."""

import time

import pytest

from cld_core.errors import CheckpointError, NotFoundError, RecipeError, UsageError
from cld_core.files import read_object, write_json
from cld_core.run.events import Requested, Submitted
from cldctl.clusters.base import SchedulerAway
from cldctl.jobs import hooks
from cldctl.runs.resume import Continuation, resumable
from tests.support.made_up import damage, note, ordered, queued, run_with
from tests.support.scripted import Scripted, stopped, trained
from tests.support.scripted import resumed as resume

pytestmark = pytest.mark.usefixtures("small")


def resumed(run, *overrides, from_step=None):
    told = []
    asked = Continuation(overrides=tuple(overrides), from_step=from_step)
    resume(
        run,
        Scripted(),
        asked,
        lambda _, recipe, start, damaged, warnings: told.append((start, len(damaged))),
    )
    return told[0]


def test_a_run_continues_from_its_newest_whole_checkpoint(tmp_path, scripted):
    run = stopped(tmp_path / "a")
    damage(run, 20)
    assert resumed(run, "train.steps=60") == (10, 1)
    request, submitted = run.ledger.events()[-2:]
    assert (request.steps, request.overrides) == (60, ("train.steps=60",))
    assert isinstance(submitted, Submitted)
    assert resumed(stopped(tmp_path / "b"), from_step=10) == (10, 0)


def test_what_is_refused(tmp_path, scripted):
    run = stopped(tmp_path / "a")
    with pytest.raises(NotFoundError, match=r"no checkpoint of step 15\. It has: 10, 20"):
        resumed(run, from_step=15)
    with pytest.raises(RecipeError, match=r"sde\.beta0=3 would make it another run"):
        resumed(run, "train.keep=9", "sde.beta0=3")
    with pytest.raises(UsageError, match="already at step 20, beyond"):
        resumed(run, "train.steps=15")
    with pytest.raises(UsageError, match="is running as job 2"):
        resumed(trained(run_with(tmp_path / "b", 10), "2"))
    assert not any(isinstance(event, Requested) for event in run.ledger.events())


def test_only_the_clusters_of_the_training_jobs_have_to_answer(tmp_path, scripted):
    run = stopped(tmp_path / "a")
    work = ordered(run, 10)
    note(work, queued("9", 0, cluster="other"))
    scripted.away.add("other")
    runs, skipped = resumable(tmp_path)
    assert ([run.name for run in runs], skipped) == (["a"], [])
    assert resumed(run) == (20, 0)
    other = stopped(tmp_path / "b", "2", cluster="other")
    with pytest.raises(
        SchedulerAway, match="Whether b is alive is unknown; try again when it answers"
    ):
        resumed(other)


def test_a_run_whose_command_was_killed_before_it_asked_for_a_job(tmp_path, scripted):
    run = run_with(tmp_path / "mine")
    resume(run, Scripted())
    assert [type(event) for event in run.ledger.events()] == [Requested, Submitted]
    young = run_with(tmp_path / "young")
    write_json(young.identity_file, {**read_object(young.identity_file), "created": time.time()})
    with pytest.raises(UsageError, match="young is pending"):
        resume(young, Scripted())


def test_a_hook_that_others_could_have_written_is_not_taken_over(tmp_path, scripted):
    run = run_with(tmp_path / "mine", 10, overrides=("hooks.on_change=date",))
    run.recipe_file.chmod(0o666)
    with pytest.raises(
        CheckpointError, match=r"hooks\.on_change=date would run code of their choice"
    ):
        resumed(run)
    resumed(run, "hooks.on_change=uptime")
    assert hooks.allowed(run.logs).on_change == "uptime", "what is typed is this user's own"
