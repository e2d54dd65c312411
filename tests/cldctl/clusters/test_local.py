"""Jobs as processes of this machine: with real processes."""

import contextlib
import json
from dataclasses import replace

import psutil
import pytest

from cld_core.config.cluster import ClusterSpec
from cld_core.run.events import JobRef, Submitted
from cld_core.run.ledger import parse, to_line
from cldctl.clusters.base import After, JobSpec, SchedulerRefused
from cldctl.clusters.local import LocalCluster
from tests.support.tools import wait_for

from .works import Report, Stubborn

pytestmark = pytest.mark.slow
CLUSTER = LocalCluster()
PATIENCE_S = 300


def wait_for_end(pids):
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(timeout=PATIENCE_S)


class Submitter:
    """Submits work that reports into ``folder``, and leaves no process behind."""

    def __init__(self, folder):
        self.folder = folder
        self.jobs = []
        self.spec = JobSpec(name="mine", logs=folder / "logs", size=ClusterSpec())

    def __call__(self, *works, **changes):
        noted = []
        spec = replace(self.spec, **changes)
        CLUSTER.submit(spec, works, noted.extend)
        # As another command finds them.
        noted = [parse(to_line(Submitted(job=job))).job for job in noted]
        self.jobs += noted
        return noted

    def report(self, name, waits=True):
        return Report(str(self.folder), name, waits)

    def facts(self, name):
        file = self.folder / f"{name}.json"
        wait_for(file.exists, PATIENCE_S)
        return json.loads(file.read_text())

    def phase(self, job):
        return CLUSTER.survey([job]).of(job).phase

    def until_gone(self, *jobs):
        for job in jobs:
            wait_for(lambda job=job: self.phase(job) == "gone", PATIENCE_S)


@pytest.fixture
def submit(tmp_path):
    submitter = Submitter(tmp_path)
    yield submitter
    CLUSTER.kill(submitter.jobs)
    wait_for_end(job.details["pid"] for job in submitter.jobs)


def test_tasks_of_one_process_get_a_gpu_each(submit, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    size = ClusterSpec(gpus_per_node=1)
    jobs = submit(*(submit.report(name) for name in "abc"), size=size)
    for number, name in enumerate("abc"):
        facts = submit.facts(name)
        place = {"rank": 0, "world_size": 1, "local_rank": number, "local_world_size": 3}
        assert place.items() <= facts["place"].items()
        assert facts["gpus"] == "4,5", (
            "those that this user may use, and of few each is used by several"
        )
        assert facts["ref"]["job_id"] == jobs[number].job_id == str(jobs[number].details["pid"])
        assert submit.phase(jobs[number]) == "running"
    CLUSTER.cancel([jobs[1]])
    submit.until_gone(jobs[1])
    assert [submit.phase(job) for job in jobs] == ["running", "gone", "running"], (
        "one is cancelled alone"
    )
    (submit.folder / "go").touch()
    submit.until_gone(*jobs)
    out, _ = CLUSTER.log_files(jobs[1], 0)
    assert "work b" in out.read_text()
    assert [path.name for path in submit.folder.glob("*.stopped")] == ["b.stopped"]


def test_jobs_that_no_ledger_knows_are_ended(submit):
    def note(jobs):
        submit.jobs += jobs
        raise OSError(28, "No space left on device")

    with pytest.raises(SchedulerRefused, match="No space left"):
        CLUSTER.submit(submit.spec, [submit.report("a")], note)
    submit.until_gone(*submit.jobs)


def test_no_more_tasks_run_at_once_than_asked_for_though_one_that_waits_is_cancelled(submit):
    jobs = submit(*(submit.report(name) for name in "abcde"), parallel=2)
    for name in "ab":
        submit.facts(name)
    CLUSTER.cancel([jobs[2]])
    submit.until_gone(jobs[2])
    assert [submit.phase(job) for job in jobs] == [
        "running",
        "running",
        "gone",
        "pending",
        "pending",
    ]
    (later,) = submit(submit.report("f"), parallel=2, earlier=tuple(jobs))
    assert submit.phase(later) == "pending"


def test_a_stopped_rank_is_alive_and_killed_though_its_controller_is_dead(submit):
    """Ranks meet by a file."""
    (job,) = submit(submit.report("a"), size=ClusterSpec(tasks_per_node=2))
    facts = [submit.facts(name) for name in ("a.0", "a.1")]
    meeting = f"file://{submit.spec.logs / f'.meeting_{job.job_id}'}"
    sizes = {"world_size": 2, "local_world_size": 2, "init_method": meeting}
    assert [fact["place"] for fact in facts] == [
        {"rank": rank, "local_rank": rank, **sizes} for rank in range(2)
    ]
    processes = [psutil.Process(fact["pid"]) for fact in facts]
    processes[-1].suspend()
    controller = psutil.Process(job.details["pid"])
    controller.kill()
    wait_for_end([controller.pid])
    CLUSTER.cancel([job])
    wait_for_end([processes[0].pid])
    assert submit.phase(job) == "running"
    CLUSTER.kill([job])
    submit.until_gone(job)
    wait_for_end(process.pid for process in processes)


def test_a_job_that_has_waited_ends_at_its_time_limit(submit):
    """Though it ignores the signal."""
    (first,) = submit(submit.report("first"))
    (second,) = submit(Stubborn(), after=After((first,)), size=ClusterSpec(time_min=0.01))
    (submit.folder / "go").touch()
    submit.until_gone(first, second)


def test_a_job_waits_for_another_and_can_be_cancelled_meanwhile(submit):
    (first,) = submit(submit.report("first"))
    (second,) = submit(submit.report("second"), after=After((first,)))
    (third,) = submit(submit.report("third"), after=After((first,)))
    seen = CLUSTER.survey([second]).of(second)
    assert (seen.phase, seen.reason) == ("pending", f"waits for job {first.job_id}")
    wait_for(
        lambda: any("waits for job" in file.read_text() for file in CLUSTER.log_files(third, 0)),
        PATIENCE_S,
    )
    CLUSTER.cancel([third])
    submit.until_gone(third)
    submit.facts("first")
    assert submit.phase(second) == "pending"
    CLUSTER.cancel([first])
    submit.until_gone(first)
    submit.facts("second")
    assert submit.phase(second) == "running"
    CLUSTER.cancel([second])
    submit.until_gone(second)
    assert not (submit.folder / "third.json").exists()


def test_jobs_of_another_machine_are_not_known(submit):
    job = JobRef(
        cluster="local", job_id="1", details={"host": "elsewhere", "pid": 1, "process_started": 0.0}
    )
    seen = CLUSTER.survey([job]).of(job)
    assert (seen.phase, seen.reason, seen.node) == ("unknown", "started on elsewhere", "elsewhere")
    with pytest.raises(SchedulerRefused, match="cannot wait for job 1 of elsewhere"):
        submit(submit.report("a"), after=After((job,)))
