"""Whatever call to the file system fails once, what a job decides is the same as without the failure."""

import itertools
import os
from types import SimpleNamespace

import pytest
import torch

from cld_core.checkpoint.write import write
from cld_core.config import load
from cld_core.files import retried
from cld_core.run import Lease, RunFolder
from cld_core.train import start as starts
from cldctl.clusters import entry
from cldctl.clusters.slurm import client, submission
from tests.cldctl.clusters.works import Fail
from tests.support.clock import Clock
from tests.support.failing import same_whatever_fails
from tests.support.paths import RECIPES

RECIPE = load(RECIPES / "toy.yaml")
WEIGHTS = {"model": {"w": torch.ones(3)}, "ema": {"updates": 1, "average": {"w": torch.ones(3)}}}
WITHIN_S = 60.0


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("cld_core.files.time", Clock())
    monkeypatch.setattr(entry, "time", Clock())


@pytest.fixture
def new_run(tmp_path):
    """Makes runs with checkpoints of steps 10, 20 and 30."""
    numbers = itertools.count()

    def make() -> RunFolder:
        run = RunFolder.create(tmp_path / f"it-{next(numbers)}", RECIPE, {"created": 1.0})
        for step in (10, 20, 30):
            write(run, step, {**WEIGHTS, "model_digest": RECIPE.model_digest()})
        return run

    return make


@pytest.mark.parametrize("damaged", [False, True])
def test_choosing_where_to_start(new_run, monkeypatch, damaged):
    runs = []

    def choose():
        return retried(lambda: starts.choose(runs[-1], RECIPE), WITHIN_S)

    def context():
        runs.append(new_run())
        if damaged:
            runs[-1].checkpoint_file(30).write_bytes(b"x")
        return monkeypatch.context()

    assert same_whatever_fails("checkpoints", choose, context, lambda: runs[-1].checkpoint_steps()) >= 4
    assert runs[-1].checkpoint_steps() == ([10, 20] if damaged else [10, 20, 30])


def test_taking_the_lease(tmp_path, monkeypatch):
    folders = []

    def context():
        folders.append(tmp_path / f"lease-{len(folders)}")
        Lease.acquire(folders[-1], job_id="1").release()
        return monkeypatch.context()

    def acquired():
        lease = Lease.acquire(folders[-1], job_id="2", heartbeat_s=1000, within_s=WITHIN_S)
        lease.release()
        return lease.number, lease.lost

    assert same_whatever_fails("lease-", acquired, context) >= 4


@pytest.fixture
def sbatch(monkeypatch):
    """Answers every submission; returns what was submitted and what was cancelled."""
    answers = SimpleNamespace(cancelled=[], out="Submitted batch job 77\n")
    monkeypatch.setattr(submission, "script", lambda *_: "#!/bin/sh\n")
    monkeypatch.setattr(
        submission.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0, stdout=answers.out, stderr="")
    )
    monkeypatch.setattr(client, "cancel", lambda job_ids: answers.cancelled.extend(job_ids))
    return answers


def test_naming_what_was_submitted(tmp_path, monkeypatch, sbatch):
    folders = []

    def context():
        folders.append(tmp_path / f"logs-{len(folders)}")
        return monkeypatch.context()

    def submitted():
        job_ids = submission.submit(folders[-1], "python", {}, [Fail(), Fail()])
        return job_ids, sorted(file.name for file in folders[-1].glob("*.pkl"))

    assert same_whatever_fails("_submitted.pkl", submitted, context) >= 2
    assert sbatch.cancelled == []


def test_a_submission_that_cannot_be_finished_leaves_no_job(tmp_path, monkeypatch, sbatch):
    def failing(*arguments):
        raise OSError(5, "Input/output error")

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, failing)
    with pytest.raises(OSError, match="Input/output"):
        submission.submit(tmp_path / "logs", "python", {}, [Fail()])
    assert sbatch.cancelled == ["77"]
    assert list((tmp_path / "logs").glob("*.pkl")) == []
