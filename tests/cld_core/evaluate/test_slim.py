"""The slim file of averaged weights: made once, by whoever comes first, and never believed without its digest."""

import shutil
import threading

import numpy as np
import pytest
import torch

from cld_core.checkpoint import load as loading
from cld_core.config import load
from cld_core.evaluate import slim, slim_model
from cld_core.evaluate.evaluation import Evaluation
from cld_core.evaluate.request import EvalRequest
from cld_core.files import read_json, write_json
from cld_core.model import Model
from cld_core.ranks import Ranks
from cld_core.run import RunFolder
from cld_core.run.lease import Lease
from tests.support.clock import Clock

from .gathered import gather

STEP = 20
# Rows and the picture of samples are not what these tests are about.
QUICK = ("eval.points=12", "sampling.method=em", "sampling.nfe=2")


@pytest.fixture
def run(toy) -> RunFolder:
    return toy


@pytest.fixture
def read(monkeypatch) -> list[int]:
    """The checkpoints that are read, by step."""
    steps, real = [], loading.verify
    monkeypatch.setattr(loading, "verify", lambda folder, step: steps.append(step) or real(folder, step))
    return steps


def evaluation(run: RunFolder, *overrides: str, shards: int = 3) -> Evaluation:
    return Evaluation(EvalRequest.of(load(run.recipe_file, [*QUICK, *overrides]), ("loss",), STEP, shards).save(run))


def wanted(run: RunFolder) -> slim_model.Wanted:
    checkpoint = read_json(run.checkpoint_file(STEP).with_suffix(".json"))["sha256"]
    return slim_model.Wanted(run=run, step=STEP, checkpoint=checkpoint, device="cpu")


def made(run: RunFolder) -> Model:
    model = slim_model.model(wanted(run), lambda: False, shared=True)
    assert model is not None
    return model


def same_weights(first: Model, second: Model) -> bool:
    ours, theirs = first.net.state_dict(), second.net.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def finished(run: RunFolder, *overrides: str) -> Evaluation:
    """An evaluation by three tasks, each of which knows the folder only."""
    work = evaluation(run, *overrides)
    for shard in range(3):
        assert Evaluation(work.folder).compute(Ranks(), only=[shard])
    return work


def test_the_checkpoint_is_read_once_and_the_numbers_are_the_same_to_the_last_bit(run, read, tmp_path):
    shutil.copytree(run.path, tmp_path / "other")
    other = evaluation(RunFolder(tmp_path / "other"))
    assert other.compute(Ranks())
    assert not slim.folder_of(other.run).exists(), "one process needs no copy"
    read.clear()
    work = finished(run)
    assert read == [STEP]
    np.testing.assert_array_equal(gather(work)["loss"]["loss"], gather(other)["loss"]["loss"])
    assert work.report["loss"] == other.report["loss"]
    assert work.report["checkpoint"] == other.report["checkpoint"]


def test_a_model_of_the_file_is_that_of_the_checkpoint(run, read):
    first, second = made(run), made(run)
    assert read == [STEP]
    assert same_weights(first, second)
    assert same_weights(second, Model.from_run(run.path))
    assert (second.step, second.recipe) == (STEP, first.recipe)
    assert not any(parameter.requires_grad for parameter in second.net.parameters())


def test_the_file_of_a_checkpoint_that_was_replaced_is_not_used(run):
    made(run)
    sidecar = run.checkpoint_file(STEP).with_suffix(".json")
    before = read_json(sidecar)
    state = torch.load(run.checkpoint_file(STEP), weights_only=True)
    for tensor in state["ema"]["average"].values():
        tensor += 1
    torch.save(state, run.checkpoint_file(STEP))
    from cld_core.digests import checksum

    size = run.checkpoint_file(STEP).stat().st_size
    write_json(sidecar, {**before, "sha256": checksum(run.checkpoint_file(STEP)), "bytes": size})
    assert same_weights(made(run), Model.from_run(run.path))


def test_an_evaluation_can_be_finished_without_its_checkpoint(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "other")
    quiet = finished(RunFolder(tmp_path / "other"))
    work = evaluation(run)
    assert Evaluation(work.folder).compute(Ranks(), only=[0])
    shutil.rmtree(run.checkpoints)
    assert (sorted(work.complete()), work.missing()) == ([0], [1, 2])
    for shard in (1, 2):
        assert Evaluation(work.folder).compute(Ranks(), only=[shard])
    assert work.report["loss"] == quiet.report["loss"]
    assert work.report["checkpoint"] == quiet.report["checkpoint"]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(slim_model, "time", clock)
    return clock


def test_a_task_waits_for_the_one_that_makes_the_file(run, read):
    slim.folder_of(run).mkdir()
    lease = Lease.acquire(slim.lease_of(run, STEP), job_id="another task")
    models = []
    waiting = threading.Thread(target=lambda: models.append(made(run)))
    waiting.start()
    reference = Model.from_run(run.path, STEP)
    slim_model._write(wanted(run), run.recipe(), reference)
    read.clear()
    lease.release()
    waiting.join(60)
    assert same_weights(models[0], reference)
    assert read == []


def test_leftovers_are_cleared_and_what_is_needed_stays(run):
    finished(run)
    pending = evaluation(run, "eval.seed=9")
    folder = slim.folder_of(run)
    folder.mkdir(exist_ok=True)
    for name in ("step_00000010.safetensors", ".step_00000010.safetensors.1.ab.tmp", "step_00000020.safetensors"):
        (folder / name).touch()
    (folder / "step_00000010.lease").mkdir()
    (folder / "README").touch()
    slim.clear(run)
    assert sorted(path.name for path in folder.iterdir()) == ["README", "step_00000020.safetensors"]
    shutil.rmtree(pending.folder)
    slim.clear(run)
    assert [path.name for path in folder.iterdir()] == ["README"]
