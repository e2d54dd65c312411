"""Samples of each class of a toy against the law of that class."""

import math

import pytest
import torch

from cld_core.analytic import diamond
from cld_core.config import load
from cld_core.errors import UsageError
from cld_core.evaluate.evaluation import Evaluation
from cld_core.evaluate.reports import numbers
from cld_core.evaluate.request import EvalRequest
from cld_core.evaluate.rows import SampleRows
from cld_core.evaluate.toy import sliced_w2
from cld_core.model import Model
from cld_core.ranks import Ranks
from cld_core.samplers import Samples
from cld_core.seeds import generator
from tests.support.paths import RECIPES
from tests.support.tools import trained

LAW = diamond()
SHIFT = torch.tensor([0.03, -0.04])
SAMPLES = 900
SMALL = ("network.width=16", "network.layers=3", "train.steps=4", "train.batch_size=16", f"eval.samples={SAMPLES}")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "mine", "toy_labels", *SMALL)


def points(label: torch.Tensor) -> torch.Tensor:
    """Points (n, 2) of the classes (n,), moved."""
    noise = torch.randn(SAMPLES, 2, generator=generator("law"), dtype=torch.float64)
    return (LAW.means[label] + LAW.std * noise[: len(label)] + SHIFT).float()


@pytest.fixture
def drawn(labelled, monkeypatch, no_pictures):
    """What the evaluation takes for samples of the model; a test may change them."""
    model = Model.from_run(labelled.path, device="cpu")
    x = points(torch.tensor(model.classes.drawn(0, SAMPLES)))

    def draw(self, first, last):
        return Samples(x[first:last], None, torch.full((last - first,), 5))

    monkeypatch.setattr(SampleRows, "draw", draw)
    return x


def section(run, shards=1, seed=0):
    settings = [f"eval.seed={seed}", "eval.w2.sets=2", "eval.max_nonfinite=0.5"]
    request = EvalRequest.of(load(run.recipe_file, settings), ("class-law",), 4, shards)
    work = Evaluation(request.save(run))
    assert work.compute(Ranks())
    assert [*numbers(work.report)] == ["class_w2", "class_w2_floor", "class_density", "class_accuracy"]
    return work.report["class-law"]


def test_each_class_is_held_against_its_own_law(labelled, drawn, chunks):
    chunks(300)
    found, again = (section(labelled, shards, seed=shards) for shards in (1, 3))
    assert {**found, "seed": 0} == {**again, "seed": 0}, "shards change nothing"
    model = Model.from_run(labelled.path, device="cpu")
    label = torch.tensor(model.classes.drawn(0, SAMPLES))
    x, true = drawn[label == 4], model.source.dequantised_test_data(0, 0, 4000)
    other = model.source.dequantised_test_data(1, 0, 4000)
    sets = [it[torch.cdist(it.double(), LAW.means).argmin(1) == 4][: len(x)] for it in (true, other)]
    about = found["classes"]["4"]
    assert about["samples"] == len(x)
    assert about["accuracy"] == found["accuracy"] == 1.0
    assert about["w2"] == pytest.approx(sum(sliced_w2(x, it) for it in sets) / 2, rel=1e-12)
    assert about["floor"] == pytest.approx(sliced_w2(*sets), rel=1e-12)
    # A shift by s is a sliced W2 of |s| / sqrt(2) of laws, and costs |s|^2 / (2 std^2) nats on average.
    moved = 0.05 / math.sqrt(2.0)
    assert moved < found["w2"] < math.hypot(moved, 3 * found["floor"])
    assert found["floor"] < 0.3 * moved
    lost = 0.5 * float(SHIFT.square().sum()) / LAW.std**2
    truth = -math.log(2.0 * math.pi * math.e * LAW.std**2)
    assert found["density_true"] == pytest.approx(truth, abs=1e-6)
    assert abs(found["density"] - (truth - lost)) < 4 * found["density_stderr"]
    squares = (x.double() - LAW.means[4]).square().sum(1) / (2.0 * LAW.std**2)
    gauss = -squares.mean() - math.log(2.0 * math.pi * LAW.std**2)
    assert about["density"] == pytest.approx(float(gauss), abs=1e-6)


def test_samples_of_other_classes_and_those_that_are_not_finite(labelled, drawn):
    right = section(labelled, seed=10)
    model = Model.from_run(labelled.path, device="cpu")
    drawn[model.classes.drawn(0, SAMPLES).index(2)] = LAW.means[3].float()
    drawn[model.classes.drawn(0, SAMPLES).index(5)] = math.nan
    found = section(labelled, seed=11)
    assert found["nonfinite"] == 1
    for name in "25":
        n = found["classes"][name]["samples"]
        assert found["classes"][name]["accuracy"] == 1.0 - 1.0 / n
    assert found["classes"]["2"]["w2"] > 2 * right["classes"]["2"]["w2"], "W2 sees where it lies"
    assert math.isfinite(found["density"]), "it is of those that lie in their class"
    drawn[torch.tensor(model.classes.drawn(0, SAMPLES)) == 7] = math.nan
    assert section(labelled, seed=12)["w2"] == math.inf


def test_a_model_without_labels_has_no_laws_of_classes():
    plain = load(RECIPES / "toy_labels.yaml", ["data.labels=false"])
    with pytest.raises(UsageError, match=r"--class-law needs a class-conditional model.* data\.labels of .* is false"):
        EvalRequest.of(plain, ("class-law",), 4)
