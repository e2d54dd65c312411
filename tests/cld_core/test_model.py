"""Library use without any cluster."""

import pytest
import torch

import cld_core
from cld_core.checkpoint.tensors import load as load_checkpoint
from cld_core.config import load
from cld_core.errors import NotFoundError, UsageError
from cld_core.run import RunFolder
from tests.support.paths import RECIPES
from tests.support.tools import trained

TOY = RECIPES / "toy.yaml"
SMALL = ["network.width=16", "network.layers=3", "train.steps=20", "train.checkpoint_every=10", "train.batch_size=16"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    return trained(tmp_path_factory.mktemp("runs") / "mine", "toy", *SMALL)


def test_load_and_sample(run):
    model = cld_core.load(run.path)
    assert model.step == 20
    x = model.sample(64)
    assert x.shape == (64, 2)
    assert x.isfinite().all()


@pytest.mark.parametrize(("method", "nfe"), [("ode", None), ("em", 20), ("sscs", 20)])
def test_a_sample_is_a_function_of_its_number(run, method, nfe):
    model = cld_core.load(run.path)
    settings = {"method": method, **({"nfe": nfe} if nfe else {})}
    whole = model.draw(50, seed=3, batch_size=20, **settings)
    part = model.sample(10, seed=3, first=35, **settings)
    torch.testing.assert_close(part, whole.x[35:45], rtol=1e-4, atol=1e-4)
    assert whole.nfe == nfe or nfe is None
    assert not torch.allclose(model.sample(10, seed=4, **settings), whole.x[:10])


@pytest.mark.parametrize(("method", "nfe"), [("exponential", 20), ("ode", None)])
def test_who_waits_for_samples_is_told_and_the_samples_are_the_same(run, method, nfe):
    model, told = cld_core.load(run.path), []
    settings = {"method": method, **({"nfe": nfe} if nfe else {})}
    watched = model.draw(40, batch_size=16, progress=lambda *at: told.append(at), **settings)
    assert torch.equal(watched.x, model.draw(40, batch_size=16, **settings).x)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {done for done, _ in told} == {0, 16, 32}
    assert max(evaluations for done, evaluations in told if done == 32) == watched.nfe_each[-8:].max()


def test_the_weights_are_the_averaged_ones_and_nothing_else_is_read(run, monkeypatch):
    state = load_checkpoint(run, 20)
    monkeypatch.setattr(torch, "load", lambda *_, **more: pytest.fail("what training continues from is not read"))
    net = cld_core.load(run.path).net.state_dict()
    for name, average in state["ema"]["average"].items():
        assert torch.equal(net[name], average)
        assert not torch.equal(net[name], state["model"][name])


def test_a_chosen_checkpoint(run):
    assert cld_core.load(run.path, 10).step == 10
    with pytest.raises(NotFoundError, match=r"no checkpoint of step 15.*10, 20"):
        cld_core.load(run.path, 15)
    with pytest.raises(NotFoundError, match="'newest' is not a checkpoint"):
        cld_core.load(run.path, "newest")
    with pytest.raises(NotFoundError, match="no run at"):
        cld_core.load(run.path.parent / "other")


def test_a_time_that_the_network_has_not_seen_is_warned_of(run, caplog):
    model = cld_core.load(run.path)
    few = {"method": "em", "nfe": 2}
    model.sample(4, **few, eps=1e-5)
    model.sample(4, **few)
    assert caplog.messages == []
    model.sample(4, **few, eps=1e-6)
    assert caplog.messages == ["Model.sample: eps=1e-06: the network has seen no t below 1e-05. Use that or more."]


@pytest.mark.parametrize(("name", "value"), [("n", 0), ("n", 2.5), ("seed", -1), ("first", -1), ("batch_size", 0)])
def test_numbers_that_make_no_sense(run, name, value):
    with pytest.raises(UsageError, match=rf"^Model\.sample: {name}=.*: expected a whole number of at least"):
        cld_core.load(run.path).sample(**{"n": 4, name: value})


def test_never_random_weights(tmp_path):
    """The published code answers a missing checkpoint with a warning and random weights."""
    folder = RunFolder.create(tmp_path / "empty", load(TOY, SMALL), {"created": 1.0})
    with pytest.raises(NotFoundError, match="no usable checkpoint yet"):
        cld_core.load(folder.path)


def test_exported_weights_come_back(run, tmp_path):
    model = cld_core.load(run.path)
    model.export(tmp_path / "w.safetensors")
    again = cld_core.load(tmp_path / "w.safetensors")
    assert (again.step, again.recipe) == (20, model.recipe)
    for name, tensor in model.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[name], tensor)
    settings = {"method": "em", "nfe": 3}
    assert torch.equal(model.sample(2, **settings), again.sample(2, **settings))
