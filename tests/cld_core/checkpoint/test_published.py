"""Published checkpoints come in whole, exported weights go out and come back, and what does not fit is named."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import cld_core
from cld_core import checkpoint, published, weights
from cld_core.errors import CheckpointError, NotFoundError
from cld_core.ranks import Ranks
from cld_core.recipe import Recipe, load
from cld_core.run import RunFolder
from cld_core.train.step import Trainer
from tests.support.images import make_images, tiny_recipe
from tests.support.paths import FIXTURES, ROOT

FILE = FIXTURES / "parity" / "published_checkpoint_ncsnpp.pth"
SMALL = (
    "data={name: folder, size: 16, path: none}",
    "network={image_size: 16, channels: 16, multipliers: [1, 2], blocks: 1, attention: [8]}",
    "train.batch_size=4",
    "train.precision=fp32",
    "cluster.nodes=1",
    "cluster.gpus_per_node=0",
)


def recipe(*overrides: str) -> Recipe:
    return load(ROOT / "recipes" / "cifar10.yaml", [*SMALL, *overrides])


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> RunFolder:
    made = RunFolder.create(tmp_path_factory.mktemp("runs") / "pub", recipe(), {"created": 1.0})
    state = published.read(FILE, recipe())
    checkpoint.write(made, state.pop("step"), state)
    return made


def spoilt(tmp_path: Path, change) -> Path:
    content = torch.load(FILE, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "spoilt.pth")
    return tmp_path / "spoilt.pth"


def test_the_imported_run_computes_what_the_published_one_did(imported):
    model = cld_core.load(imported.path)
    with np.load(FILE.with_suffix(".npz")) as file:
        u, t, net, score = (torch.from_numpy(file[name]) for name in ("u", "t", "ema_net", "ema_score"))
    assert model.step == 3
    torch.testing.assert_close(model.net(u, t), net, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.score(u, t.double()), score, rtol=0, atol=2e-5)


def test_the_imported_run_goes_on_where_the_published_one_stopped(imported, tmp_path):
    data = make_images(tmp_path / "set", size=16)
    trainer = Trainer(recipe(f"data.path={data}"), Ranks())
    state = checkpoint.load(imported, 3)
    trainer.load_state_dict(state)
    theirs = torch.load(FILE, weights_only=True)
    for name, tensor in theirs["model"].items():
        assert torch.equal(trainer.net.state_dict()[name.removeprefix("module.")], tensor)
    assert trainer.ema.updates == theirs["ema"]["num_updates"]
    for ours, average in zip(trainer.ema.average, theirs["ema"]["shadow_params"], strict=True):
        assert torch.equal(ours, average)
    parameters = list(trainer.net.parameters())
    for index, entry in theirs["optimizer"]["state"].items():
        ours = trainer.optimiser.state[parameters[index]]
        assert torch.equal(ours["exp_avg"], entry["exp_avg"])
        assert torch.equal(ours["exp_avg_sq"], entry["exp_avg_sq"])
        assert int(ours["step"]) == int(entry["step"]) == 3
    trainer.step(3)
    assert all(int(entry["step"]) == 4 for entry in trainer.optimiser.state.values())


def test_apexs_way_of_counting_steps_is_read_too(tmp_path):
    def as_apex(content):
        for entry in content["optimizer"]["state"].values():
            entry.pop("step")
        content["optimizer"]["param_groups"][0]["step"] = 3

    found = published.read(spoilt(tmp_path, as_apex), recipe())
    assert {float(entry["step"]) for entry in found["optimiser"]["state"].values()} == {3.0}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["network.channels=32"], ["'all_modules.0.W' is 16, but 32"]),
        (["network.multipliers=[1,1]"], ["'all_modules.", " is 32x", ", but 16x"]),
        (["network.blocks=2"], ["all_modules."]),
        (["optim.name=adamax"], ["exp_inf", "optim.name=adamax"]),
        (["network.embedding=positional"], ["'all_modules.0.weight'", "has no tensor"]),
    ],
)
def test_a_checkpoint_of_another_network_is_named_by_its_first_wrong_tensor(overrides, words):
    with pytest.raises(CheckpointError) as caught:
        published.read(FILE, recipe(*overrides))
    for word in [str(FILE), *words, "--recipe"]:
        assert word in str(caught.value)


def _drop_average(content):
    content["ema"]["shadow_params"].pop()


def _bend_average(content):
    content["ema"]["shadow_params"][0] = torch.zeros(3)


def _bend_moment(content):
    content["optimizer"]["state"][1]["exp_avg"] = torch.zeros(3)


def _add_tensor(content):
    content["model"]["module.more"] = torch.zeros(2, 3)


def _drop_parameters(content):
    content["optimizer"]["param_groups"][0]["params"] = [0, 1]


def _drop_updates(content):
    del content["ema"]["num_updates"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_drop_average, ["averages 155 tensors", "156"]),
        (_bend_average, ["the average of 'all_modules.1.weight' is 3, but 64x32"]),
        (_bend_moment, ["exp_avg of 'all_modules.1.weight' is 3, but 64x32"]),
        (_add_tensor, ["'more', 2x3"]),
        (_drop_parameters, ["2 parameters", "157"]),
        (_drop_updates, ["published layout", "num_updates"]),
        (lambda content: content.pop("ema"), ["it holds model, optimizer, step; a"]),
        (
            lambda content: content.update(dict.fromkeys(range(20), 0)) or content.pop("ema"),
            ["it holds 0, 1, 10, 11, 12, 13 and 17 more;"],
        ),
    ],
)
def test_a_damaged_layout_is_refused(tmp_path, change, words):
    with pytest.raises(CheckpointError) as caught:
        published.read(spoilt(tmp_path, change), recipe())
    for word in words:
        assert word in str(caught.value)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "pwned",))

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="plain tensors"):
        published.read(tmp_path / "evil.pth", recipe())
    assert not (tmp_path / "pwned").exists()
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(CheckpointError, match="plain tensors"):
        published.read(tmp_path / "text.pth", recipe())
    with pytest.raises(NotFoundError, match="no file"):
        published.read(tmp_path / "none.pth", recipe())


def test_exported_weights_come_back(imported, tmp_path):
    model = cld_core.load(imported.path)
    weights.save(model, tmp_path / "w.safetensors")
    again = cld_core.load(tmp_path / "w.safetensors")
    assert (again.step, again.recipe) == (3, model.recipe)
    for name, tensor in model.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[name], tensor)
    settings = {"method": "em", "nfe": 3}
    assert torch.equal(model.sample(2, **settings), again.sample(2, **settings))


def test_files_that_are_no_export_are_refused(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(NotFoundError, match="cldctl export"):
        cld_core.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        cld_core.load(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="its format is none"):
        cld_core.load(tmp_path / "other.safetensors")
    metadata = {"format": weights.FORMAT, "step": "3", "recipe": json.dumps(recipe().to_dict())}
    save_file({"a": torch.zeros(1)}, tmp_path / "mine.safetensors", metadata)
    with pytest.raises(CheckpointError, match="do not go together"):
        cld_core.load(tmp_path / "mine.safetensors")


def test_a_channels_last_run_takes_up_its_own_moments(tmp_path):
    data = make_images(tmp_path / "set")
    first, second = (Trainer(tiny_recipe(data, "train.channels_last=true"), Ranks()) for _ in range(2))
    first.step(0)
    second.load_state_dict({name: _copied(value) for name, value in first.state_dict().items()})
    for trainer in (first, second):
        trainer.step(1)
    for name, tensor in first.net.state_dict().items():
        assert torch.equal(second.net.state_dict()[name], tensor)


def _copied(value):
    """As a checkpoint has it: tensors lie in memory in the order of their axes."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone(memory_format=torch.contiguous_format)
    return {name: _copied(inner) for name, inner in value.items()} if isinstance(value, dict) else value
