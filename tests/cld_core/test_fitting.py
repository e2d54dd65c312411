"""Training in Python: `cld_core.fit` and `fit_steps`."""

import copy
import itertools
import sys
from contextlib import closing
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import cld_core
from cld_core.config import with_overrides
from cld_core.config.sampling import OdeSpec
from cld_core.config.sde import VpsdeSpec
from cld_core.errors import CheckpointError, DataError, RecipeError, UsageError
from cld_core.ranks import Ranks
from cld_core.train.step import Trainer
from tests.support.tools import same


class Net(torch.nn.Module):
    """For three numbers and CLD; it draws random numbers and keeps running means."""

    masks: ClassVar[list[torch.Tensor]] = []

    def __init__(self, classes=0):
        super().__init__()
        self.first, self.last = torch.nn.Linear(7, 8), torch.nn.Linear(8, 3)
        self.norm, self.dropout = torch.nn.BatchNorm1d(8), torch.nn.Dropout()
        self.label = torch.nn.Embedding(classes + 1, 8)

    def forward(self, u, t, label=None):
        if label is None:
            label = torch.full((len(u),), self.label.num_embeddings - 1)
        h = self.norm(self.first(torch.cat([u, t.log()[:, None]], dim=1)) + self.label(label))
        mask = self.dropout(torch.ones(8))
        if self.training:
            self.masks.append(mask)
        return self.last(h * mask)


class Column:
    """Objects, as a Series of pandas has texts."""

    def __init__(self, values):
        self.values = np.array(values, dtype=object)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


SMALL = {"network": {"width": 8, "layers": 2}, "train__batch_size": 16}
ROWS = np.random.default_rng(0).standard_normal((200, 3)) * [1.0, 10.0, 100.0] + [0.0, 5.0, 1000.0]


def test_losses_and_average_are_those_of_a_run_with_the_same_recipe_and_data(tmp_path):
    np.save(tmp_path / "rows.npy", ROWS)
    given = {**SMALL, "seed": 3, "train__ema": 0.9, "optim": {"lr": 0.01}}
    seen = [loss for _, loss, _ in cld_core.fit_steps(ROWS, 12, **given)]
    (*_, last) = cld_core.fit_steps(ROWS, 12, **given, every=5)
    recipe = with_overrides(last.model.recipe, [f"data.path={tmp_path}/rows.npy"])
    run = Trainer(recipe, Ranks())
    losses = []
    for step in range(12):
        run.step(step)
        losses.append(run.take_scalars()["loss"])
    assert seen == losses
    assert last.step == last.model.step == 12
    assert last.loss == pytest.approx(np.mean(losses[10:]), abs=1e-12), "of steps since step 10"
    with run.ema.in_place():
        assert same(last.model.net.state_dict(), run.net.state_dict())


def test_the_model_can_be_used_while_it_trains_and_after_an_early_end():
    with closing(cld_core.fit_steps(ROWS, **SMALL, network__time_input="raw")) as training:
        drawn = [model.sample(4, nfe=3) for _, _, model in itertools.islice(training, 2)]
        model = next(training).model
        last = model.sample(4, nfe=3)
    pairs = itertools.combinations([*drawn, last], 2)
    assert not any(torch.equal(*pair) for pair in pairs), "it learns meanwhile"
    assert torch.equal(model.sample(4, nfe=3), last)


