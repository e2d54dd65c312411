"""W2, density and distance from the flow: their values in any division, and refusals."""

import itertools
import math

import numpy as np
import pytest
import torch

from cld_core.analytic import diamond
from cld_core.config import load
from cld_core.errors import UsageError
from cld_core.evaluate.request import request_of
from cld_core.evaluate.vectors import _true_points, sliced_w2
from cld_core.model import Model
from cld_core.run.evaluations import numbers
from cld_core.seeds import generator
from tests.support.recipes import shipped_recipe
from tests.support.tools import trained

from .on_images import computed, let_samples_be

SHIFT = torch.tensor([0.06, 0.08])
# Two flows by the same coarse steps are compared with each other as well as exact ones.
LOOSE = {"rtol": 1e-3, "atol": 1e-3}
FLOW = (
    "sampling.method=exponential",
    "sampling.nfe=6",
    *(f"eval.flow.{key}={value}" for key, value in LOOSE.items()),
)


pytestmark = pytest.mark.usefixtures("no_pictures")


def test_w2_and_density_are_those_of_all_samples_together(toy, monkeypatch, chunks):
    """Samples are the first set of true samples, moved."""
    chunks(16)
    source = Model.from_run(toy.path, device="cpu").source
    let_samples_be(monkeypatch, lambda *rows: source.dequantised_test_data(0, *rows) + SHIFT)
    report = computed(toy, ("w2", "density"), "eval.w2.sets=3", shards=3).report
    sets = [source.dequantised_test_data(number, 0, 70) for number in range(3)]
    x = sets[0] + SHIFT
    assert sliced_w2(x, sets[0]) == pytest.approx(0.1 / math.sqrt(2.0), rel=1e-5)
    assert report["w2"]["value"] == pytest.approx(
        np.mean([sliced_w2(x, true) for true in sets]), rel=1e-12
    )
    floor = [sliced_w2(a, b) for a, b in itertools.combinations(sets, 2)]
    assert report["w2"]["floor"] == pytest.approx(np.mean(floor), rel=1e-12)
    assert report["w2"]["floor_stderr"] == pytest.approx(
        np.std(floor, ddof=1) / math.sqrt(3), rel=1e-12
    )
    logp = source.density.log_density(x)
    assert report["density"]["value"] == pytest.approx(float(logp.mean()), rel=1e-12)
    assert report["density"]["stderr"] == pytest.approx(float(logp.std()) / math.sqrt(70), rel=1e-9)
    assert report["density"]["true"] == pytest.approx(1.4027, abs=1e-4)
    shown = numbers(report)
    assert [*shown] == ["w2", "w2_floor", "density"]
    assert (shown["w2"].n, report["w2"]["nfe_mean"]) == (70, 5.0)


def test_the_flow_is_not_away_from_itself(toy):
    exact = ("sampling.method=ode", "sampling.rtol=1e-6", "sampling.atol=1e-6")
    found = computed(toy, ("flow-distance",), *exact).report["flow-distance"]
    assert (found["value"], found["stderr"]) == (0.0, None)
    assert found["flow_nfe_mean"] == found["nfe_mean"] > 50
    looser = computed(toy, ("flow-distance",), "sampling.method=ode").report["flow-distance"]
    assert looser["value"] > 0


def test_the_distance_is_the_root_mean_square(toy):
    """Of the same noise. Fewer samples may be compared than are drawn."""
    one = computed(toy, ("w2", "flow-distance"), *FLOW, "eval.flow.samples=40")
    model = Model.from_run(toy.path, device="cpu")
    x = model.sample(40, method="exponential", nfe=6).double()
    flow = model.sample(40, method="ode", **LOOSE).double()
    square = (x - flow).square().mean(1)
    found = one.report["flow-distance"]
    assert found["value"] == pytest.approx(float(square.mean().sqrt()), rel=1e-5)
    assert found["stderr"] == pytest.approx(
        float(square.std()) / math.sqrt(40) / (2 * found["value"]), rel=1e-5
    )
    assert (found["samples"], one.report["w2"]["samples"], found["nfe_mean"]) == (40, 70, 6.0)


