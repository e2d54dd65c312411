"""Of an evaluation in progress, what nobody computes any more is started, and nothing else."""

import pytest

from cld_core.evaluate.evaluation import Evaluation
from cld_core.run.events import JobRef, Submitted
from cldctl.evals import plan
from cldctl.runs import evaluate
from tests.support.made_up import run_with
from tests.support.scripted import Scripted

ASKED = ("eval.samples=32",)


@pytest.fixture
def run(tmp_path):
    return run_with(tmp_path / "mine", 20)


def begun(run, **phases: str) -> Evaluation:
    """An evaluation in as many shards as there are tasks, each in its phase."""
    made = plan.make(run, ("elbo",), [20], ASKED, shards=len(phases))
    work = Evaluation(made.requests[0].save(run))
    for shard, (job_id, phase) in enumerate(phases.items()):
        Scripted.phases[job_id] = phase
        work.ledger.append(Submitted(job=JobRef(cluster="scripted", job_id=job_id), shards=(shard,)))
    return work


def start(run) -> evaluate.Outcome:
    cluster = Scripted()
    cluster.most = 100
    made = plan.make(run, ("elbo",), [20], ASKED)
    return evaluate.start(evaluate.Planned(run, made, cluster, run.recipe().cluster))


def newest(work: Evaluation, before: int) -> list[tuple[int, ...]]:
    return [event.shards for event in work.ledger.history().submitted[before:]]


def test_a_held_task_does_not_keep_a_cancelled_one_from_being_computed(run, scripted):
    work = begun(run, a="pending", b="gone", c="running", d="gone")
    outcome = start(run)
    assert (outcome.started, outcome.running) == ((work.name,), ())
    assert newest(work, 4) == [(1,), (3,)], "a task each"
    again = start(run)
    assert (again.started, again.running, again.job) == ((), (work.name,), None)
    assert len(work.ledger.history().submitted) == 6


@pytest.mark.parametrize("phase", ["pending", "running", "suspended", "ending", "unknown"])
def test_what_is_computed_is_left_alone(run, scripted, phase):
    work = begun(run, a=phase, b="running")
    outcome = start(run)
    assert (outcome.started, outcome.running) == ((), (work.name,))


def test_what_is_complete_is_merged_unless_somebody_is_about_to(run, scripted, monkeypatch):
    """A task that merged may have been killed, and another one be held."""
    work = begun(run, a="pending", b="gone")
    monkeypatch.setattr(Evaluation, "missing", lambda self: [])
    assert start(run).running == (work.name,), "the task of the first shard will merge"
    Scripted.phases.update(a="gone", b="pending")
    assert start(run).started == (work.name,)
    assert newest(work, 2) == [(0,)]
