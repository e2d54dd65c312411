"""Where an attempt starts, on a file system that fails for a moment."""

import errno
import os
from pathlib import Path

import pytest
import torch

from cld_core.checkpoint.tensors import write
from cld_core.config import load
from cld_core.run import RunFolder
from cld_core.train import session
from tests.support.paths import RECIPES

RECIPE = load(RECIPES / "toy.yaml")
WEIGHTS = {"model": {"w": torch.ones(3)}, "ema": {"updates": 1, "average": {"w": torch.ones(3)}}}


@pytest.fixture
def run(tmp_path):
    run = RunFolder.create(tmp_path / "mine", RECIPE, {"created": 1.0})
    for step in (10, 20):
        write(run, step, {**WEIGHTS, "model_digest": RECIPE.model_digest()})
    return run


def stale(*arguments, **options):
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def test_checkpoints_that_cannot_be_listed_are_not_missing(run, monkeypatch):
    """The run would begin again at step 0, and set all of them aside."""
    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", stale)
        assert session.choose(run, RECIPE)[1] == 20
    with monkeypatch.context() as patched:
        patched.setattr("os.listdir", stale)
        with pytest.raises(OSError, match="Stale"):
            session.choose(run, RECIPE)
    assert session.choose(run, RECIPE)[1] == 20
    assert run.checkpoint_steps() == [10, 20]


def test_a_sidecar_that_cannot_be_read_is_not_damaged(run, monkeypatch):
    real = os.open

    def opened(path, *arguments, **options):
        return stale() if str(path).endswith("step_00000020.json") else real(path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr("cld_core.files.os.open", opened)
        patched.setattr(Path, "open", lambda path, mode="r", **more: os.fdopen(os.open(path, os.O_RDONLY), mode))
        with pytest.raises(OSError, match="Stale"):
            session.choose(run, RECIPE)
    assert session.choose(run, RECIPE)[1] == 20


def test_an_empty_folder_that_a_copy_left_out(tmp_path):
    run = RunFolder.create(tmp_path / "new", RECIPE, {"created": 1.0})
    run.checkpoints.rmdir()
    assert session.choose(run, RECIPE)[1] == 0
    assert run.checkpoints.is_dir()
