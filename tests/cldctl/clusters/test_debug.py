"""Jobs in the process of the command."""

import contextlib
import subprocess
import sys
from dataclasses import replace

import pytest

from cld_core.config.cluster import ClusterSpec
from cld_core.errors import RecipeError
from cld_core.rendezvous import Place
from cld_core.run.events import JobRef
from cldctl.clusters import find
from cldctl.clusters.base import JobSpec
from cldctl.clusters.debug import DebugCluster
from cldctl.clusters.this_machine import details_of

CLUSTER = DebugCluster()


def spec(tmp_path):
    return JobSpec(name="mine", logs=tmp_path, size=ClusterSpec())


def test_tasks_run_one_after_another_after_they_were_noted(tmp_path):
    done = []

    def work(number):
        def call(job, stop):
            assert (job.in_process, job.place(), job.restart) == (True, Place(), 0)
            done.append((number, job.ref))

        return call

    def note(jobs):
        assert not done
        done.extend(jobs)

    CLUSTER.submit(spec(tmp_path), [work(n) for n in range(2)], note)
    jobs, ran = done[:2], done[2:]
    assert ran == list(enumerate(jobs))
    assert [CLUSTER.survey(jobs).of(job).phase for job in jobs] == ["gone", "gone"], "submit has returned"
    assert CLUSTER.log_files(jobs[0], 0) == []


def test_an_error_is_the_commands_own(tmp_path):
    def fail(job, stop):
        raise RuntimeError("as it was told to")

    with pytest.raises(RuntimeError, match="as it was told to"):
        CLUSTER.submit(spec(tmp_path), [fail], lambda jobs: None)
    with pytest.raises(RecipeError, match=r"Set cluster.nodes=1"):
        CLUSTER.check(JobSpec(name="mine", logs=tmp_path, size=ClusterSpec(nodes=2)))


def test_a_job_of_another_command_is_seen_cancelled_and_killed(tmp_path):
    program = tmp_path / "cldctl"
    program.write_text("input()")
    for end in (CLUSTER.cancel, CLUSTER.kill):
        with subprocess.Popen([sys.executable, str(program)], stdin=subprocess.PIPE) as other:
            job = JobRef(cluster="debug", job_id=str(other.pid), details=details_of(other.pid))
            assert CLUSTER.survey([job]).of(job).phase == "running"
            end([job])
            assert other.wait(timeout=300) < 0
            assert CLUSTER.survey([job]).of(job).phase == "gone"


@pytest.mark.parametrize("cluster", ["local", "debug"])
@pytest.mark.parametrize(
    ("seen", "asked", "refused"), [("", 1, True), ("-1", 1, True), ("0", 1, False), ("", 0, False)]
)
def test_gpus_that_are_not_there_are_refused(tmp_path, monkeypatch, cluster, seen, asked, refused):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    wanted = replace(spec(tmp_path), size=ClusterSpec(gpus_per_node=asked))
    says = r"cluster.gpus_per_node' is 1.* set cluster.gpus_per_node=0"
    with pytest.raises(RecipeError, match=says) if refused else contextlib.nullcontext():
        find(cluster).check(wanted)
