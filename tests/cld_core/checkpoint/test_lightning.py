"""Checkpoints in the layout that PyTorch Lightning wrote for PSLD's published code."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

import cld_core
from cld_core.checkpoint.tensors import load as load_checkpoint
from cld_core.config import Recipe, load
from cld_core.errors import WrongCheckpointError
from cld_core.importing import import_published
from cld_core.ranks import Ranks
from cld_core.train.step import Trainer
from tests.support.images import make_images
from tests.support.paths import RECIPES

SMALL = (
    "data={name: folder, size: 16, path: none}",
    "network={image_size: 16, channels: 16, multipliers: [2, 2], blocks: 1, attention: [8]}",
    "train.batch_size=4",
    "cluster.gpus_per_node=0",
)


def recipe(*overrides: str) -> Recipe:
    return load(RECIPES / "cifar10_psld.yaml", [*SMALL, *overrides])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_images(tmp_path_factory.mktemp("data") / "set", size=16)


@pytest.fixture(scope="module")
def content(data) -> dict[str, Any]:
    """What Lightning saves of a small network after three steps, with the keys that it has beside the weights."""
    trainer = Trainer(recipe(f"data.path={data}"), Ranks())
    for step in range(3):
        trainer.step(step)
    state = trainer.state_dict()
    weights = OrderedDict((f"score_fn.{name}", tensor) for name, tensor in state["model"].items())
    averages = {**state["model"], **state["ema"]["average"]}
    weights.update((f"ema_score_fn.{name}", tensor) for name, tensor in averages.items())
    return {
        "epoch": 0,
        "global_step": 3,
        "pytorch-lightning_version": "1.7.7",
        "state_dict": weights,
        "loops": {"fit_loop": {"epoch_progress": {"total": {"ready": 1, "completed": 0}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": None, "dirpath": "results"}},
        "optimizer_states": [state["optimiser"]],
        "lr_schedulers": [{"base_lrs": [2e-4], "last_epoch": 3, "lr_lambdas": [None]}],
    }


def saved(content: dict[str, Any], path: Path) -> Path:
    file = path / "psld-epoch=00.ckpt"
    torch.save(content, file)
    return file


def test_it_becomes_a_run_that_is_sampled_and_resumed(content, data, tmp_path):
    made = recipe(f"data.path={data}")
    run = import_published(saved(content, tmp_path), made, tmp_path / "runs" / "psld", {"created": 1.0})
    assert run.step == 3
    model = cld_core.load(run.folder.path)
    assert (model.step, model.net.state_dict().keys()) == (3, {n[9:] for n in content["state_dict"] if n[0] == "s"})
    for name, parameter in model.net.named_parameters():
        assert torch.equal(parameter, content["state_dict"][f"ema_score_fn.{name}"])
    assert model.sample(2, method="em", nfe=3).shape == (2, 3, 16, 16)
    trainer = Trainer(made, Ranks())
    trainer.load_state_dict(load_checkpoint(run.folder, 3))
    for name, tensor in trainer.net.state_dict().items():
        assert torch.equal(tensor, content["state_dict"][f"score_fn.{name}"])
    moments = content["optimizer_states"][0]["state"]
    for index, parameter in enumerate(trainer.net.parameters()):
        if index in moments:
            assert torch.equal(trainer.optimiser.state[parameter]["exp_avg"], moments[index]["exp_avg"])
    trainer.step(3)
    assert trainer.ema.updates == 4


def without(content: dict[str, Any], name: str) -> dict[str, Any]:
    return {**content, "state_dict": {k: v for k, v in content["state_dict"].items() if k != name}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: without(c, "score_fn.all_modules.1.weight"), "no tensor 'all_modules.1.weight'"),
        (lambda c: without(c, "ema_score_fn.all_modules.1.weight"), "no tensor 'ema_score_fn.all_modules.1.weight'"),
        (
            lambda c: {**c, "state_dict": {"clf_fn.weight": torch.ones(1)}},
            "'clf_fn.weight' belongs neither",
        ),
        (lambda c: {**c, "optimizer_states": []}, "the states of 0 optimisers, not of one"),
        (lambda c: {**c, "global_step": "3"}, "its step is '3', not a whole number"),
        (lambda c: {"state_dict": {}, "epoch": 3}, "it holds epoch, state_dict; a published checkpoint holds model"),
    ],
)
def test_what_does_not_fit_is_named(content, tmp_path, change, words):
    file = saved(change(content), tmp_path)
    with pytest.raises(WrongCheckpointError, match=words) as refused:
        import_published(file, recipe(), tmp_path / "runs" / "psld", {})
    assert str(file) in str(refused.value)
    assert not (tmp_path / "runs").exists()
