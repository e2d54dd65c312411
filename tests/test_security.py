"""What docs/security.md promises, row by row."""

import json
import os
import pickle
import re
import shutil
import stat
import subprocess
import sys

import psutil
import pytest
import torch
from safetensors.torch import save_file

import cld_core
from cld_core.checkpoint import FORMAT
from cld_core.checkpoint import load as load_checkpoint
from cld_core.config.cluster import ClusterSpec
from cld_core.errors import CheckpointError, CldError
from cld_core.files import write_json
from cld_core.run import RunFolder
from cld_core.run.checkpoints import weights_file
from cld_core.run.events import JobRef, Labelled, Submitted
from cld_core.run.pids import not_ours
from cld_core.run.recipe import require_own_plugin
from cldctl.clusters import job_logs
from cldctl.clusters.base import JobSpec, SchedulerRefused
from cldctl.clusters.local import LocalCluster
from cldctl.clusters.local_processes import details_of
from cldctl.clusters.slurm.cluster import SlurmCluster
from cldctl.runs import cancel
from cldctl.runs.options import SubmitOptions
from tests.cldctl.clusters.works import Report
from tests.support.crafted import KINDS, crafted
from tests.support.made_up import ended, note, ordered, queued, requested, run_with, vouch
from tests.support.other_users import give_away, needs_root
from tests.support.paths import ROOT
from tests.support.plugin import toy_plugin
from tests.support.recipes import toy_recipe
from tests.support.scheduler import clients
from tests.support.scripted import Scripted, stopped, submitted, trained
from tests.support.tools import invoke, json_of, wait_for

SMALL = ["network.width=16", "network.layers=3", "train.steps=2"]


def plugin(folder, marker, name="ring"):
    """A plug-in that makes the folder ``marker`` when it is imported."""
    return toy_plugin(folder / f"{name}.py", name, first=f"import os\nos.mkdir({str(marker)!r})")


# No code runs from data, weights, checkpoints, .safetensors or a run folder, unless --allow-plugin
# is given.


@pytest.mark.parametrize("kind", KINDS)
def test_code_in_a_file_does_not_run(tmp_path, kind):
    """Here in a checkpoint; tests of other readers have the same of theirs."""
    file, marker = crafted(tmp_path / "file.pth", kind, tmp_path / "it-ran"), tmp_path / "it-ran"
    run = run_with(tmp_path / "mine")
    shutil.copy(file, run.checkpoint_file(10))
    shutil.copy(file, weights_file(run, 10))
    vouch(run, 10)
    for read in (lambda: load_checkpoint(run, 10), lambda: cld_core.load(run.path, 10)):
        with pytest.raises(CheckpointError):
            read()
    assert not marker.exists()
    if kind == "bare":
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert marker.exists(), "the file is dangerous, or the test would say nothing"


def test_a_plugin_that_a_safetensors_file_names_does_not_run_unasked(tmp_path):
    marker = tmp_path / "it-ran"
    recipe = toy_recipe(*SMALL).to_dict()
    recipe["data"] |= {"name": "of_a_file"}
    recipe["plugins"] = [str(plugin(tmp_path, marker, "of_a_file"))]
    file = tmp_path / "w.safetensors"
    save_file(
        {"a": torch.zeros(1)}, file, {"format": FORMAT, "step": "3", "recipe": json.dumps(recipe)}
    )
    with pytest.raises(CheckpointError, match="allow_plugin=True"):
        cld_core.load(file)
    assert not marker.exists()
    with pytest.raises(CheckpointError, match="do not match"):
        cld_core.load(file, allow_plugin=True)
    assert marker.exists()


@pytest.mark.parametrize("which", ["folder", "recipe.yaml", "attempts.jsonl"])
@pytest.mark.parametrize(
    ("key", "asked"),
    [
        ("plugins", {}),
        ("hooks.on_change", {"of_hooks": True}),
        ("monitor.mlflow.tracking_uri", {"of_loggers": True}),
    ],
)
def test_what_a_run_names_that_others_can_write_is_not_used_unasked(tmp_path, which, key, asked):
    value = "http://theirs" if "uri" in key else str(tmp_path / "x.py")
    run = run_with(tmp_path / "a")
    note(run, requested(10, f"{key}={value}"))
    for path in (run.path, run.recipe_file, run.ledger.path):
        path.chmod(path.stat().st_mode & ~0o022)
    require_own_plugin(run, run.recipe(), **asked)
    path = run.path if which == "folder" else run.path / which
    path.chmod(path.stat().st_mode | 0o002)
    with pytest.raises(
        CheckpointError, match=rf"others may write into it .*{re.escape(key)}=.*--allow-plugin"
    ):
        require_own_plugin(run, run.recipe(), **asked)
    note(run, requested(10, f"{key}={'[]' if key == 'plugins' else 'null'}"))
    require_own_plugin(run, run.recipe(), **asked)


