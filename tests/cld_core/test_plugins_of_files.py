"""Code that a file or somebody else's run names does not run unasked; what they describe is bounded."""

import json

import pytest
import torch
from safetensors.torch import save_file

import cld_core
from cld_core import model as model_module
from cld_core.checkpoint import FORMAT
from cld_core.config import load
from cld_core.errors import CheckpointError, DataError
from cld_core.model import Model
from tests.support.paths import RECIPES
from tests.support.tools import trained

SMALL = ["network.width=16", "network.layers=3", "train.steps=2", "train.checkpoint_every=2", "train.batch_size=16"]
PLUGIN = """
from pathlib import Path
import torch
from cld_core.data.toy import toy
Path({marker!r}).touch()

@toy({name!r})
def ring(n, generator):
    return torch.randn(n, 2, generator=generator)
"""


def plugin(folder, name):
    """A plug-in, and the file that it makes when it runs."""
    code, marker = folder / f"{name}.py", folder / "it ran"
    code.write_text(PLUGIN.format(marker=str(marker), name=name))
    return code, marker


def saved(path, tree, tensors=None, **about):
    metadata = {"format": FORMAT, "step": "3", "recipe": json.dumps(tree), **about}
    save_file({"a": torch.zeros(1)} if tensors is None else tensors, path, metadata)
    return path


def test_an_exported_model_is_sampled_without_its_plugin(tmp_path, monkeypatch):
    code, marker = plugin(tmp_path, "own_ring")
    run = trained(tmp_path / "mine", "toy", *SMALL, "data.name=own_ring", f"plugins={code}")
    model = cld_core.load(run.path)
    assert marker.exists(), "the plug-in of one's own run runs"
    model.export(tmp_path / "w.safetensors")
    monkeypatch.setattr(model_module, "source", lambda *_: pytest.fail("the data were made"))
    again = cld_core.load(tmp_path / "w.safetensors")
    assert (again.recipe, again.data_shape, again.is_image) == (run.recipe(), (2,), False)
    settings = {"method": "em", "nfe": 3}
    assert torch.equal(again.sample(4, **settings), model.sample(4, **settings))
    with pytest.raises(DataError, match=r"own_ring\.py.*allow_plugin=True"):
        again.source.test_data(0, 0, 4)


def changed(section, **keys):
    tree = load(RECIPES / "toy.yaml", SMALL).to_dict()
    tree[section] |= keys
    return tree


@pytest.mark.parametrize(
    "recipe",
    [
        changed("network", width=65_536, layers=1000),
        {**changed("data"), "network": {"name": "ncsnpp", "channels": 2**20}},
        {**changed("data"), "network": {"name": "resnet", "width": 10**9, "layers": 10**8}},
        "text",
        {**changed("data"), "data": None},
        {**changed("data"), "sde": {"beta0": 1e308, "beta1": 1e308}},
    ],
    ids=range(6),
)
def test_a_described_network_takes_no_memory_before_it_fits(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(Model, "__init__", lambda *_, **__: pytest.fail("the network was made"))
    file = saved(tmp_path / "w.safetensors", recipe)
    with pytest.raises(CheckpointError) as caught:
        cld_core.load(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [{}, {"shape": 2}, {"shape": [True]}, {"shape": [2**40]}, {"shape": [2**20, 2**20]}, {"shape": [0]}]
)
def test_wrong_forms_of_data(tmp_path, data):
    recipe = {**changed("data", name="some"), "plugins": ["some.py"]}
    with pytest.raises(CheckpointError, match="shape"):
        cld_core.load(saved(tmp_path / "w.safetensors", recipe, data=json.dumps(data)))