def test_the_flow_is_solved_once_for_samplers_of_the_same_noise(toy, monkeypatch):
    drawn = []
    draw = Model.draw
    monkeypatch.setattr(
        Model,
        "draw",
        lambda self, n, **keys: drawn.append(keys.get("method")) or draw(self, n, **keys),
    )
    computed(toy, ("flow-distance",), *FLOW, "eval.seed=31")
    computed(toy, ("flow-distance",), *FLOW, "sampling.order=2", "eval.seed=31")
    assert drawn.count("ode") == 1
    computed(toy, ("flow-distance",), *FLOW, "eval.seed=32")
    computed(toy, ("flow-distance",), *FLOW, "sampling.eps=2e-3", "eval.seed=32")
    assert drawn.count("ode") == 3, "it ends elsewhere"


def test_samples_that_diverge_are_infinitely_far(toy, monkeypatch):
    let_samples_be(monkeypatch, lambda first, last: torch.full((last - first, 2), math.nan))
    work = computed(toy, ("w2", "density", "flow-distance"), *FLOW, "eval.max_nonfinite=1")
    values = {key: number.value for key, number in numbers(work.report).items()}
    assert values == {"w2": math.inf, "density": -math.inf, "flow_distance": math.inf}
    assert work.report["w2"]["nonfinite"] == 70


def test_they_are_refused_where_they_mean_nothing(toy, run):
    noisy = load(toy.recipe_file, ["sampling.method=em"])
    eta = load(toy.recipe_file, [*FLOW, "sampling.eta=0.5"])
    for recipe, metrics, words in (
        (noisy, ("w2", "flow-distance"), "--flow-distance compares .* flow.*method=em draw"),
        (eta, ("flow-distance",), "--flow-distance .*method=exponential draw further noise"),
        (run.recipe(), ("w2", "density"), "--w2, --density compares vectors.*are images. Ask for"),
        (
            shipped_recipe("toy_labels", "data.labels=false"),
            ("class-law",),
            r"--class-law needs a class-conditional model.* data\.labels of .* is false",
        ),
    ):
        with pytest.raises(UsageError, match=words):
            request_of(recipe, metrics, 2)


POINTS = torch.randn(500, 2, generator=generator("w2"), dtype=torch.float64)


@pytest.mark.parametrize(
    ("other", "distance", "directions"),
    [
        # Along a direction e, the distance of a shift d is |d . e|, and the mean of cos^2 over
        # directions is 1/2.
        (POINTS + torch.tensor([0.3, -0.4]), 0.5 / math.sqrt(2.0), 64),
        # W2 of N(0, s^2) and N(0, (c s)^2) is |c - 1| s; here s^2 is the sample's, averaged over
        # directions.
        (1.7 * POINTS, 0.7 * float(POINTS.square().sum(1).mean() / 2.0) ** 0.5, 64),
        (POINTS[torch.randperm(500, generator=generator("order"))], 0.0, 64),
        (POINTS + torch.tensor([0.0, 1.0]), 0.0, 1),
        (POINTS + torch.tensor([0.0, 1.0]), math.sqrt(0.5), 7),
    ],
    ids=["shifted", "scaled", "in another order", "along the first axis", "along seven"],
)
def test_the_sliced_distance_of_cases_with_a_closed_form(other, distance, directions):
    expected = pytest.approx(distance, rel=1e-7, abs=1e-12)
    assert sliced_w2(POINTS, other, directions) == expected == sliced_w2(other, POINTS, directions)


LAW = diamond()
MOVED = torch.tensor([0.03, -0.04])
DRAWN = 900
SMALL = (
    "network.width=16",
    "network.layers=3",
    "train.steps=4",
    "train.batch_size=16",
    f"eval.samples={DRAWN}",
)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "mine", "toy_labels", *SMALL)


def points(label):
    """Points (n, 2) of the classes (n,), moved."""
    noise = torch.randn(DRAWN, 2, generator=generator("law"), dtype=torch.float64)
    return (LAW.means[label] + LAW.std * noise[: len(label)] + MOVED).float()