@needs_root
def test_the_plugin_of_somebody_elses_run_does_not_run_unasked(tmp_path, scripted):
    marker = tmp_path / "it-ran"
    run = trained(run_with(tmp_path / "theirs", 10), "1", "gone")
    note(run, requested(10, f"plugins={plugin(tmp_path, marker)}", "data.name=ring"))
    give_away(run.path)
    with pytest.raises(CheckpointError, match=r"belongs to user .*ring\.py.*allow_plugin=True"):
        cld_core.load(run.path)
    done = invoke(f"sample theirs -o {tmp_path}/x.png", runs=tmp_path, code=1)
    assert "--allow-plugin" in done.stderr
    assert not marker.exists()


# Job folders are never group-writable, and a job runs only what its own user has put there.


@pytest.mark.parametrize("umask", [0, 0o077])
def test_folders_of_jobs_and_code_are_nobody_elses_to_write_whatever_the_umask(
    tmp_path, scripted, umask
):
    before = os.umask(umask)
    try:
        options = SubmitOptions(recipe="toy", root=tmp_path / "runs", name="a")
        run = submitted(options, Scripted()).works[0].run
        (run.path / "logs").chmod(0o2777)
        job_logs.prepare(run.path / "logs")
    finally:
        os.umask(before)
    assert stat.S_IMODE((run.path / "logs").stat().st_mode) == 0o2755
    code = [*(run.path / "code").glob("*/"), *(run.path / "code").glob("*/**/*")]
    assert len(code) > 2
    assert not any(path.stat().st_mode & 0o022 for path in code)
    (tmp_path / "link").symlink_to(run.path / "logs")
    for refuse in (job_logs.check, job_logs.prepare):
        with pytest.raises(CldError, match="symbolic link"):
            refuse(tmp_path / "link")


