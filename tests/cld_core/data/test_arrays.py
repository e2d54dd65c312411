"""Arrays of numbers: their files, their scaling, and results in the units of the data."""

import logging
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from scipy import stats
from torch.testing import assert_close

import cld_core
from cld_core.analytic import gaussian
from cld_core.conditioning import Observation
from cld_core.config.data import ArraysSpec
from cld_core.data import arrays, store
from cld_core.data.format import DataFormat
from cld_core.data.images import StoredSource, dequantise, order, to_grey, to_model
from cld_core.data.source import identity
from cld_core.errors import CheckpointError, DataError, UsageError
from cld_core.evaluate.likelihood import ElboRows, elbo
from cld_core.model import Model
from cld_core.ranks import Ranks
from cld_core.run import RunFolder
from cld_core.train.step import Trainer
from tests.support.recipes import toy_recipe
from tests.support.tools import stepped

SCALE = np.array([1.0, 20.0, 0.1])
SHIFT = np.array([0.0, -5.0, 300.0])
SMALL = (
    "network.width=16",
    "network.layers=2",
    "train.batch_size=16",
    "train.steps=4",
    "data.name=arrays",
)


def drawn(n=400, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 3)) * SCALE + SHIFT


def saved(folder, x=None, name="x.npy"):
    np.save(folder / name, drawn() if x is None else x)
    return str(folder / name)


def of(x, **keys):
    """The source of examples in memory."""
    given = {name: keys.pop(name) for name in ("labels", "test", "test_labels") if name in keys}
    return StoredSource(
        ArraysSpec(labels="labels" in given, **keys), given=arrays.given(x, **given)
    )


def as_folder(folder, content):
    folder.mkdir()
    names = {"x": "train", "labels": "train_labels", "test": "val", "test_labels": "val_labels"}
    for name, array in content.items():
        np.save(folder / f"{names[name]}.npy", array)


WRITERS = {
    "x.npz": lambda path, content: np.savez(path, **content),
    "compressed.npz": lambda path, content: np.savez_compressed(path, **content),
    "x.safetensors": lambda path, content: save_file(content, path),
    "folder": as_folder,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_holds_examples_labels_and_tests(tmp_path, name):
    labels = np.arange(30) % 3 + 5
    content = {"x": drawn(30), "labels": labels, "test": drawn(10, 1), "test_labels": labels[:10]}
    WRITERS[name](tmp_path / name, content)
    found = arrays.find(ArraysSpec(path=str(tmp_path / name), labels=True))
    for split, examples in (("train", content["x"]), ("validation", content["test"])):
        part = found.splits[split]
        assert np.array_equal(part.x, examples)
        assert found.labels(split).tolist() == (labels - 5)[: len(examples)].tolist()
        assert isinstance(part.x.base, np.memmap) == (name != "compressed.npz")
    assert (found.classes.names, found.classes.weights) == (("5", "6", "7"), (10, 10, 10))


def test_an_npy_has_its_labels_and_its_tests_in_other_files(tmp_path):
    np.save(tmp_path / "x_labels.npy", np.array(["b", "a"] * 200))
    np.save(tmp_path / "other_labels.npy", np.array(["a"] * 5))
    spec = ArraysSpec(
        path=saved(tmp_path), test=saved(tmp_path, drawn(5), "other.npy"), labels=True
    )
    source = StoredSource(spec)
    assert source.classes.names == ("a", "b")
    assert (source.train.n, source.test.n) == (400, 5)
    assert source.test_labels(0, 0, 5).tolist() == [0] * 5


def test_without_a_test_set_a_share_is_one_and_more_rows_never_move_others():
    few, many = (
        arrays.given(np.arange(n)[:, None]).splits["validation"].rows for n in (1000, 20_000)
    )
    assert few.tolist() == many[many < 1000].tolist()
    assert len(many) == pytest.approx(2000, rel=0.1)
    assert abs(np.corrcoef(many[:-1], many[1:] - many[:-1])[0, 1]) < 0.1


def test_an_example_with_a_label_of_its_own_is_for_training():
    labels = np.arange(60)
    labels[:20] = 0
    found = arrays.given(np.arange(60.0)[:, None], labels)
    assert set(found.splits["validation"].labels) == {0}
    assert len(found.classes) == 41


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_batches_are_scaled_rows_with_their_labels(tmp_path, cache):
    x = drawn()
    labels = np.arange(400)
    file = tmp_path / "x.npz"
    np.savez(file, x=x, labels=labels, test=x[:7], test_labels=labels[:7])
    source = StoredSource(ArraysSpec(path=str(file), labels=True, cache=cache))
    z, label = source.labelled_batch(3, 0, 30, 16, slice(4, 12))
    source.close()
    rows = order(30, 16, 400, 3)[0][4:12]
    assert label.tolist() == rows.tolist()
    expected = torch.from_numpy((x - x.mean(0)) / x.std(0)).float()
    assert_close(z, expected[rows], rtol=1e-5, atol=1e-6)
    assert_close(source.form.to_data(z.double()).numpy(), x[rows], rtol=1e-5, atol=1e-4)
    assert_close(source.test_data(0, 2, 5), expected[2:5], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 4, 2)])
