"""Of an evaluation in progress, what nobody computes any more is started, and nothing else."""

import pytest

from cld_core.errors import RecipeError
from cld_core.run.evaluations import Evaluation
from cldctl.clusters.base import Limit
from cldctl.evals import plan
from cldctl.runs.start import PlannedWork, start
from tests.support.made_up import note, queued
from tests.support.scripted import Scripted, alone, outcomes
from tests.support.tools import invoke

ASKED = ("eval.samples=8192",)


def begun(run, **phases):
    """An evaluation in as many shards as there are tasks, each in its phase."""
    made = plan.make(run, ("elbo",), [20], ASKED, shards=len(phases))
    work = Evaluation(made.requests[0].save(run))
    for shard, (job_id, phase) in enumerate(phases.items()):
        Scripted.phases[job_id] = phase
        note(work, queued(job_id, shard))
    return work


def evaluate(run, cluster=None, given=ASKED, axes=(), **more):
    made = plan.make(run, ("elbo",), [20], given, axes, **more)
    size = run.recipe().cluster
    works = [Evaluation(run.evals / request.id, request) for request in made.requests]
    planned = [PlannedWork(work=work, size=size, sweep=made.sweep) for work in works]
    return start(planned, cluster or Scripted(), run)


def test_a_held_task_does_not_keep_a_cancelled_one_from_being_computed(run, scripted, monkeypatch):
    monkeypatch.setattr(scripted, "most", 100)
    work = begun(run, a="pending", b="gone", c="running", d="gone")
    assert outcomes(evaluate(run)) == {work.name: "started"}
    assert [event.shards for event in work.ledger.history().submitted[4:]] == [(1,), (3,)], (
        "a task each"
    )
    again = evaluate(run)
    assert (outcomes(again), again.jobs) == ({work.name: "being computed"}, [])
    assert len(work.ledger.history().submitted) == 6


@pytest.mark.parametrize("phase", ["pending", "running", "suspended", "ending", "unknown"])
def test_what_is_computed_is_left_alone(run, scripted, phase):
    work = begun(run, a=phase, b="running")
    assert outcomes(evaluate(run)) == {work.name: "being computed"}


def test_what_is_complete_is_merged_unless_somebody_is_about_to(run, scripted, monkeypatch):
    """A task that merged may have been killed, and another one be held."""
    work = begun(run, a="pending", b="gone")
    monkeypatch.setattr(Evaluation, "missing", lambda self: [])
    assert outcomes(evaluate(run)) == {work.name: "being computed"}, (
        "the task of the first shard will merge"
    )
    Scripted.phases.update(a="gone", b="pending")
    assert outcomes(evaluate(run)) == {work.name: "started"}
    assert [event.shards for event in work.ledger.history().submitted[2:]] == [(0,)]


def test_what_the_cluster_has_no_jobs_for_leaves_nothing_behind(run, scripted):
    cluster, before = scripted(), {*run.path.rglob("*")}
    cluster.queues, cluster.most = True, 1
    cluster.most_tasks = lambda spec: Limit(2)
    with pytest.raises(RecipeError, match="2 tasks do not fit"):
        evaluate(run, cluster, axes=plan.parse(["eval.elbo.velocities=1,4"]))
    assert {*run.path.rglob("*")} - before == {run.path / ".submit.lock"}


def shared(run, cluster):
    """What is said of an evaluation in 64 shards, each of which has been submitted."""
    started = evaluate(run, cluster, ["eval.samples=65536"], shards=64)
    submitted = started.works[0].work.history().submitted
    assert sorted(shard for event in submitted for shard in event.shards) == list(range(64))
    return started.messages


def test_shards_share_the_tasks_that_the_scheduler_takes(run):
    cluster = alone(takes=7, most=7)
    assert shared(run, cluster) == ["64 shards in 7 tasks: at most 7 jobs may be in the queue"]
    assert cluster.sizes == [7]


def test_half_as_many_tasks_are_tried_until_the_scheduler_takes_them(run):
    cluster = alone(takes=10)
    assert shared(run, cluster) == [
        "64 shards in 8 tasks: scripted refuses 16 tasks (AssocMaxSubmitJobLimit)"
    ]
    assert cluster.sizes == [64, 32, 16, 8]


def test_a_profile_describes_the_jobs_of_an_evaluation_too(run, scripted, tmp_path):
    (tmp_path / "site.yaml").write_text("cluster: {partition: low, mem_gb: 8}\n")
    words = f"--profile {tmp_path}/site.yaml cluster.partition=high"
    invoke(f"eval mine --elbo --cluster scripted {words}")
    ((spec, _),) = scripted.submissions
    assert (spec.size.partition, spec.size.mem_gb) == ("high", 8)
