"""`python -m cld_core.train`: without a scheduler, under torchrun, and as started by MPI."""

import os
import subprocess
import sys

import pytest

from cld_core.run import RunFolder
from cld_core.stop import StopFlag
from cld_core.train import __main__
from tests.support.images import TINY, make_images
from tests.support.paths import RECIPES

QUICK = ("train.steps=4", "train.checkpoint_every=2", "periodic.samples_every=null", "train.on_resume=exact")


def start(*arguments: str, **env: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


@pytest.fixture
def words(tmp_path):
    data = make_images(tmp_path / "set")
    recipe = str(RECIPES / "cifar10_smoke.yaml")
    return [str(tmp_path / "runs" / "mine"), "--recipe", recipe, *TINY, *QUICK, f"data.path={data}"]


def test_torchrun_makes_the_run_and_goes_on_with_it(tmp_path, words):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cld_core.train")
    code, out, err = ended(start(*torchrun, *words))
    assert code == 0, err
    assert out.count("mine: finished at step 4") == 2
    run = RunFolder(tmp_path / "runs" / "mine")
    assert run.recipe().train.steps == 4
    assert run.checkpoint_steps() == [2, 4]
    code, out, err = ended(start("-m", "cld_core.train", words[0]))
    assert code == 0, err
    assert "Nothing to do" in out
    assert [entry.cause for entry in run.ledger.history().attempts] == ["finished"]


PLUGIN = """
import torch
from cld_core.data.toy import toy

@toy("from_a_file")
def square(n, generator):
    return 2 * torch.rand(n, 2, generator=generator) - 1
"""


def test_a_relative_path_is_recorded_as_an_absolute_one(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    arguments = ["runs/mine", "--recipe", "toy", *QUICK, "network.width=8", "network.layers=2"]
    monkeypatch.setattr("sys.argv", ["train", *arguments, "data.name=from_a_file", "plugins=mine.py"])
    monkeypatch.setattr(StopFlag, "listen", lambda self: self)
    assert __main__.main() == 0
    assert RunFolder("runs/mine").recipe().plugins[0] == str(tmp_path / "mine.py")