def test_the_scaling_is_that_of_all_training_examples_however_they_are_cut(monkeypatch, shape):
    sizes = np.array([1, 50, 1e-3]).reshape(3, *[1] * (len(shape) - 1))
    x = np.random.default_rng(0).normal(size=(50, *shape)).cumsum(0) * sizes
    monkeypatch.setattr(arrays, "_BLOCK", 7 * math.prod(shape))
    each = x.transpose(1, 0, *range(2, x.ndim)).reshape(3, -1)
    standard, between, plain = (
        of(x, test=x, scaling=how).form for how in ("standard", "range", "none")
    )
    assert_close(standard.scale, tuple(each.std(1)), rtol=1e-12, atol=0)
    assert_close(standard.shift, tuple(each.mean(1)), rtol=1e-10, atol=1e-12)
    z = between.to_model(torch.from_numpy(x)).transpose(0, 1).flatten(1)
    ones = torch.ones(3).double()
    assert_close((z.amin(1), z.amax(1)), (-ones, ones))
    assert plain.scale == ()
    assert plain.bounds == standard.bounds == (x.min(), x.max())


def test_large_numbers_keep_their_digits_and_the_array_of_the_caller_is_unchanged():
    x = 1.7e9 + np.random.default_rng(0).normal(size=(300, 2))
    before = x.copy()
    z = of(x, test=x).test_data(0, 0, 300)
    assert_close(z.double().numpy(), (x - x.mean(0)) / x.std(0), rtol=1e-4, atol=1e-4)
    assert np.array_equal(x, before)


def test_bytes_that_are_pictures_are_images_and_other_bytes_are_numbers():
    x = np.random.default_rng(0).integers(0, 256, (200, 1, 4, 6)).astype(np.uint8)
    source = of(x, test=x[:9], flip=True)
    assert (source.shape, source.grey_levels, source.form.scale) == ((1, 4, 6), 256, ())
    pixels = torch.from_numpy(x[:9])
    assert_close(source.test_data(0, 0, 9), to_model(pixels))
    middle = dequantise(pixels, torch.tensor(0.5))
    assert_close(source.dequantised_test_data(0, 0, 9), middle, rtol=0, atol=1 / 255)
    numbers = of(x[:, 0], test=x[:9, 0])
    assert (numbers.grey_levels, numbers.test_data(0, 0, 9).dtype) == (None, torch.float32)


def test_real_numbers_become_grey_between_those_of_the_training_data():
    form = DataFormat(shape=(1, 1, 3), bounds=(-2.0, 6.0))
    assert to_grey(torch.tensor([-9.0, -2.0, 2.01, 6.0]), form).tolist() == [0, 0, 128, 255]


NAN = drawn()
NAN[[17, 300], 1] = np.nan


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"x": NAN}, r"row 17 \(train.*not finite"),
        ({"x": drawn() * 1e300}, "beyond float32"),
        ({"x": drawn() + 0j}, "complex128"),
        ({"x": np.array([["a"]] * 9)}, "not real numbers"),
        ({"x": np.array([1, "a", None], object)}, "objects"),
        ({"x": drawn()[:, 0]}, r"x\[:, None\]"),
        ({"x": np.zeros((9, 2, 2, 2, 2))}, r"\(9, 2, 2, 2, 2\).*\(N, C, H, W\)"),
        ({"x": drawn(1), "test": drawn(3)}, "too few"),
        ({"x": drawn(2)}, "0 for tests are too few.*data.test"),
        ({"x": drawn(), "test": drawn()[:, :2]}, "test examples are"),
        ({"a": drawn(), "b": drawn()}, r"\(a, b\).*Call them x"),
        ({"x": drawn(), "labels": np.zeros(7, int)}, "one label for each"),
        ({"x": drawn(), "labels": np.zeros(400)}, "whole numbers or texts"),
        ({"x": drawn()}, "no labels.*data.labels=false"),
        (
            {"x": drawn(5), "labels": np.zeros(5, int), "test": drawn(2), "test_labels": [0, 1]},
            "label 1 of a test",
        ),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(tmp_path, content, words):
    np.savez(tmp_path / "x.npz", **content)
    labels = "labels" in content or "labels" in words
    with pytest.raises(DataError, match=words):
        store.require(ArraysSpec(path=str(tmp_path / "x.npz"), labels=labels))


