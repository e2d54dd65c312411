"""Sliced W2 and energy distance from test data: closed forms, standard errors, evaluations."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import ttest_ind

from cld_core.config import load
from cld_core.errors import UsageError
from cld_core.evaluate import vectors
from cld_core.evaluate.request import request_of
from cld_core.evaluate.vectors import energy_of, w2_of
from cld_core.metrics import fitting
from cld_core.model import Model
from cld_core.run import RunFolder
from cld_core.seeds import generator
from tests.support.tools import ONE, trained

from .on_images import computed, let_samples_be

pytestmark = pytest.mark.usefixtures("no_pictures")
SCALES = torch.tensor([1.0, 100.0, 0.01, 7.0, 3.0])


def normal(*size, seed=0, mean=0.0):
    return mean + torch.randn(*size, generator=generator(seed, "test"), dtype=torch.float64)


def test_sliced_w2_of_a_translation():
    """Along each direction it is the shift's projection, whose mean square is |shift|^2/d."""
    x = normal(40, 5)
    shift = torch.tensor([0.3, -0.4, 1.2, 0.0, 0.5], dtype=torch.float64)
    wanted = pytest.approx(float(shift.norm()) / math.sqrt(5), rel=0.02)
    found = w2_of([x + shift] * 2, [x] * 2, 20_000)
    exact = {"stderr": 0.0, "t95": None, "floor": 0.0, "floor_stderr": None}
    assert found == {"value": wanted, **exact}


def test_energy_distance_is_over_all_pairs_however_many_are_computed_at_once(monkeypatch):
    a = torch.tensor([[0.0], [1.0], [3.0]]).double()
    b = torch.tensor([[2.0], [5.0]]).double()
    wanted = 2 * (2 + 5 + 1 + 4 + 1 + 2) / 6 - (1 + 3 + 2) / 3 - 3
    for block in (1 << 22, 1):
        monkeypatch.setattr(vectors, "_BLOCK", block)
        found = energy_of([a], [b])
        assert found == {"value": pytest.approx(wanted, rel=1e-12), "stderr": None, "t95": None}


@pytest.mark.parametrize(
    "compare", [energy_of, lambda ours, true: w2_of(ours, true, 8)], ids=["energy", "w2"]
)
def test_standard_errors_are_the_spread_of_repetitions(compare):
    found = []
    for seed in range(150):
        ours = normal(4, 30, 2, seed=2 * seed, mean=0.5)
        true = normal(4, 30, 2, seed=2 * seed + 1)
        found.append(compare([*ours], [*true]))
    for name, error in (("value", "stderr"), ("floor", "floor_stderr")):
        if name in found[0]:
            spread = np.std([one[name] for one in found], ddof=1)
            reported = math.sqrt(np.mean([one[error] ** 2 for one in found]))
            assert 0.8 < reported / spread < 1.35, name


def test_the_factor_of_an_interval_has_the_degrees_of_freedom_of_its_parts():
    """Student's t of scipy's test of two means with unequal variances, which is Welch's."""
    rows = np.array([0.1, 0.5, 0.2, 0.9])
    columns = np.array([3.0, 1.0, 2.5, 2.0])
    found = vectors._across(rows[:, None] - columns)
    low, high = ttest_ind(rows, columns, equal_var=False).confidence_interval(0.95)
    assert found["value"] == pytest.approx((low + high) / 2)
    assert found["t95"] * found["stderr"] == pytest.approx((high - low) / 2)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """A run on vectors of five features of very different scales; 60 of 400 are for tests."""
    folder = tmp_path_factory.mktemp("arrays")
    x = normal(400, 5, mean=2.0).float() * SCALES
    np.savez(folder / "x.npz", x=x[:340].numpy(), test=x[340:].numpy())
    data = f"data={{name: arrays, path: {folder / 'x.npz'}}}"
    return trained(folder / "run", "toy", data, *ONE, "sampling.method=em", "sampling.nfe=4").path


def test_an_evaluation_compares_parts_of_samples_with_parts_of_test_data_in_their_units(
    arrays, monkeypatch
):
    run = RunFolder(arrays)
    source = Model.from_run(arrays, device="cpu")
    truth = source.form.to_data(source.source.test_data(0, 0, 60)).double()
    shift = 0.25 * SCALES

    let_samples_be(monkeypatch, lambda *rows: (truth[slice(*rows)].flip(0) + shift).float())
    settings = ("eval.samples=48", "eval.w2.sets=3", "eval.w2.directions=200")
    report = computed(run, ("w2", "energy"), *settings).report
    used = truth[:48]

    def parts_of(x):
        return list(((x - used.mean(0)) / used.std(0)).split(16))

    parts = parts_of(used)
    moved = parts_of(used.flip(0) + shift)
    for metric, wanted in (("w2", w2_of(moved, parts, 200)), ("energy", energy_of(moved, parts))):
        section = report[metric]
        assert {name: section[name] for name in wanted} == pytest.approx(wanted, rel=1e-4)
        assert (section["points"], section["units"]) == (16, "standard deviations of the test data")


def test_test_data_that_change_are_another_evaluation(arrays, tmp_path):
    recipe = RunFolder(arrays).recipe()
    before = request_of(recipe, ("energy",), 20).id
    with np.load(recipe.data.path) as file:
        np.savez(tmp_path / "x.npz", x=file["x"], test=file["test"] + 1)
    other = load(RunFolder(arrays).recipe_file, [f"data.path={tmp_path / 'x.npz'}"])
    assert request_of(other, ("energy",), 20).id != before


def test_what_compares_samples_alone_needs_no_data(arrays):
    gone = load(RunFolder(arrays).recipe_file, ["data.path=gone.npz", "sampling.method=ode"])
    request = request_of(gone, ("flow-distance",), 20)
    assert (request.images, request.test_set) == (False, None)


@pytest.mark.parametrize(
    ("metric", "override", "words"),
    [
        ("density", "eval.samples=64", "and that of data.name=arrays is not"),
        ("fid", "eval.samples=64", "compares images, but the examples of data.name=arrays are"),
        ("w2", "eval.w2.sets=31", "is 31, too many for 32 samples. Set it to at most 16"),
        ("energy", "eval.samples=7", "too many for 7 samples"),
    ],
)
def test_what_arrays_do_not_have_is_refused(arrays, metric, override, words):
    with pytest.raises(UsageError) as caught:
        request_of(load(RunFolder(arrays).recipe_file, [override]), (metric,), 20)
    assert words in str(caught.value)


def test_of_toys_the_energy_distance_is_from_fresh_true_samples(toy, monkeypatch):
    source = Model.from_run(toy.path, device="cpu").source

    let_samples_be(monkeypatch, lambda *rows: source.dequantised_test_data(17, *rows))
    found = computed(toy, ("energy",), "eval.samples=400").report["energy"]
    assert (found["points"], found["units"]) == (100, "standard deviations of the true samples")
    assert abs(found["value"]) < 3 * found["stderr"], "it has no bias"


def test_metrics_for_each_kind_of_data():
    def names(*kinds):
        return {metric.name for metric in fitting(kinds)}

    assert names("vectors", "law") - names("vectors") == {"density", "class-law"}
    assert names("vectors", "images") == names("vectors") | names("images")
    assert names("vectors") & names("images") == {"flow-distance", "elbo", "loss"}
