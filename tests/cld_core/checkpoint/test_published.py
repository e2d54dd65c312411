"""Published checkpoints are read completely, and messages name the parts that do not fit."""

import zipfile
from collections import OrderedDict
from functools import partial
from unittest.mock import Mock
from zipfile import ZIP_DEFLATED

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch.utils._pytree import tree_map_only

import cld_core
from cld_core import importing
from cld_core.checkpoint import load as load_checkpoint
from cld_core.errors import (
    CheckpointError,
    NotFoundError,
    SaveError,
    UsageError,
    WrongCheckpointError,
)
from cld_core.importing import import_published
from cld_core.model import Model
from cld_core.ranks import Ranks
from cld_core.train.step import Trainer
from tests.support.crafted import crafted
from tests.support.failing import FULL_DISK
from tests.support.images import make_images, tiny_recipe
from tests.support.paths import FIXTURES
from tests.support.recipes import shipped_recipe
from tests.support.tools import stepped

FILE = FIXTURES / "parity" / "published_checkpoint_ncsnpp.pth"
SMALL = (
    "data={name: folder, size: 16, path: none}",
    "network={image_size: 16, channels: 16, multipliers: [1, 2], blocks: 1, attention: [8]}",
    "train.batch_size=4",
    "train.precision=fp32",
    "cluster.nodes=1",
    "cluster.gpus_per_node=0",
)


def recipe(*overrides):
    return shipped_recipe("cifar10", *SMALL, *overrides)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    return import_published(
        FILE, recipe(), tmp_path_factory.mktemp("runs") / "pub", {"created": 1.0}
    )[0]


def read(file, *overrides):
    made = recipe(*overrides)
    return importing.read(file, Model(made).net, made.optim)


def spoilt(tmp_path, change):
    content = torch.load(FILE, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "spoilt.pth")
    return tmp_path / "spoilt.pth"


def test_the_imported_run_computes_what_the_published_one_did(imported):
    model = cld_core.load(imported.path)
    with np.load(FILE.with_suffix(".npz")) as file:
        names = ("u", "t", "ema_net", "ema_score")
        given = {name: torch.from_numpy(file[name]) for name in names}
    u = given["u"]
    t = given["t"]
    assert model.step == 3
    assert_close(model.net(u, t), given["ema_net"], rtol=0, atol=1e-5)
    assert_close(model.score(u, t.double()), given["ema_score"], rtol=0, atol=2e-5)


def test_the_imported_run_continues_where_the_published_one_stopped(imported, data):
    trainer = Trainer(recipe(f"data.path={data}"), Ranks())
    state = load_checkpoint(imported, 3)
    trainer.load_state_dict(state)
    theirs = torch.load(FILE, weights_only=True)
    for name, tensor in theirs["model"].items():
        assert torch.equal(trainer.net.state_dict()[name.removeprefix("module.")], tensor)
    assert trainer.ema.updates == theirs["ema"]["num_updates"]
    assert_close(trainer.ema.average, theirs["ema"]["shadow_params"], rtol=0, atol=0)
    parameters = list(trainer.net.parameters())
    for index, entry in theirs["optimizer"]["state"].items():
        ours = trainer.optimiser.state[parameters[index]]
        assert ours["step"] == 3
        for name in ("step", "exp_avg", "exp_avg_sq"):
            assert_close(
                ours[name], torch.as_tensor(entry[name]), rtol=0, atol=0, check_dtype=False
            )
    trainer.step(3)
    assert all(int(entry["step"]) == 4 for entry in trainer.optimiser.state.values())


def test_the_step_counts_of_apex_are_read_too(tmp_path):
    def as_apex(content):
        for entry in content["optimizer"]["state"].values():
            entry.pop("step")
        content["optimizer"]["param_groups"][0]["step"] = 3

    _, state = read(spoilt(tmp_path, as_apex))
    assert {float(entry["step"]) for entry in state["optimiser"]["state"].values()} == {3.0}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["network.channels=32"], ["'all_modules.0.W' is (16,), but (32,)"]),
        (["optim.name=adamax"], ["exp_inf", "optim.name=adamax"]),
        (["network.embedding=positional"], ["'all_modules.0.weight' is none"]),
    ],
)
def test_a_checkpoint_of_another_network_is_named_by_its_first_wrong_tensor(overrides, words):
    with pytest.raises(CheckpointError) as caught:
        read(FILE, *overrides)
    for word in (str(FILE), *words, "--recipe"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content["ema"]["shadow_params"].pop(), "averages 155 tensors, .* 156"),
        (
            lambda content: content["optimizer"]["state"][1].update(exp_avg=torch.zeros(3)),
            r"exp_avg .* \(3,\), but \(64, 32\)",
        ),
        (
            lambda content: content["model"].update({"module.more": torch.zeros(2, 3)}),
            r"'more' is \(2, 3\), but none",
        ),
        (
            lambda content: content["optimizer"]["param_groups"][0].update(params=[0, 1]),
            "2 parameters, .* 157",
        ),
        (lambda content: content.pop("ema"), "it holds model, optimizer, step; a"),
    ],
)
def test_a_damaged_layout_is_refused(tmp_path, change, words):
    with pytest.raises(CheckpointError, match=words):
        read(spoilt(tmp_path, change))


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    with pytest.raises(CheckpointError, match="plain tensors"):
        read(crafted(tmp_path / "evil.pth", "zip", tmp_path / "it-ran"))
    assert not (tmp_path / "it-ran").exists()
    compressed = tmp_path / "a.pth"
    with zipfile.ZipFile(FILE) as whole, zipfile.ZipFile(compressed, "w", ZIP_DEFLATED) as made:
        for name in whole.namelist():
            made.writestr(name, whole.read(name))
    with pytest.raises(CheckpointError, match=r"plain tensors \(BadZipFile\)"):
        read(compressed)
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(WrongCheckpointError, match="plain tensors"):
        read(tmp_path / "text.pth")
    with pytest.raises(NotFoundError, match="no such file"):
        read(tmp_path / "none.pth")