def test_files_that_are_missing_damaged_or_of_another_kind_are_refused(tmp_path):
    whole = Path(saved(tmp_path)).read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-100])
    (tmp_path / "text.npz").write_text("nothing")
    (tmp_path / "x.csv").write_text("1,2")
    refused = {
        "cut.npy": "Save it again",
        "text.npz": "Save it again",
        "x.csv": r"numpy\.save",
        "gone.npy": "no such file",
        "": "no train.npy",
    }
    for name, words in refused.items():
        with pytest.raises(DataError, match=words):
            store.require(ArraysSpec(path=str(tmp_path / name)))
    with pytest.raises(DataError, match="given in Python"):
        store.require(ArraysSpec())


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.where(np.arange(3) == 1, 7.0, drawn()), r"1 of 3 columns are constant \(column 1\)"),
        (drawn() + np.array([0.0, 5e6, 0.0]), r"1 of 3 columns are far from 0 \(column 1\)"),
        (drawn(50), "are few"),
        (np.random.default_rng(0).normal(size=(200, 9, 9, 3)), "look like"),
        (np.random.default_rng(0).integers(0, 256, (200, 8, 8)).astype(np.uint8), r"x\[:, None\]"),
    ],
)
def test_unusual_data_cause_a_warning_and_train(caplog, x, words):
    source = of(x)
    with caplog.at_level(logging.WARNING):
        assert bool(source.batch(0, 0, 0, 8, slice(0, 8)).isfinite().all())
    (record,) = caplog.records
    assert list(source.examples.look()) == [record.message]
    assert re.search(words, record.message)


def test_other_numbers_or_labels_have_another_digest(tmp_path):
    spec = ArraysSpec(path=saved(tmp_path))
    first = identity(spec)
    saved(tmp_path, drawn(seed=1))
    assert identity(spec) != first
    saved(tmp_path)
    assert identity(spec) == first
    labelled = [arrays.given(drawn(), [text] * 400).split("train").digest for text in "ab"]
    assert len({first["images"], *labelled}) == 3


# --- the bound, and what leaves


def scaled_gaussian(monkeypatch, std=0.7):
    """A model with the exact score of x = S z + b, where z is N(0, std^2), and true examples."""
    recipe = toy_recipe(*SMALL, "objective.loss_eps=1e-5", "eval.elbo.eps=1e-5")
    x = SHIFT + SCALE * std * np.random.default_rng(3).normal(size=(64, 3))
    source = StoredSource(recipe.data, given=arrays.given(x, test=x))
    source.form = DataFormat(shape=(3,), scale=tuple(SCALE), shift=tuple(SHIFT))
    model = Model(recipe, data=source)
    law = gaussian(std, d=3)
    monkeypatch.setattr(model, "score_of", lambda **how: law.score(model.sde))
    monkeypatch.setattr(model, "score", law.score(model.sde))
    truth = stats.norm(SHIFT, SCALE * std).logpdf(x).sum(1)
    return model, torch.from_numpy(x), torch.from_numpy(truth)


def test_a_scaling_leaves_the_likelihood_of_normal_data_exact(monkeypatch):
    model, x, truth = scaled_gaussian(monkeypatch)
    found = model.likelihood(x, exact_trace=True, rtol=1e-6, atol=1e-6)
    assert_close(found.elbo, truth, rtol=0, atol=3e-3)
    # The paper's estimator has its own noise, but the same unit.
    assert float((found.paper_elbo - truth).mean()) == pytest.approx(0, abs=0.6)
    assert bool((found.importance_bound >= found.elbo - 1e-9).all())


def test_the_bound_of_an_evaluation_is_in_the_units_of_the_data(monkeypatch):
    model, _, truth = scaled_gaussian(monkeypatch)
    request = SimpleNamespace(seed=0, elbo=model.recipe.eval.elbo, elbo_eps_asked=None)
    rows = ElboRows(model, request).compute(0, 64)
    report = elbo(SimpleNamespace(model=model, request=request, arrays=rows))
    assert (report["unit"], report["n"]) == ("nats", 64)
    assert report["nll"] == pytest.approx(-float(truth.mean()), abs=0.02)


