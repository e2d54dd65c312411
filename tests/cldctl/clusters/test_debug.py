"""Jobs in the process of the command, and what a launcher calls in each process of a job."""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from cld_core.config.cluster import ClusterSpec
from cld_core.errors import RecipeError
from cld_core.rendezvous import Place
from cld_core.run.events import JobRef
from cld_core.stop import StopCode
from cldctl.clusters import find
from cldctl.clusters.base import InJob, JobSpec, Task
from cldctl.clusters.debug import DebugCluster
from cldctl.clusters.local_processes import details_of
from tests.support.tools import signal_handlers

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
    jobs = done[:2]
    ran = done[2:]
    assert ran == list(enumerate(jobs))
    assert [CLUSTER.survey(jobs).of(job).phase for job in jobs] == ["gone", "gone"], (
        "submit has returned"
    )
    assert CLUSTER.log_files(jobs[0], 0) == []


def test_a_task_outlives_the_reader_of_its_output(tmp_path, monkeypatch):
    done = []

    def work(job, stop):
        print("step 1", flush=True)
        done.append(job.ref)

    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        CLUSTER.submit(spec(tmp_path), [work], lambda jobs: None)
        with contextlib.suppress(BrokenPipeError):
            closed.close()
    assert done


def test_an_error_is_the_commands_own(tmp_path):
    def fail(job, stop):
        raise RuntimeError("as it was told to")

    with pytest.raises(RuntimeError, match="as it was told to"):
        CLUSTER.submit(spec(tmp_path), [fail], lambda jobs: None)


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
def test_what_this_machine_lacks_is_refused(tmp_path, monkeypatch, cluster):
    one_gpu = replace(spec(tmp_path), size=ClusterSpec(gpus_per_node=1))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    find(cluster).check(one_gpu)
    for nothing in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nothing)
        with pytest.raises(
            RecipeError, match=r"cluster.gpus_per_node' is 1.* set cluster.gpus_per_node=0"
        ):
            find(cluster).check(one_gpu)
    with pytest.raises(RecipeError, match=r"Set cluster.nodes=1"):
        find(cluster).check(replace(spec(tmp_path), size=ClusterSpec(nodes=2)))


class Impatient(DebugCluster):
    """Its jobs are asked to stop before their work has begun."""

    def current_job(self, logs=None):
        os.kill(os.getpid(), signal.SIGUSR2)
        return InJob(cluster=self, ref=JobRef(cluster=self.name, job_id="7"))


@pytest.mark.parametrize(("code", "ends"), [(None, 0), (0, 0), (7, 7)])
def test_it_listens_first_and_ends_the_process_with_the_code_of_the_work(code, ends):
    begun = []

    def work(job, stop):
        begun.append((job.ref.job_id, stop.code))
        if code is not None:
            sys.exit(code)

    with signal_handlers(), pytest.raises(SystemExit) as end:
        Task(work, Impatient())()
    assert (begun, end.value.code) == ([("7", StopCode.USR2)], ends)