@needs_root
def test_folders_of_others_are_no_folders_for_jobs(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    give_away(logs)
    for refuse in (job_logs.check, job_logs.prepare):
        with pytest.raises(CldError, match="belongs to user"):
            refuse(logs)


# A damaged or odd run spoils no other row.


def replaced(name, content):
    return lambda run: (run.path / name).write_text(content)


def endless(run):
    run.ledger.path.unlink()
    run.ledger.path.symlink_to("/dev/zero")


def unknown_sampler(run):
    file = ordered(run, 10, "w2").folder / "request.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "sampling": {"method": "magic"}}))


DAMAGE = {
    "the identity is huge": lambda run: os.truncate(run.identity_file, 2**40),
    "the ledger is /dev/zero": endless,
    "progress without bounds": replaced(
        "progress.json", f'{{"step": {10**400}, "steps": 0, "loss": {{}}}}'
    ),
    "a sampler that is none": unknown_sampler,
    "a lease that is a list": replaced("lease/00000001.json", "[]"),
}


def rows_of(root):
    """What `status` says of the runs in a folder, by their names."""
    rows = json_of("status --json --all", runs=root)
    return {row["name"]: row for row in rows}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_run_spoils_no_other(tmp_path, scripted, small, damage):
    stopped(tmp_path / "good", "1")
    damage(stopped(tmp_path / "bad", "2"))
    rows = rows_of(tmp_path)
    assert rows["good"]["state"] == "STOPPED"
    assert rows["bad"]["state"] in ("STOPPED", "LOST", "PENDING")
    assert rows["bad"]["state"] != "LOST" or rows["bad"]["reason"]
    assert [run.state for run in cld_core.runs(tmp_path) if run.name == "good"] == ["STOPPED"]
    assert "good\n" in invoke("resume --yes", runs=tmp_path, code=None).stdout


def test_a_bug_of_ours_is_one_row(tmp_path, scripted, monkeypatch):
    stopped(tmp_path / "good", "1")
    run_with(tmp_path / "bad", 10)
    read = RunFolder.progress

    def broken(run):
        if run.name == "bad":
            raise RecursionError("too\ndeep")
        return read(run)

    monkeypatch.setattr(RunFolder, "progress", broken)
    rows = rows_of(tmp_path)
    assert rows["good"]["state"] == "STOPPED"
    assert (rows["bad"]["state"], rows["bad"]["reason"]) == (
        "LOST",
        "its files cannot be read: too deep",
    )


def test_a_run_without_identity_is_one_row_and_can_be_removed(tmp_path, scripted):
    bad = trained(run_with(tmp_path / "bad", 10), "2", "running")
    bad.identity_file.unlink()
    (tmp_path / "pictures").mkdir()
    rows = rows_of(tmp_path)
    assert list(rows) == ["bad"]
    assert rows["bad"]["state"] == "LOST"
    assert "run.json is missing" in rows["bad"]["reason"]
    assert "may still run" in invoke("rm bad --yes", runs=tmp_path, code=2).stderr
    scripted.phases["2"] = "gone"
    invoke("rm bad --yes", runs=tmp_path)
    assert not bad.path.exists()


# Control characters do not reach the terminal.

STEERING = "\x1b[31mred\x1b]0;title\x07\r\u202e"


def test_control_characters_are_stripped(tmp_path, scripted):
    run = trained(run_with(tmp_path / "a", 10), "1")
    (run.logs / "1_0_log.out").write_text(f"first {STEERING} line\n")
    note(
        run,
        Labelled(note=STEERING, add=(STEERING,)),
        ended("crashed", 10, detail=f"KeyError: {STEERING}"),
        queued("2", logs=STEERING),
    )
    scripted.phases["2"] = "pending"
    for line in ("status --all", "status a", "why a", "logs a", "usage a"):
        done = invoke(line, runs=tmp_path, code=None)
        found = done.stdout + done.stderr
        assert not set("\x1b\x07\r\u202e") & set(found), line
    assert "red" in invoke("logs a --attempt 0", runs=tmp_path).stdout


# What a run folder says is not obeyed: processes, jobs and names in it may be anybody's.


def test_a_process_that_is_not_ours_is_left_alone(tmp_path):
    """It has the id and the start time that the folder names, as the writer of its lease or as a
    job."""
    held, local = run_with(tmp_path / "held", 10), run_with(tmp_path / "local", 10)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        details = details_of(bystander.pid)
        write_json(held.leases / "00000001.json", {"job_id": "1", "restart": 0, **details})
        job = JobRef(
            cluster="local", job_id=str(bystander.pid), logs=str(local.logs), details=details
        )
        note(local, Submitted(job=job))
        for name in ("held", "local"):
            refused = invoke(f"cancel {name}", runs=tmp_path, code=4).stderr
            assert (
                f"process {bystander.pid} on this machine runs something else, and was left alone"
                in refused
            )
        assert bystander.poll() is None
        bystander.communicate(b"\n")


def test_our_own_processes_are_known_by_what_they_run(tmp_path):
    program = tmp_path / "cldctl"
    program.write_text("input()")
    with subprocess.Popen([sys.executable, str(program)], stdin=subprocess.PIPE) as ours:
        process = psutil.Process(ours.pid)
        wait_for(lambda: not_ours(process) is None, timeout=60)
        ours.communicate(b"\n")


@pytest.mark.parametrize("job_id", ["--user=root", "1,2", "1;x", ""])
def test_what_is_not_a_job_id_reaches_no_client_of_slurm(tmp_path, monkeypatch, job_id):
    asked = clients(tmp_path, monkeypatch, "")
    job = JobRef(cluster="slurm", job_id=job_id)
    with pytest.raises(SchedulerRefused, match="is not a job of Slurm"):
        SlurmCluster().cancel([job])
    assert SlurmCluster().survey([job]).of(job).is_gone
    assert not asked.exists()


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


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Somebody has left modules here that nothing may import; who imports one makes the file
    imported-NAME."""
    folder = tmp_path / "here"
    folder.mkdir()
    for name in ("submitit", "torch", "random", "json", "typer", "pickle", "socket"):
        code = (
            f"open({str(folder / f'imported-{name}')!r}, 'w').close()\nraise "
            f"SystemExit('hostile {name}')\n"
        )
        (folder / f"{name}.py").write_text(code)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


def imported(folder):
    return sorted(path.name.removeprefix("imported-") for path in folder.glob("imported-*"))


def test_local_jobs(here, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f":{ROOT}:")
    jobs = []
    spec = JobSpec(name="mine", logs=tmp_path / "logs", size=ClusterSpec())
    LocalCluster().submit(spec, [Report(str(tmp_path), "a")], jobs.extend)
    wait_for(lambda: LocalCluster().survey(jobs).of(jobs[0]).is_gone, 120)
    assert imported(here) == []
    assert (tmp_path / "a.json").exists()


def test_the_command_itself(here):
    done = subprocess.run(
        [sys.executable, "-m", "cldctl", "recipes"], capture_output=True, text=True
    )
    assert (done.returncode, imported(here)) == (0, []), done.stderr
    subprocess.run([sys.executable, "-c", "import torch"])
    assert imported(here) == ["torch"], "the modules are hostile, or the test would say nothing"
