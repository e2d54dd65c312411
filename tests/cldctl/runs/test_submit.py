"""What is written when, and what is left of a submission that fails."""

import fcntl

import pytest

from cld_core import processor
from cld_core.config import load
from cld_core.errors import RecipeError
from cld_core.evaluate.evaluation import evaluations_of
from cld_core.run import RunFolder, code
from cld_core.run.events import NotSubmitted, Requested, Submitted
from cldctl.clusters.records import After, SchedulerAway, SchedulerRefused
from cldctl.evals import plan
from cldctl.jobs.successor import chained
from cldctl.runs import evaluate, sharded, snapshot
from cldctl.runs.options import SubmitOptions
from cldctl.runs.submit import require_native, submit
from cldctl.runs.training import Start, train
from tests.support.made_up import report, run_with
from tests.support.paths import RECIPES
from tests.support.scheduler import clients
from tests.support.scripted import alone
from tests.support.tools import invoke

TOY = RECIPES / "toy.yaml"


def submitted(path, cluster, metrics=(), *overrides):
    recipe = load(TOY, ["train.steps=20", "eval.samples=32", *overrides])
    return submit(SubmitOptions(path=path, recipe=recipe, file=TOY, metrics=metrics), cluster)


def test_the_request_is_in_the_ledger_before_the_job_exists(tmp_path):
    events = []

    def look(number):
        events.extend(RunFolder(tmp_path / "mine").ledger.events())

    begun = submitted(tmp_path / "mine", alone(before=look))
    assert [type(event) for event in events] == [Requested]
    assert [type(event) for event in begun.run.ledger.events()] == [Requested, Submitted]


def test_an_evaluation_is_a_job_that_waits_for_the_training(tmp_path):
    cluster = alone(most=2)
    begun = submitted(tmp_path / "mine", cluster, ("elbo",), "cluster.tasks_per_node=4")
    (training, _), (evaluation, tasks) = cluster.submissions
    assert training.after is None
    assert evaluation.after == After((begun.job,))
    assert len(tasks) == 2, "four shards, at most two tasks"
    (work,) = chained(begun.run, begun.run.recipe())
    assert begun.evaluations == (work.name,)
    assert [event.shards for event in work.ledger.history().jobs] == [(0, 2), (1, 3)]


@pytest.mark.parametrize("error", [SchedulerRefused("no"), SchedulerAway("nobody answers")])
def test_a_new_run_that_was_not_submitted_leaves_its_name_free(tmp_path, error):
    with pytest.raises(type(error)):
        submitted(tmp_path / "mine", alone(error=error), ("elbo",))
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(("error", "away"), [(SchedulerRefused("no"), False), (SchedulerAway("no answer"), True)])
def test_a_continuation_that_was_not_submitted_says_so_in_the_ledger(tmp_path, error, away):
    run = run_with(tmp_path / "mine", 10)
    with pytest.raises(type(error)):
        train(Start(run=run, recipe=run.recipe()), alone(error=error))
    event = run.ledger.events()[-1]
    assert isinstance(event, NotSubmitted)
    assert (event.reason, event.away) == (str(error), away)


def test_a_dry_run_shows_what_the_evaluation_waits_for(tmp_path, monkeypatch):
    clients(tmp_path, monkeypatch)
    shown = invoke("submit", "toy", "--dry-run", "--cluster", "slurm", "--eval", "elbo", runs=tmp_path / "runs").stdout
    assert "--dependency=afterany:JOB_OF_THE_TRAINING" in shown


def test_whether_an_evaluation_is_being_computed_must_be_known(tmp_path, scripted, monkeypatch):
    """Otherwise it would be called "already being computed", and nobody would compute it."""
    run, cluster = run_with(tmp_path / "mine", 10, 20), scripted()
    size = run.recipe().cluster
    made = plan.make(run, ("elbo",), [10, 20], [])
    evaluate.start(evaluate.Planned(run, made, cluster, size))
    scripted.away.add("scripted")
    with pytest.raises(SchedulerAway, match=r"nobody answers\. Whether this is being computed is unknown; try again"):
        evaluate.start(evaluate.Planned(run, made, cluster, size))
    with pytest.raises(SchedulerAway):
        sharded.is_alive(run.evals / made.requests[0].id)
    for request in made.requests:
        report(run, request)
    assert len(evaluate.start(evaluate.Planned(run, made, cluster, size)).complete) == 2, "nobody has to be asked"


def test_while_its_code_is_stored_a_run_is_locked(tmp_path, monkeypatch):
    """Or after half a minute it would be taken for one whose submission was interrupted."""
    store, held = snapshot.store, []

    def looking(run, *rest):
        with open(run.path / ".submit.lock") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        held.append(run.name)
        return store(run, *rest)

    monkeypatch.setattr(snapshot, "store", looking)
    submitted(tmp_path / "mine", alone())
    assert held == ["mine"]


def test_tasks_of_an_evaluation_know_the_code_that_they_are_to_run(tmp_path, monkeypatch):
    """That of the run behind its training, else that of the checkout."""
    cluster = alone()
    begun = submitted(tmp_path / "mine", cluster, ("elbo",))
    manifest = code.read(code.path_of(begun.run.path))
    run = run_with(tmp_path / "other", 10)
    evaluate.start(evaluate.Planned(run, plan.make(run, ("elbo",), [10], []), cluster, run.recipe().cluster))
    asked = [task.work.code for _, tasks in cluster.submissions[1:] for task in tasks]
    assert asked == [manifest.digest, code.imported()]
    (work,) = evaluations_of(run)
    assert work.ledger.history().submitted[0].code == code.imported()


def natively(cluster, *overrides):
    """What is said of the precision of a recipe."""
    said = []
    require_native(load(TOY, ["train.precision=bf16", *overrides]), cluster, said.append)
    return said


def test_a_precision_that_this_processor_emulates_needs_permission(monkeypatch):
    emulated = ["bf16"]
    monkeypatch.setattr(processor, "emulates", emulated.__contains__)
    here, elsewhere = alone(), alone()
    here.queues, elsewhere.queues = False, True
    with pytest.raises(RecipeError, match=r"train.precision=bf16 .*train.precision=fp32, or train.emulated=true"):
        natively(here)
    (warning,) = natively(here, "train.emulated=true")
    assert "20 times" in warning
    assert natively(here, "cluster.gpus_per_node=1") == natively(here, "train.precision=fp32") == []
    (warning,) = natively(elsewhere)
    assert "unless those of the nodes" in warning
    emulated.clear()
    assert natively(here) == []


def test_submitting_it_is_wrong_usage_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "emulates", lambda precision: precision == "bf16")
    done = invoke("submit", "toy", "train.precision=bf16", "--cluster", "local", runs=tmp_path / "runs", code=2)
    assert done.stderr.startswith("error: train.precision=bf16 is emulated")
    assert not (tmp_path / "runs").exists()
