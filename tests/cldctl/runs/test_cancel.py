"""Ending several runs at once, on clusters that are made up."""

import pytest

from cld_core.errors import UsageError
from cld_core.evaluation.evaluation import evaluations_of
from cld_core.evaluation.request import EvalRequest
from cld_core.run.events import Cancelled, Ended, JobRef, Started, Submitted
from cldctl import clusters
from cldctl.clusters.base import SchedulerAway, Seen, Survey
from cldctl.clusters.debug import DebugCluster
from cldctl.runs import cancel
from tests.support.made_up import run_with


class Scripted(DebugCluster):
    """Jobs are in the phase that ``phases`` says; cancelled ones are gone, unless they are stubborn."""

    name = "scripted"
    phases: dict[str, str]
    calls: list[tuple[str, list[str]]]
    stubborn: set[str]
    problem: str | None

    def survey(self, jobs, *, settled=(), max_age_s=30.0):
        seen = {(self.name, job.job_id): Seen(self.phases[job.job_id], reason="started on far") for job in jobs}
        return Survey(seen, 0.0, self.problem)

    def cancel(self, jobs):
        self._end("cancel", [job.job_id for job in jobs if job.job_id not in self.stubborn], jobs)

    def kill(self, jobs):
        self._end("kill", [job.job_id for job in jobs], jobs)

    def _end(self, how, gone, jobs):
        self.calls.append((how, [job.job_id for job in jobs]))
        self.phases.update(dict.fromkeys(gone, "gone"))


@pytest.fixture
def scripted(monkeypatch):
    Scripted.phases, Scripted.calls, Scripted.stubborn, Scripted.problem = {}, [], set(), None
    monkeypatch.setitem(clusters.CLUSTERS, "scripted", f"{__name__}:Scripted")
    return Scripted


def run_of(path, job_id, phase="running"):
    run = run_with(path, 10)
    run.ledger.append(Submitted(job=JobRef(cluster="scripted", job_id=job_id)))
    run.ledger.append(Started(attempt=0, job_id=job_id, step=0))
    Scripted.phases[job_id] = phase
    return run


def ended(endings, grace_s=60.0):
    over = []
    cancel.wait([ending for ending in endings if ending.jobs], over.append, grace_s)
    return over


def test_several_runs_and_their_evaluations_end_at_the_same_time(tmp_path, scripted):
    first, second = run_of(tmp_path / "a", "1"), run_of(tmp_path / "b", "2")
    EvalRequest.of(second.recipe(), ("elbo",), 10).save(second)
    (work,) = evaluations_of(second)
    work.ledger.append(Submitted(job=JobRef(cluster="scripted", job_id="3"), shards=(0,)))
    scripted.phases["3"] = "pending"
    done = run_of(tmp_path / "c", "4", "gone")
    done.ledger.append(Ended(attempt=0, cause="finished", step=10))
    endings = cancel.cancel([first, second, done])
    assert scripted.calls == [("cancel", ["1", "2", "3"])]
    assert [(ending.trains, ending.state) for ending in endings] == [(True, ""), (True, ""), (False, "finished")]
    assert all(ending.is_over for ending in ended(endings))
    assert isinstance(second.ledger.events()[-1], Cancelled)
    assert work.ledger.history().cancelled == {"3"}


def test_what_is_left_after_the_grace_is_killed(tmp_path, scripted):
    run = run_of(tmp_path / "a", "1")
    scripted.stubborn = {"1"}
    (ending,) = ended(cancel.cancel([run]), grace_s=0.0)
    assert not ending.is_over
    assert scripted.calls[-1] == ("kill", ["1"])


def test_nothing_is_cancelled_unless_everything_can_be(tmp_path, scripted):
    runs = [run_of(tmp_path / "a", "1"), run_of(tmp_path / "b", "2", "unknown")]
    with pytest.raises(UsageError, match=r"b was started on far\. Cancel it there\."):
        cancel.cancel(runs)
    scripted.problem = "nobody answers"
    with pytest.raises(SchedulerAway, match=r"nobody answers\. Nothing was cancelled; try again when it answers\."):
        cancel.cancel(runs)
    assert scripted.calls == []
    assert not any(isinstance(event, Cancelled) for run in runs for event in run.ledger.events())
