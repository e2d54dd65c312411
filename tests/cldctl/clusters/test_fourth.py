"""A cluster that is one class and one line of the registry, under the real commands."""

import pytest

from cld_core.run.events import JobRef
from cldctl.clusters import CLUSTERS
from cldctl.clusters.base import Answer, Cluster, InJob, Limit, Survey, Task
from tests.support.chunks import cut
from tests.support.tools import ONE, invoke, signal_handlers, status

# Of the picture that goes with an evaluation.
QUICK = ("sampling.method=em", "sampling.nfe=2")


class Here(Cluster):
    """What a cluster has to define: its jobs run where they are submitted, after those that they
    wait for."""

    name = "here"
    blocks = True
    running = ""

    def most_tasks(self, spec):
        return Limit(2)

    def check(self, spec, tasks=1):
        """Everything fits."""

    def script(self, spec, tasks=1):
        return f"# here: {tasks} process(es), {spec.name}\n"

    def submit(self, spec, works, note):
        jobs = [
            JobRef(cluster=self.name, job_id=f"{spec.name}-{k}", logs=str(spec.logs))
            for k in range(len(works))
        ]
        note(jobs)
        for job, work in zip(jobs, works, strict=True):
            Here.running = job.job_id
            with signal_handlers(), pytest.raises(SystemExit, match="0"):
                Task(work, self)()

    def survey(self, jobs, *, settled=(), max_age_s=30.0):
        return Survey({job.job_id: Answer("gone") for job in jobs})

    def cancel(self, jobs):
        """Nothing runs while a command asks for that."""

    kill = cancel

    def current_job(self, logs=None):
        return InJob(cluster=self, ref=JobRef(cluster=self.name, job_id=self.running))


@pytest.fixture
def runs(fresh_runs, monkeypatch):
    monkeypatch.setitem(CLUSTERS, "here", f"{__name__}:Here")
    return fresh_runs


def test_a_run_is_submitted_evaluated_cancelled_and_resumed(runs, monkeypatch):
    submit = "submit toy --name mine --cluster here"
    assert "# here: 1 process" in invoke(f"{submit} --dry-run", *ONE, *QUICK).stdout
    invoke(f"{submit} --eval elbo", *ONE, *QUICK)
    row = status("mine")
    assert (row["state"], row["cluster"], row["step"], row["job_id"]) == (
        "FINISHED",
        "here",
        20,
        "mine-0",
    )
    assert row["evals"][0]["nll"] is not None
    cut(monkeypatch, 8)
    invoke("eval mine --elbo --shards 3 eval.seed=4")
    name = status("mine")["evals"][1]["id"]
    jobs = (runs / "mine" / "evals" / name / "jobs.jsonl").read_text()
    assert jobs.count('"submitted"') == 2, "three shards, two tasks"
    invoke("resume mine train.steps=30")
    assert status("mine")["step"] == 30
    assert "nothing is running" in invoke("cancel mine").stderr
