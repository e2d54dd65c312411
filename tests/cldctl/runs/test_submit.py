"""What is written when, and what is left of a submission that fails."""

import pytest

from cld_core.evaluation.evaluation import chained
from cld_core.recipe import load
from cld_core.run import RunFolder
from cld_core.run.events import JobRef, NotSubmitted, Requested, Submitted
from cldctl.clusters.base import After, SchedulerAway, SchedulerRefused
from cldctl.clusters.debug import DebugCluster
from cldctl.evals import plan
from cldctl.runs import evaluate, sharded
from cldctl.runs.submit import submit, train
from tests.support.made_up import run_with
from tests.support.paths import RECIPES

TOY = RECIPES / "toy.yaml"


class Recording(DebugCluster):
    """Accepts jobs and runs none."""

    name = "recording"
    blocks = False
    tasks_at_most = 2

    def __init__(self, error: Exception | None = None):
        self.submitted, self.error = [], error

    def max_tasks(self, spec):
        return self.tasks_at_most

    def submit(self, spec, tasks, note):
        if self.error is not None:
            raise self.error
        self.submitted.append((spec, tasks))
        note([JobRef(cluster=self.name, job_id=f"{len(self.submitted)}_{k}") for k in range(len(tasks))])


def submitted(path, cluster, metrics=(), *overrides):
    return submit(path, load(TOY, ["train.steps=20", "eval.samples=32", *overrides]), TOY, cluster, metrics)


def test_the_request_is_in_the_ledger_before_the_job_exists(tmp_path):
    events = []

    class Looking(Recording):
        def submit(self, spec, tasks, note):
            events.extend(RunFolder(tmp_path / "mine").ledger.events())
            super().submit(spec, tasks, note)

    begun = submitted(tmp_path / "mine", Looking())
    assert [type(event) for event in events] == [Requested]
    assert [type(event) for event in begun.run.ledger.events()] == [Requested, Submitted]


def test_an_evaluation_is_a_job_that_waits_for_the_training(tmp_path):
    cluster = Recording()
    begun = submitted(tmp_path / "mine", cluster, ("elbo",), "cluster.tasks_per_node=4")
    (training, _), (evaluation, tasks) = cluster.submitted
    assert training.after is None
    assert evaluation.after == After((begun.job,))
    assert len(tasks) == 2, "four shards, at most two tasks"
    (work,) = chained(begun.run, begun.run.recipe())
    assert begun.evaluations == (work.name,)
    assert [event.shards for event in work.ledger.history().jobs] == [(0, 2), (1, 3)]


@pytest.mark.parametrize("error", [SchedulerRefused("no"), SchedulerAway("nobody answers")])
def test_a_new_run_that_was_not_submitted_leaves_its_name_free(tmp_path, error):
    with pytest.raises(type(error)):
        submitted(tmp_path / "mine", Recording(error), ("elbo",))
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(("error", "away"), [(SchedulerRefused("no"), False), (SchedulerAway("no answer"), True)])
def test_a_continuation_that_was_not_submitted_says_so_in_the_ledger(tmp_path, error, away):
    run = run_with(tmp_path / "mine", 10)
    with pytest.raises(type(error)):
        train(run, run.recipe(), Recording(error))
    event = run.ledger.events()[-1]
    assert isinstance(event, NotSubmitted)
    assert (event.reason, event.away) == (str(error), away)


def test_an_evaluation_that_was_refused_leaves_nothing(tmp_path):
    run = run_with(tmp_path / "mine", 10)
    made = plan.make(run, ("elbo",), [10], [])
    with pytest.raises(SchedulerRefused):
        evaluate.start(run, made, Recording(SchedulerRefused("no")), run.recipe().cluster)
    assert list(run.evals.iterdir()) == []
    begun = evaluate.start(run, made, Recording(), run.recipe().cluster)
    assert begun.started == (made.requests[0].id,)


def test_work_that_was_not_begun_is_not_alive_and_its_folder_is_cleared(tmp_path):
    (tmp_path / "a.npz.partial" / "logs").mkdir(parents=True)
    assert not sharded.is_alive(tmp_path / "a.npz.partial")
    sharded.clear(tmp_path / "a.npz.partial")
    assert list(tmp_path.iterdir()) == []