def test_nothing_else_of_the_process_changes(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    x = torch.rand(20, 1, 8)
    threads = torch.get_num_threads()
    seen = []
    step = Trainer.step

    def watched(*arguments):
        seen.append(torch.get_num_threads())
        step(*arguments)

    monkeypatch.setattr(Trainer, "step", watched)
    network = {"channels": 4, "multipliers": [1], "dropout": 0.5}
    before = torch.get_rng_state()
    for _ in cld_core.fit_steps(x, 2, network=network, cluster__cpus_per_task=threads + 1):
        assert torch.equal(torch.get_rng_state(), before), "dropout has a seed of its own"
        assert torch.get_num_threads() == threads
    assert seen == [threads + 1] * 2, "as in a run"


def test_samples_and_bounds_are_those_of_data_as_they_were_given():
    model = cld_core.fit(ROWS, 60, **SMALL, optim__lr=0.01)
    x = model.sample(1000).double().numpy()
    assert x.mean(0) == pytest.approx(ROWS.mean(0), abs=0.3 * ROWS.std(0).max())
    assert x.std(0) == pytest.approx(ROWS.std(0), rel=0.3)
    entropy = np.log(ROWS.std(0)).sum() + 1.5 * np.log(2 * np.pi * np.e)
    assert -float(model.log_likelihood(ROWS).mean()) == pytest.approx(entropy, abs=0.5)


@pytest.mark.parametrize(
    ("shape", "kind"), [((2, 16), float), ((1, 8, 8), float), ((1, 8, 8), np.uint8)], ids=str
)
def test_the_network_suits_the_shape_and_bytes_are_images(shape, kind):
    x = np.random.default_rng(0).integers(0, 256, (20, *shape)).astype(kind)
    more = {"network": {"channels": 4, "multipliers": [1]}, "train__batch_size": 2}
    model = cld_core.fit(x, 1, labels=["a", "b"] * 10, **more)
    assert model.sample(2, label="b", nfe=2).shape == (2, *shape)
    assert model.is_image == (kind is np.uint8)
    assert f"{'curves' if len(shape) == 2 else 'images'} of shape {shape}" in repr(model)
    # That of a uniform law on [-1, 1] is 0.58.
    assert model.recipe.objective.data_std == (0.6 if model.is_image else 1)


@pytest.mark.parametrize(
    "data", ["gaussian", {"name": "diamond", "labels": True}, "rows.npy"], ids=str
)
def test_data_by_name(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", ROWS)
    model = cld_core.fit(data, 1, **SMALL)
    assert model.data_shape == ((3,) if data == "rows.npy" else (2,))
    assert (model.classes is not None) == isinstance(data, dict)


def test_keys_go_over_what_is_suggested():
    given = {
        "optim.lr": np.float32(0.25),
        "optim__warmup_steps": 1,
        "eval": {"elbo": {"rtol": 0.5}},
    }
    more = {"sampling__method": "ode", "seed": 7}
    recipe = cld_core.fit(ROWS, 1, "vpsde", "resnet", **given, **more).recipe
    assert (recipe.optim.lr, recipe.optim.warmup_steps, recipe.optim.decay) == (0.25, 1, "cosine")
    assert (recipe.eval.elbo.rtol, recipe.eval.elbo.atol) == (0.5, 1e-4)
    assert (recipe.sde, recipe.network.name) == (VpsdeSpec(), "resnet")
    assert recipe.sampling == OdeSpec()
    assert (recipe.objective.name, recipe.train.seed, recipe.train.steps) == ("dsm", 7, 1)
    for given in ({"objective__mixed_score": True}, {"objective": {"precondition": "none"}}):
        assert cld_core.fit(ROWS, 1, **given).recipe.objective.precondition == "none"
    others = cld_core.fit(ROWS, 1, objective__times="log").recipe.objective
    assert (others.times, others.log_share, others.weighting) == ("log", 0, "edm")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optim__lrr": 1}, "cld_core.fit: unknown key 'optim.lrr' .*Did you mean 'optim.lr'"),
        ({"network": "unet1d"}, r"'network.name' cannot be unet1d for examples of shape \(3,\)"),
        ({"sampling": {"method": "ode"}, "sampling__nfe": 3}, "not a key of sampling.method=ode"),
        (
            {"objective": {"mixed_score": True, "precondition": "data"}},
            "objective.mixed_score=false",
        ),
        ({"steps": 0}, "steps=0"),
        ({"seed": -1}, "seed=-1"),
        ({"size": "xl"}, "size='xl': expected one of s, m, l"),
        ({"plugins": ["none.py"]}, "plug-in 'none.py' cannot be imported"),
        ({"data": "gaussian", "labels": [1, 2]}, "Pass labels=True"),
        ({"device": "gpu"}, "device='gpu': torch cannot compute there"),
        ({"device": "cuda:99"}, "device='cuda:99': torch cannot compute there"),
        ({"every": 0}, "every=0"),
        ({"sde": 3}, "'sde' is a section"),
        ({"data__path": "x.npy"}, "data.path and data.test have no meaning"),
        ({"data__name": "gaussian"}, "data.name"),
        ({"train__batch_size": 200}, r"'train.batch_size' is 200, more than the 1\d\d examples"),
        ({"network": "module"}, "Pass the module itself"),
        ({"network": Net}, "it is of type type, not a torch.nn.Module"),
        ({"network": torch.nn.Linear(7, 3)}, r"forward\(\) takes 2 positional"),
        ({"network": Net().requires_grad_(False)}, "all weights are frozen"),
    ],
)
def test_a_wrong_argument_is_named_at_once(given, message):
    with pytest.raises(RecipeError, match=message):
        cld_core.fit_steps(**{"data": ROWS, **given})


@pytest.mark.parametrize(
    ("data", "more", "message"),
    [
        (
            "rows.npz",
            {},
            r"data='rows.npz': there is no such file, folder or toy density\. Toy densities are",
        ),
        ("gaussiann", {}, "Did you mean 'gaussian'"),
        (ROWS[:2], {"data__test_share": 0.9}, "too few.*another data.test_share"),
        (torch.zeros(9, 3, dtype=torch.bfloat16), {}, r"the examples .*BFloat16.* float32"),
        (ROWS, {"labels": [[1], [1, 2]] * 100}, "the labels are not an array"),
        ([], {}, r"an array of shape \(0,\)"),
        (None, {}, "of type NoneType, not an array"),
        (TensorDataset(torch.zeros(9, 3)), {}, r"of type TensorDataset, .* torch\.stack"),
        (DataLoader(TensorDataset(torch.zeros(9, 3))), {}, "of type DataLoader"),
        ((row for row in ROWS), {}, r"of type generator, .* numpy\.stack"),
        (ROWS, {"labels": np.zeros((200, 1), int)}, "Give one label for each"),
        (ROWS, {"labels": Column(["a", float("nan")] * 100)}, "not whole numbers or texts"),
    ],
)
def test_data_that_cannot_be_used_are_refused_at_once(data, more, message):
    with pytest.raises(DataError, match=message):
        cld_core.fit_steps(data, **more)


