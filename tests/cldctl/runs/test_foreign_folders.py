"""What a run folder says is not obeyed: links, processes, jobs and names in it may be anybody's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cld_core.files import append_line, write_json
from cld_core.run import RunFolder
from cld_core.run.events import JobRef, Submitted
from cld_core.run.process import not_ours, program_of
from cldctl.clusters.records import SchedulerRefused
from cldctl.clusters.slurm import client
from cldctl.clusters.slurm.cluster import SlurmCluster
from cldctl.clusters.this_machine import details_of
from cldctl.runs import cancel
from cldctl.show import logs as show_logs
from tests.support.made_up import run_with
from tests.support.scheduler import clients
from tests.support.scripted import trained
from tests.support.tools import invoke, wait_for


@pytest.fixture
def victim(tmp_path) -> Path:
    file = tmp_path / "victim"
    file.write_text("precious\n")
    return file


@pytest.fixture
def bystander():
    """A process that has nothing to do with cldctl."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def test_linked_ledgers_are_neither_read_nor_appended_to(tmp_path, scripted, victim):
    run = trained(run_with(tmp_path / "a", 10), "1")
    link(run.path / "attempts.jsonl", victim)
    with pytest.raises(OSError, match="symbolic link"):
        append_line(run.path / "attempts.jsonl", "more")
    (row,) = json.loads(invoke("status", "--json", "--all", runs=tmp_path).stdout)
    assert (row["state"], "symbolic link" in row["reason"]) == ("LOST", True)
    assert victim.read_text() == "precious\n"


def test_the_end_of_a_huge_log_is_shown(tmp_path, scripted, monkeypatch):
    monkeypatch.setattr(show_logs, "MOST_BYTES", 2**16)
    run = trained(run_with(tmp_path / "a", 10), "1")
    with (run.logs / "1_0_log.out").open("wb") as file:
        file.truncate(2**40)
        file.seek(0, os.SEEK_END)
        file.write(b"\nthe end\n")
    done = invoke("logs", "a", runs=tmp_path)
    assert done.stdout.endswith("the end\n")
    assert "are not shown" in done.stderr


def test_a_process_that_is_not_ours_is_left_alone(tmp_path, bystander):
    """It has the id and the start time that the folder names, as the writer of its lease or as a job."""
    held, local = run_with(tmp_path / "held", 10), run_with(tmp_path / "local", 10)
    details = details_of(bystander.pid)
    write_json(held.leases / "00000001.json", {"job_id": "1", "restart": 0, **details})
    local.ledger.append(
        Submitted(job=JobRef(cluster="local", job_id=str(bystander.pid), logs=str(local.logs), details=details))
    )
    for name in ("held", "local"):
        refused = invoke("cancel", name, runs=tmp_path, code=4).stderr
        assert f"process {bystander.pid} on this machine runs something else, and was left alone" in refused
        assert f"`kill {bystander.pid}`" in refused
    assert bystander.poll() is None


def test_our_own_processes_are_known_by_what_they_run(tmp_path):
    program = tmp_path / "cldctl"
    program.write_text("input()")
    with subprocess.Popen([sys.executable, str(program)], stdin=subprocess.PIPE) as ours:
        import psutil

        process = psutil.Process(ours.pid)
        wait_for(lambda: not_ours(process) is None, timeout=60)
        ours.communicate(b"\n")


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (["/usr/bin/python3", "-P", "-u", "-m", "cld_core.train", "runs/x"], "cld_core.train"),
        (["/venv/bin/python3.11", "/venv/bin/cldctl", "submit"], "cldctl"),
        (["python", "-X", "importtime", "-W", "error", "/x/cld_core/train/__main__.py"], "cld_core.train"),
        (["python", "-m", "submitit.core._submit", "/logs"], "submitit.core._submit"),
        (["python", "-c", "import cldctl"], ""),
        (["vim", "cldctl"], "vim"),
        ([], ""),
    ],
)
def test_what_a_command_line_runs(words, program):
    assert program_of(words) == program


@pytest.mark.parametrize("job_id", ["--user=root", "1,2", "1;x", "x\ny", "all", ""])
def test_what_is_not_a_job_id_reaches_no_client_of_slurm(tmp_path, monkeypatch, job_id):
    asked = clients(tmp_path, monkeypatch, "")
    run = run_with(tmp_path / "a", 10)
    line = {"time": 1.0, "event": "submitted", "job": {"cluster": "slurm", "job_id": job_id, "logs": str(run.logs)}}
    append_line(run.path / "attempts.jsonl", json.dumps(line))
    for command in (("cancel", "a"), ("status", "a"), ("logs", "a")):
        invoke(*command, runs=tmp_path, code=None)
    job = JobRef(cluster="slurm", job_id=job_id)
    for call in (SlurmCluster().cancel, lambda jobs: client.set_dependency(jobs[0].job_id, "afterany:1")):
        with pytest.raises(SchedulerRefused, match="is not a job of Slurm"):
            call([job])
    assert SlurmCluster().survey([job]).of(job).is_gone
    calls = asked.read_text() if asked.exists() else ""
    assert not any(line.startswith(("scancel", "scontrol", "sacct")) for line in calls.splitlines()), calls


def test_the_jobs_of_the_run_that_was_copied_go_on(tmp_path, scripted):
    original = trained(run_with(tmp_path / "a", 10), "1")
    subprocess.run(["cp", "-r", str(original.path), str(tmp_path / "b")], check=True)
    (ending,) = cancel.cancel([RunFolder(tmp_path / "b")])
    assert "job 1 writes its logs to" in str(ending.problem)
    assert scripted.calls == []
    (ending,) = cancel.cancel([original])
    assert ending.problem is None
    (tmp_path / "link").symlink_to(tmp_path)
    scripted.phases["1"] = "running"
    (ending,) = cancel.cancel([RunFolder(tmp_path / "link" / "a")])
    assert ending.problem is None, "the same folder under another name"


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "..", "a\nb", ""])
def test_names_that_are_paths_make_no_run(tmp_path, name):
    runs = tmp_path / "deep" / "runs"
    (tmp_path / "file.pth").write_bytes(b"")
    for command in (
        ("import", str(tmp_path / "file.pth"), "--recipe", "toy", "--name", name),
        ("submit", "toy", "--name", name),
    ):
        if name == "" and command[0] == "import":
            continue  # An empty name is none.
        assert "cannot name a run" in invoke(*command, runs=runs, code=2).stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file.pth"]
