"""Jobs of earlier versions: a job with the code of today runs what they have pickled, and the code
that they have stored runs what the command line of today pickles."""

import base64
import json
import pickle
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cld_core.run import RunFolder
from cld_core.run.events import JobRef
from cld_core.run.work import open_work
from cld_core.stop import StopFlag
from cldctl.clusters.base import InJob, Task
from tests.support.made_up import note, ordered, requested, run_with
from tests.support.paths import ROOT
from tests.support.tools import ONE, cldctl, status, wait_ended

# By what they do: tasks, pickled by the code of 30 November 2026 (commit 3e6daefb). Their folders
# are called RUN and WORK.
PICKLES = json.loads((Path(__file__).parents[2] / "fixtures/pickles.json").read_text())
OLD = "3e6daefb"
SMALL = (
    "train.steps=3",
    "train.batch_size=8",
    "network.width=8",
    "network.layers=2",
    "eval.points=4",
    "cluster.tasks_per_node=1",
)


def unpickled(name):
    task = pickle.loads(base64.b64decode(PICKLES[name]))
    assert isinstance(task, Task)
    return task


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = run_with(tmp_path_factory.mktemp("runs") / "mine", overrides=SMALL)
    note(run, requested(3))
    task = unpickled("training")
    work_in(task, replace(task.work, run=str(run.path)))
    return run


def work_in(task, work):
    ref = JobRef(cluster=task.cluster.name, job_id="7")
    work(InJob(cluster=task.cluster, ref=ref, in_process=True), StopFlag())


def test_a_training(trained):
    last = trained.ledger.history().last
    assert (last.cause, last.last_step) == ("finished", 3)


def test_pieces_of_an_evaluation(trained):
    folder = ordered(trained, 3).folder
    task = unpickled("shards")
    (piece,) = task.work.pieces
    work_in(task, replace(task.work, pieces=(replace(piece, folder=str(folder), shards=(0,)),)))
    assert open_work(folder).is_done


def test_a_task_of_slurm():
    assert unpickled("slurm").cluster.name == "slurm"


@pytest.mark.by_hand
def test_a_run_with_older_code_is_resumed_with_that_code(tmp_path):
    """It needs the history of git."""
    archive = subprocess.run(["git", "-C", ROOT, "archive", OLD], capture_output=True, check=True)
    (tmp_path / "old").mkdir()
    subprocess.run(["tar", "-x", "-C", tmp_path / "old"], input=archive.stdout, check=True)
    runs = tmp_path / "runs"
    old = {"PYTHONPATH": str(tmp_path / "old"), "PYTHONSAFEPATH": "1"}
    cldctl("submit toy --name mine --cluster local", *ONE, runs=runs, **old)
    assert wait_ended("mine", runs)["state"] == "FINISHED"
    cldctl("resume mine train.steps=30 --follow", runs=runs)
    first, second = RunFolder(runs / "mine").ledger.history().attempts
    assert second.last_step == status("mine", runs)["step"] == 30
    assert first.code == second.code
    manifest = json.loads(next((runs / "mine/code").glob("*/manifest.json")).read_text())
    assert "cldctl/runs/submit.py" in manifest["files"], "as it was then"