def test_samples_and_their_paths_are_in_the_units_of_the_data(monkeypatch):
    model, _, _ = scaled_gaussian(monkeypatch)
    z = (model.sample(2000, method="exponential", nfe=20).double().numpy() - SHIFT) / SCALE
    assert_close(z.mean(0), np.zeros(3), rtol=0, atol=0.05)
    assert_close(z.std(0), np.full(3, 0.7), rtol=0.05, atol=0)
    path = model.trajectory(20, method="exponential", nfe=20)
    assert torch.equal(path.x[-1], model.sample(20, method="exponential", nfe=20))
    assert_close(path.x[0].mean(0).double().numpy(), SHIFT, rtol=0, atol=SCALE.max())


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_observations_are_given_in_the_units_of_the_data(monkeypatch, sigma):
    model, x, _ = scaled_gaussian(monkeypatch)
    mask = torch.tensor([True, False, True])
    matrix = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]]).double()
    z = model.form.to_model(x)
    masked = Observation.masked(x[0], mask, sigma)
    for given in (masked, Observation.linear(matrix, matrix @ x[0], sigma)):
        made = given.of_model(model.form)
        # y - H x, up to a factor for each number that is observed as it is.
        assert_close((made.y - made.apply(z)).sign()[1:], given.residual(x).sign()[1:])
        h = made.apply(torch.eye(3).double()).T
        is_scalar = not isinstance(made.gram, torch.Tensor)
        assert_close(h @ h.T, made.gram * torch.eye(2).double() if is_scalar else made.gram)
        if sigma:
            assert_close(made.y - made.apply(z), given.residual(x))
            assert_close(made.sigma, sigma)
    exact = Observation.masked(x[0], mask)
    assert exact.of_model(model.form).mask is not None
    found = model.sample(50, observation=exact, method="exponential", nfe=20)
    assert_close(found[:, mask].double(), x[0][mask].expand(50, -1), rtol=1e-2, atol=1e-1)


def test_an_observation_with_too_many_numbers_of_other_scales_is_refused():
    form = DataFormat(shape=(2, 4096), scale=(1.0, 2.0), shift=(0.0, 0.0))
    mask = torch.ones(2, 4096, dtype=torch.bool)
    with pytest.raises(UsageError, match="sigma=0"):
        Observation.masked(torch.zeros(2, 4096), mask, 0.1).of_model(form)


# --- training


def test_a_run_keeps_the_scaling_that_it_began_with(tmp_path, monkeypatch):
    recipe = toy_recipe(*SMALL, f"data.path={saved(tmp_path)}")
    folder = RunFolder.create(tmp_path / "run", recipe, {"recipe": "toy"})
    trainer = stepped(Trainer(recipe, Ranks()), 4)
    form = trainer.source.form
    cld_core.checkpoint.write(folder, 4, trainer.state_dict())
    saved(tmp_path, 5 * drawn(seed=2))
    state = cld_core.checkpoint.load(folder, 4)
    with monkeypatch.context() as patch:
        patch.setattr(arrays.SplitRows, "blocks", None)  # Nothing is measured that is known.
        again = Trainer(recipe, Ranks())
        again.load_state_dict(state)
        again.warm_up()
    assert again.source.form == form
    model = cld_core.load(folder.path)
    model.export(tmp_path / "m.safetensors")
    (tmp_path / "x.npy").unlink()
    wider = StoredSource(recipe.data, given=arrays.given(np.zeros((40, 4))))
    with pytest.raises(CheckpointError, match=r"\(4,\), and \(3,\) when the run began"):
        Trainer(recipe, Ranks(), data=wider).load_state_dict(state)
    for place in (folder.path, tmp_path / "m.safetensors"):
        loaded = cld_core.load(place)
        assert loaded.form == form
        how = {"method": "em", "nfe": 5}
        assert torch.equal(loaded.sample(4, **how), model.sample(4, **how))
        with pytest.raises(DataError, match="no such file"):
            loaded.source.test_data(0, 0, 4)


def test_data_of_another_shape_than_the_run_s_are_refused(tmp_path):
    source = StoredSource(ArraysSpec(path=saved(tmp_path)))
    source.form = DataFormat(shape=(5,))
    with pytest.raises(DataError, match=r"\(3,\).*\(5,\)"):
        source.batch(0, 0, 0, 8, slice(0, 8))
