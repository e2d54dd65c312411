"""`cldctl.clusters.slurm` on the test cluster: submit, survey, cancel."""

from dataclasses import dataclass, replace

import pytest

from cld_core.config.schema import ClusterSpec
from cld_core.run.events import JobRef
from cldctl.clusters.base import After, JobSpec, SchedulerRefused, Seen
from cldctl.clusters.slurm.cluster import SlurmCluster as Slurm
from tests.cldctl.clusters.works import Report
from tests.support.paths import ROOT
from tests.support.tools import wait_for

from .cluster import SlurmCluster


@dataclass
class Bench:
    """Submits work to partition ``low``, each task on its own node, and asks about it."""

    slurm: SlurmCluster
    spec: JobSpec

    def submit(self, *works, **changes):
        jobs = []
        Slurm().submit(replace(self.spec, **changes), works, jobs.extend)
        return jobs

    def report(self, name):
        return Report(str(self.spec.logs.parent), name, waits=True)

    def seen(self, job):
        return Slurm().survey([job], max_age_s=0).of(job)

    def until(self, phase, jobs):
        def all_in_phase():
            survey = Slurm().survey(jobs, max_age_s=0)
            return all(survey.of(job).phase == phase for job in jobs)

        wait_for(all_in_phase, timeout=60, what=f"{jobs} to be {phase}", every=0.3, last_seen=self.slurm.describe)


@pytest.fixture
def bench(slurm, tmp_path, monkeypatch):
    for name, value in slurm.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    setup = (f"export PYTHONPATH={ROOT}",)
    size = ClusterSpec(partition="low", time_min=10, sbatch_args=("--exclusive",), setup=setup)
    return Bench(slurm, JobSpec(name="mine", logs=tmp_path / "logs", size=size))


def test_an_array_from_waiting_to_its_end(bench):
    blocker = bench.slurm.sbatch("-N4", "--exclusive", wrap="sleep 300")
    bench.slurm.wait_state(blocker, "RUNNING")
    jobs = bench.submit(bench.report("a"), bench.report("b"))
    assert [job.job_id.partition("_")[2] for job in jobs] == ["0", "1"]
    bench.until("pending", jobs)
    wait_for(lambda: bench.seen(jobs[0]).reason, timeout=30, what="a reason")
    bench.slurm.run(["scancel", blocker])
    bench.until("running", jobs)
    folder = bench.spec.logs.parent
    wait_for(lambda: (folder / "b.json").exists(), timeout=60, what="the work to begin")
    assert bench.seen(jobs[0]).node.startswith("n")
    assert "work b" in Slurm().log_files(jobs[1], 0)[0].read_text()
    Slurm().cancel([jobs[1]])
    bench.until("gone", [jobs[1]])
    assert (folder / "b.stopped").exists()
    assert bench.seen(jobs[1]).ended == "cancelled"
    assert bench.seen(jobs[0]).phase == "running", "the other task of the array keeps running"
    bench.slurm.run(["scontrol", "suspend", jobs[0].job_id])
    assert bench.seen(jobs[0]).phase == "suspended"
    bench.slurm.run(["scontrol", "resume", jobs[0].job_id])
    (folder / "go").touch()
    bench.until("gone", jobs)
    assert bench.seen(jobs[0]) == Seen("gone", node=bench.seen(jobs[0]).node, word="COMPLETED")
    Slurm().cancel(jobs)  # Jobs that have ended are not an error.


def test_a_job_waits_for_others(bench):
    first, second = bench.submit(bench.report("first")) + bench.submit(bench.report("second"))
    waiting = bench.submit(bench.report("a"), bench.report("b"), after=After((first, second)))
    bench.until("running", [first, second])
    wait_for(lambda: bench.seen(waiting[0]).reason == "Dependency", timeout=30, what="the dependency")
    folder = bench.spec.logs.parent
    wait_for(lambda: (folder / "first.json").exists(), timeout=60, what="the work to begin")
    Slurm().cancel([first])
    bench.until("gone", [first])
    assert {bench.seen(job).phase for job in waiting} == {"pending"}
    (folder / "go").touch()
    bench.until("gone", [second, *waiting])
    assert (folder / "b.json").exists()


def test_options_reach_slurm_as_they_were_written(bench):
    comment = "two words #1, $HOME; `x` & (y) 100%"
    (job,) = bench.submit(bench.report("a"), size=replace(bench.spec.size, sbatch_args=(f"--comment={comment}",)))
    shown = bench.slurm.run(["scontrol", "show", "job", job.job_id]).stdout
    assert f"Comment={comment}" in [line.strip() for line in shown.splitlines()]
    Slurm().cancel([job])
    bench.until("gone", [job])


def test_a_refusal_is_a_refusal(bench):
    size = replace(bench.spec.size, partition="nowhere")
    with pytest.raises(SchedulerRefused, match="refused the job mine: invalid partition"):
        bench.submit(bench.report("a"), size=size)
    assert bench.seen(JobRef(cluster="slurm", job_id="999999")).phase == "gone"