@pytest.fixture
def drawn(labelled, monkeypatch):
    """What the evaluation takes for samples of the model; a test may change them."""
    model = Model.from_run(labelled.path, device="cpu")
    x = points(torch.tensor(model.classes.drawn(0, DRAWN)))

    let_samples_be(monkeypatch, lambda first, last: x[first:last])
    return x


def section(run, shards=1, seed=0):
    settings = [f"eval.seed={seed}", "eval.w2.sets=2", "eval.max_nonfinite=0.5"]
    work = computed(run, ("class-law",), *settings, step=4, shards=shards)
    keys = ["class_w2", "class_w2_floor", "class_density", "class_accuracy"]
    assert [*numbers(work.report)] == keys
    return work.report["class-law"]


def test_each_class_is_held_against_its_own_law(labelled, drawn, chunks):
    chunks(300)
    found, again = (section(labelled, shards, seed=shards) for shards in (1, 3))
    assert {**found, "seed": 0} == {**again, "seed": 0}, "shards change nothing"
    model = Model.from_run(labelled.path, device="cpu")
    label = torch.tensor(model.classes.drawn(0, DRAWN))
    x = drawn[label == 4]
    true = model.source.dequantised_test_data(0, 0, 4000)
    other = model.source.dequantised_test_data(1, 0, 4000)
    sets = []
    for points in (true, other):
        nearest = torch.cdist(points.double(), LAW.means).argmin(1)
        sets.append(points[nearest == 4][: len(x)])
    about = found["classes"]["4"]
    assert about["samples"] == len(x)
    assert about["accuracy"] == found["accuracy"] == 1.0
    assert about["w2"] == pytest.approx(sum(sliced_w2(x, it) for it in sets) / 2, rel=1e-12)
    assert about["floor"] == pytest.approx(sliced_w2(*sets), rel=1e-12)
    # A shift by s is a sliced W2 of |s| / sqrt(2) of laws, and costs |s|^2 / (2 std^2) nats on
    # average.
    moved = 0.05 / math.sqrt(2.0)
    assert moved < found["w2"] < math.hypot(moved, 3 * found["floor"])
    assert found["floor"] < 0.3 * moved
    lost = 0.5 * float(MOVED.square().sum()) / LAW.std**2
    truth = -math.log(2.0 * math.pi * math.e * LAW.std**2)
    assert found["density_true"] == pytest.approx(truth, abs=1e-6)
    assert abs(found["density"] - (truth - lost)) < 4 * found["density_stderr"]
    squares = (x.double() - LAW.means[4]).square().sum(1) / (2.0 * LAW.std**2)
    gauss = -squares.mean() - math.log(2.0 * math.pi * LAW.std**2)
    assert about["density"] == pytest.approx(float(gauss), abs=1e-6)


def test_samples_of_other_classes_and_those_that_are_not_finite(labelled, drawn):
    right = section(labelled, seed=10)
    model = Model.from_run(labelled.path, device="cpu")
    drawn[model.classes.drawn(0, DRAWN).index(2)] = LAW.means[3].float()
    drawn[model.classes.drawn(0, DRAWN).index(5)] = math.nan
    found = section(labelled, seed=11)
    assert found["nonfinite"] == 1
    for name in "25":
        n = found["classes"][name]["samples"]
        assert found["classes"][name]["accuracy"] == 1.0 - 1.0 / n
    assert found["classes"]["2"]["w2"] > 2 * right["classes"]["2"]["w2"], "W2 sees where it lies"
    assert math.isfinite(found["density"]), "it is of those that lie in their class"
    drawn[torch.tensor(model.classes.drawn(0, DRAWN)) == 7] = math.nan
    assert section(labelled, seed=12)["w2"] == math.inf


def test_a_class_that_the_data_hardly_have_is_named():
    class Source:
        def dequantised_test_data(self, seed, first, last):
            return torch.zeros(last - first, 2)

        def test_labels(self, seed, first, last):
            return torch.zeros(last - first, dtype=torch.int64)

    assert len(_true_points(Source(), 0, {0: 70}, 10)[0]) == 70
    words = r"of 640 test points, 0 are of class 1\. Correct the `label`"
    with pytest.raises(UsageError, match=words):
        _true_points(Source(), 0, {0: 3, 1: 3}, 10)
