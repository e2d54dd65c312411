"""`ema.length`: evaluations, samples and exports of averages that are made after the training."""

import shutil
from dataclasses import replace

import pytest

import cld_core
from cld_core.config.train import EmaSpec
from cld_core.evaluate.request import request_of
from cld_core.run import RunFolder
from cld_core.run.checkpoints import snapshot_files
from tests.support.tools import DEBUG, invoke

SMALL = ["network.width=16", "network.layers=3", "train.batch_size=16", "train.steps=40", "train.checkpoint_every=20"]
KEPT = ["train.ema_lengths=[0.05,0.1]", "train.ema_every=2"]
QUICK = ["eval.samples=16", "sampling.method=em", "sampling.nfe=2"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A finished run with snapshots."""
    root = tmp_path_factory.mktemp("runs")
    invoke("submit", "toy", "--name", "mine", *SMALL, *KEPT, *QUICK, *DEBUG, runs=root)
    return root


def test_an_export_of_a_length_says_so(root, tmp_path):
    target, model = tmp_path / "x.safetensors", cld_core.load(root / "mine", ema_length=0.2)
    files = ("--card", str(tmp_path / "card"), "-o", str(target))
    done = invoke("export", "mine", "--ema-length", "0.2", *files, runs=root)
    assert "averaged weights of step 40, EMA length 0.2" in done.stderr
    loaded = cld_core.load(target)
    assert loaded.ema_length == 0.2
    assert "step 40, EMA length 0.2" in repr(loaded)
    assert all((loaded.net.state_dict()[name] == value).all() for name, value in model.net.state_dict().items())
    assert "the power-function average of relative length 0.2 at step 40" in (tmp_path / "card/README.md").read_text()
    with pytest.raises(cld_core.errors.UsageError, match="a file has one average"):
        cld_core.load(target, ema_length=0.1)


def test_prune_removes_snapshots_when_it_is_asked_to(root):
    run = RunFolder(root / "mine")
    invoke("eval", "mine", "--loss", "ema.length=0.2", *DEBUG, runs=root)
    assert "averages" not in invoke("prune", "mine", "--dry-run", runs=root).stderr
    assert "removes all snapshots of averages" in invoke("prune", "mine", "--averages", "--dry-run", runs=root).stderr
    assert len(run.snapshot_steps()) == 20
    waiting = replace(request_of(run.recipe(), ("loss",), 40), ema=EmaSpec(length=0.08)).save(run)
    refused = invoke("prune", "mine", "--averages", "--yes", runs=root, code=2).stderr
    assert f"{waiting.name} still needs the snapshots of averages" in refused
    shutil.rmtree(waiting)
    invoke("prune", "mine", "--averages", "--yes", runs=root)
    assert snapshot_files(run) == []
    refused = invoke("eval", "mine", "--loss", "ema.length=0.19", *DEBUG, runs=root, code=2).stderr
    assert "ema.length=0.19 cannot be made for step 40" in refused