@pytest.mark.parametrize("labels", [["b", "a"] * 100, [1, 0] * 100])
def test_labels_may_be_objects(labels):
    found = cld_core.fit(ROWS, 1, **SMALL, labels=Column(labels))
    expected = cld_core.fit(ROWS, 1, **SMALL, labels=labels)
    assert found.classes == expected.classes
    assert found.classes.names == tuple(map(str, sorted(set(labels))))


def test_a_module_is_copied_trained_saved_without_code_and_loaded_into_one_like_it(tmp_path):
    torch.manual_seed(0)
    net = Net()
    file = tmp_path / "model.safetensors"
    before = copy.deepcopy(net.state_dict())
    model, again = (cld_core.fit(ROWS, 5, network=net, train__batch_size=32) for _ in range(2))
    assert same(net.state_dict(), before)
    assert same(model.net.state_dict(), again.net.state_dict())
    assert not same(model.net.state_dict(), before)
    assert model.net.norm.num_batches_tracked == 5
    model.save(file)
    with pytest.raises(UsageError, match=r"as a module, .* network=Net\(\)"):
        cld_core.load(file)
    with pytest.raises(CheckpointError, match="Pass a module like the trained one"):
        cld_core.load(file, network=Net(classes=1))
    other = Net()
    loaded = cld_core.load(file, network=other)
    assert torch.equal(loaded.sample(3, nfe=3), model.sample(3, nfe=3))
    assert not same(other.state_dict(), loaded.net.state_dict())
    cld_core.fit(ROWS, 1, **SMALL).save(file)
    with pytest.raises(UsageError, match=r"network\.name=mlp\. Leave out network"):
        cld_core.load(file, network=net)


def test_a_module_gets_labels_and_draws_other_random_numbers_at_each_step():
    Net.masks.clear()
    model = cld_core.fit(ROWS, 3, network=Net(classes=2), labels=["a", "b"] * 100)
    assert not any(torch.equal(*pair) for pair in itertools.combinations(Net.masks[-3:], 2))
    assert model.sample(2, label="b", nfe=2).shape == (2, 3)
    keys = {"velocities": 1, "rtol": 0.1, "atol": 0.1}
    assert torch.isfinite(model.log_likelihood(ROWS[:2], **keys)).all()


def test_a_bar_is_shown_in_terminals_and_on_request(capsys, monkeypatch):
    # Tests of notebooks leave it behind.
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    cld_core.fit(ROWS, 2, **SMALL)
    assert capsys.readouterr() == ("", "")
    cld_core.fit(ROWS, 2, **SMALL, progress=True)
    shown = capsys.readouterr()
    assert "2/2" in shown.err
    assert "loss=" in shown.err
    assert not shown.out


def test_a_saved_model_needs_no_data_and_keeps_its_fitted_sampler(tmp_path):
    model = cld_core.fit(ROWS, 20, **SMALL)
    with pytest.raises(
        UsageError, match=r"the model has no tuned sampler of 3 .* `model\.fit_sampler\(3\)`"
    ):
        model.sample(2, method="tuned", nfe=3)
    done = []
    for nfe in (2, 3):
        model.fit_sampler(nfe, points=8, progress=lambda *counts: done.append(counts))
    assert done[0] == (1, done[0][1])
    _, more = model.solutions.read()
    assert more.distance < more.rms["untuned"]
    model.save(str(tmp_path / "model.safetensors"))
    again = cld_core.load(tmp_path / "model.safetensors")
    for how in ({"method": "tuned", "nfe": 3}, {"nfe": 4}):
        assert torch.equal(again.sample(5, **how), model.sample(5, **how))
    with pytest.raises(UsageError, match=r"weights\.pt: weights are written as \.safetensors"):
        model.save(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nfe": 1}, "nfe=1: a sampler is tuned for 2 to 50"),
        ({"nfe": 3, "budget_min": -1}, "budget_min=-1: a fit takes"),
    ],
    ids=str,
)
def test_a_sampler_that_cannot_be_fitted_is_refused(given, message):
    with pytest.raises(UsageError, match=f"^Model.fit_sampler: {message}"):
        cld_core.fit("gaussian", 1, **SMALL).fit_sampler(**given)