def test_a_channels_last_run_continues_with_its_own_moments(tmp_path):
    data = make_images(tmp_path / "set")
    first, second = (
        Trainer(tiny_recipe(data, "train.channels_last=true"), Ranks()) for _ in range(2)
    )
    first.step(0)
    # As in a checkpoint: tensors are contiguous.
    plain = partial(torch.clone, memory_format=torch.contiguous_format)
    second.load_state_dict(tree_map_only(torch.Tensor, plain, first.state_dict()))
    for trainer in (first, second):
        trainer.step(1)
    assert_close(second.net.state_dict(), first.net.state_dict(), rtol=0, atol=0)


def psld(*overrides):
    return shipped_recipe("cifar10_psld", *SMALL, "network.multipliers=[2,2]", *overrides)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data") / "set", size=16)


@pytest.fixture(scope="module")
def content(data):
    """What Lightning saves of a small network after three steps, with the keys that it has beside
    the weights."""
    trainer = stepped(Trainer(psld(f"data.path={data}"), Ranks()), 3)
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
        "callbacks": {
            "ModelCheckpoint{'monitor': None}": {"best_model_score": None, "dirpath": "results"}
        },
        "optimizer_states": [state["optimiser"]],
        "lr_schedulers": [{"base_lrs": [2e-4], "last_epoch": 3, "lr_lambdas": [None]}],
    }


def saved(content, path):
    file = path / "psld-epoch=00.ckpt"
    torch.save(content, file)
    return file


def test_a_checkpoint_of_lightning_becomes_a_run_that_is_sampled_and_resumed(
    content, data, tmp_path
):
    made = psld(f"data.path={data}")
    run, step, _ = import_published(
        saved(content, tmp_path), made, tmp_path / "runs" / "psld", {"created": 1.0}
    )
    model = cld_core.load(run.path)
    assert step == model.step == 3
    assert model.net.state_dict().keys() == {n[9:] for n in content["state_dict"] if n[0] == "s"}
    for name, parameter in model.net.named_parameters():
        assert torch.equal(parameter, content["state_dict"][f"ema_score_fn.{name}"])
    assert model.sample(2, method="em", nfe=3).shape == (2, 3, 16, 16)
    trainer = Trainer(made, Ranks())
    trainer.load_state_dict(load_checkpoint(run, 3))
    for name, tensor in trainer.net.state_dict().items():
        assert torch.equal(tensor, content["state_dict"][f"score_fn.{name}"])
    moments = content["optimizer_states"][0]["state"]
    for index, parameter in enumerate(trainer.net.parameters()):
        if index in moments:
            assert torch.equal(
                trainer.optimiser.state[parameter]["exp_avg"], moments[index]["exp_avg"]
            )
    trainer.step(3)
    assert trainer.ema.updates == 4


def without(content, name):
    return {**content, "state_dict": {k: v for k, v in content["state_dict"].items() if k != name}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda c: without(c, "score_fn.all_modules.1.weight"),
            "tensor 'all_modules.1.weight' is none",
        ),
        (
            lambda c: {**c, "state_dict": {"clf_fn.weight": torch.ones(1)}},
            "'clf_fn.weight' belongs neither",
        ),
        (lambda c: {**c, "optimizer_states": []}, "the states of 0 optimisers, not of one"),
        (lambda c: {**c, "global_step": "3"}, "its step is '3', not a whole number"),
    ],
)
def test_the_part_of_it_that_does_not_fit_is_named(content, tmp_path, change, words):
    file = saved(change(content), tmp_path)
    with pytest.raises(WrongCheckpointError, match=words) as refused:
        import_published(file, psld(), tmp_path / "runs" / "psld", {})
    assert str(file) in str(refused.value)
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_later_than_the_recipes_end_is_refused_and_leaves_nothing(tmp_path):
    short = recipe("train.steps=2")
    with pytest.raises(UsageError, match=r"is of step 3, later than .*Add train\.steps=3"):
        import_published(FILE, short, tmp_path / "runs" / "mine", {"created": 1.0})
    assert not (tmp_path / "runs").exists()


def test_nothing_is_left_of_an_import_that_cannot_be_written(tmp_path, monkeypatch):
    full = Mock(side_effect=FULL_DISK)
    monkeypatch.setattr("torch.save", full)
    with pytest.raises(SaveError, match="no space left on the disk"):
        import_published(FILE, recipe(), tmp_path / "runs" / "mine", {"created": 1.0})
    assert list((tmp_path / "runs").iterdir()) == []
