"""FID, precision and recall of each class; exact conditional densities by quadrature, against those of mixtures."""

import numpy as np
import pytest
import torch

from cld_core import pictures
from cld_core.analytic import GaussianMixture, diamond
from cld_core.conditioning import GradientGuidance, Observation, Replacement
from cld_core.config import load
from cld_core.data import toy
from cld_core.data.images import to_pixels
from cld_core.errors import UsageError
from cld_core.evaluate import conditional, registry, stats_file
from cld_core.evaluate.features import _precision_and_recall, frechet
from cld_core.evaluate.statistics import Statistics, StatsRequest
from cld_core.model import Model
from tests.support.extractor import TINY
from tests.support.images import labelled_images, run_folder
from tests.support.paths import RECIPES
from tests.support.tools import train

from .on_images import SETTINGS, evaluated, request, stats_of

LABELLED = ("data.labels=true", "eval.samples=60")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("classes")
    data = labelled_images(root / "set", {"train": 40, "validation": 10})
    settings = [text for text in SETTINGS if not text.startswith("eval.samples")]
    run = train(run_folder(root, data, *settings, *TINY, *LABELLED))
    return run


def test_each_class_is_compared_with_its_own_images(labelled, chunks):
    chunks(20)
    file = stats_of(labelled)
    reference = stats_file.read(file, features=True)
    assert reference.outline.classes == ("even", "odd", "rest")
    reports = [evaluated(labelled, metrics=("fid", "classes"), shards=shards) for shards in (1, 3)]
    section = reports[0]["classes"]
    assert reports[1]["classes"] == section
    model = Model.from_run(labelled.path)
    label = np.array(model.classes.drawn(0, 60))
    from cld_core.evaluate import extractors

    asked = request(labelled, metrics=("classes",))
    features = extractors.load(asked.fid, asked.files, torch.device("cpu"))(to_pixels(model.sample(60)))["features"]
    for number, name in enumerate(reference.outline.classes):
        ours, theirs = features[label == number], reference.features[reference.labels == number]
        values = section["classes"][name]
        assert (values["samples"], values["images"]) == (len(ours), len(theirs))
        assert values["fid"] == pytest.approx(
            frechet(ours, *(of(theirs.astype(float).T) for of in (lambda it: it.mean(1), np.cov))), rel=1e-3
        )
        precision, recall, _ = _precision_and_recall(torch.from_numpy(ours), torch.from_numpy(theirs), 3)
        assert (values["precision"], values["recall"]) == (precision, recall)
    assert section["fid"] == pytest.approx(np.mean([values["fid"] for values in section["classes"].values()]))


def test_classes_with_few_samples_are_left_out_and_counted(labelled):
    stats_of(labelled)
    section = evaluated(labelled, "eval.samples=28", metrics=("classes",))["classes"]
    drawn = np.bincount(Model.from_run(labelled.path).classes.drawn(0, 28), minlength=3)
    assert (section["left_out"], len(section["classes"])) == (int((drawn < 10).sum()), int((drawn >= 10).sum()))
    assert 0 < section["left_out"] < 3
    assert registry.metric("classes").remark(section).startswith(f"{section['left_out']} of 3 classes have too few")


def test_statistics_without_labels_are_computed_again_when_there_are_some(labelled):
    file = stats_of(labelled)
    content = stats_file.read(file, features=True)
    about = stats_file.outline(file).about
    request_ = StatsRequest.of(labelled.recipe(), None, features=True, shards=1)
    asked = Statistics(request_.folder, request_)
    assert asked.is_done
    old = {name: value for name, value in about.items() if name != "classes"}
    stats_file.write(file, old, {"mu": content.mu, "sigma": content.sigma, "pool_3": content.features})
    assert not asked.is_done
    with pytest.raises(UsageError, match=r"does not know the classes of its images\. Prepare the data again"):
        request(labelled, metrics=("classes",))
    assert request(labelled, metrics=("fid", "prc"))
    assert stats_of(labelled) == file
    assert asked.is_done


def test_guidance_is_part_of_what_samples_are(labelled):
    stats_of(labelled)
    plain, guided = request(labelled), request(labelled, "sampling.guidance=2")
    assert plain.id != guided.id
    assert plain.row_settings("features") != guided.row_settings("features")
    assert evaluated(labelled, "sampling.guidance=2")["fid"]["nfe_mean"] == 6.0


def test_each_row_of_a_picture_has_one_class(labelled, tmp_path):
    model = Model.from_run(labelled.path)
    assert pictures.in_rows(model, 16).tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [0] * 4
    pictures.samples(model, tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()


MASK = torch.tensor([True, False])
FIRST = Observation.masked(torch.tensor([0.3, 0.0]), MASK)
CASES = {
    "exact": FIRST,
    "noisy": Observation.masked(torch.tensor([0.3, 0.0]), MASK, 0.1),
    "mean of both": Observation.linear(torch.tensor([[0.5, 0.5]]), torch.tensor([0.2]), 0.1),
}


@pytest.fixture(scope="module")
def model():
    return Model(load(RECIPES / "toy_diamond.yaml", ["network.width=16", "network.layers=3"]))


@pytest.mark.parametrize("label", [None, 3])
@pytest.mark.parametrize("name", CASES)
def test_log_densities_are_those_of_the_mixture_or_of_a_component(model, name, label):
    observation, law = CASES[name], diamond()
    matrix = observation.apply(torch.eye(2)).T
    law = law if label is None else GaussianMixture(law.means[label : label + 1], law.std)
    given = law.given(matrix, observation.y, observation.sigma)
    density = conditional.ConditionalDensity.of(model, observation, label)
    x = given.sample(2000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(density.log_density(x), given.log_density(x), rtol=0, atol=1e-5)
    assert density.mean_log_density == pytest.approx(float(given.log_density(x).mean()), abs=0.1)


def test_nothing_is_claimed_without_a_density(model, monkeypatch):
    oblique = Observation.linear(torch.tensor([[0.5, 0.5]]), torch.tensor([0.2]))
    assert conditional.ConditionalDensity.of(model, oblique) is None
    monkeypatch.setattr(model.source, "density", toy.Toy("none", lambda n, g: torch.zeros(n, 2)))
    assert conditional.ConditionalDensity.of(model, FIRST) is None


@pytest.mark.parametrize("name", CASES)
def test_pictures_and_words(model, tmp_path, name):
    x = diamond().sample(50, torch.Generator().manual_seed(0))
    density = conditional.ConditionalDensity.of(model, CASES[name])
    conditional.show(tmp_path / "p.png", x, model, CASES[name], density, "by hand")
    assert (tmp_path / "p.png").stat().st_size > 10_000
    said = conditional.agreement(x, CASES[name], density)
    assert "mean conditional log-density" in said


def test_a_sample_given_an_observation_does_not_depend_on_its_batch(model):
    for by in (None, GradientGuidance(covariance="isotropic"), Replacement()):
        keys = {"method": "exponential", "nfe": 8, "observation": FIRST, "by": by}
        whole = model.sample(6, batch_size=6, **keys)
        torch.testing.assert_close(model.sample(6, batch_size=4, **keys), whole, rtol=1e-4, atol=1e-4)
        assert not torch.equal(whole, model.sample(6, method="exponential", nfe=8))
