"""A class-conditional model from training to its report: labels by number and name, guidance, export, evaluation."""

import pytest
import torch
from torch.testing import assert_close

import cld_core
from benchmarks.diamond import sliced_w2
from cld_core.analytic import diamond
from cld_core.config import load, with_overrides
from cld_core.errors import RecipeError, UsageError
from cld_core.evaluate.request import request_of
from cld_core.ranks import Ranks
from cld_core.run.evaluations import Evaluation
from cld_core.seeds import generator
from cld_core.train.step import Trainer
from tests.support.chunks import cut
from tests.support.paths import RECIPES
from tests.support.tools import stepped, trained

SMALL = ["network.width=16", "network.layers=3", "train.steps=20", "train.checkpoint_every=10", "train.batch_size=16"]
FAST = {"method": "exponential", "nfe": 5}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "labelled", "toy_labels", *SMALL, "eval.points=40")


@pytest.fixture
def model(run):
    return cld_core.load(run.path)


def test_samples_have_a_label_each_by_number_name_or_share(model):
    assert len(model.classes) == 9
    each = [3, 1, 4, 1, 5]
    one = model.sample(5, label=each, **FAST)
    assert torch.equal(model.sample(5, label=torch.tensor(each), **FAST), one)
    assert torch.equal(model.sample(5, label=[str(label) for label in each], **FAST), one)
    assert_close(model.sample(2, first=1, label=1, **FAST)[0], one[1])
    drawn = model.sample(40, **FAST)
    assert torch.equal(model.sample(40, label=model.classes.drawn(0, 40), **FAST), drawn)
    assert_close(model.sample(10, first=25, **FAST), drawn[25:35])
    assert_close(model.sample(40, batch_size=7, **FAST), drawn)


def test_guidance_changes_samples_and_is_counted(model):
    plain = model.draw(20, label=2, **FAST)
    guided = model.draw(20, label=2, guidance=2.0, **FAST)
    assert not torch.allclose(plain.x, guided.x)
    assert (plain.nfe, guided.nfe) == (5.0, 10.0)
    free = model.draw(20, label=2, guidance=0.0, **FAST)
    other = model.draw(20, label=7, guidance=0.0, **FAST)
    assert torch.equal(free.x, other.x)
    assert free.nfe == 5.0
    told = []
    watched = model.draw(20, label=2, guidance=2.0, progress=lambda *at: told.append(at), **FAST)
    assert torch.equal(watched.x, guided.x)
    assert told == [(0, number) for number in range(1, 6)]
    path = model.trajectory(20, label=2, guidance=2.0, **FAST)
    assert torch.equal(path.x[-1], guided.x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda it: it.sample(3, label=9), "Model.sample: label 9 is out of range: the labels are 0 to 8"),
        (lambda it: it.draw(3, label="cat"), "Model.draw: there is no class 'cat': the labels are 0 to 8"),
        (lambda it: it.sample(3, label=[1, 2]), "Model.sample: 2 labels for 3 examples"),
        (lambda it: it.log_likelihood(torch.zeros(2, 2), label=[1]), "Model.log_likelihood: 1 labels for 2 examples"),
        (lambda it: it.sample(3, guidance=-1.0), "Model.sample: 'guidance' cannot be -1.0"),
        (lambda it: it.sample(3, guidance_from=0.5, guidance_to=0.4), "'guidance_from' is 0.5, above guidance_to=0.4"),
    ],
)
def test_wrong_labels_are_named(model, call, message):
    with pytest.raises((UsageError, RecipeError)) as caught:
        call(model)
    assert message in str(caught.value)


def test_a_model_without_labels_refuses_them():
    plain = cld_core.Model(load(RECIPES / "toy_diamond.yaml", SMALL[:2]))
    with pytest.raises(UsageError, match=r"Model.sample: label: toy_diamond was trained without labels"):
        plain.sample(3, label=1, **FAST)
    with pytest.raises(RecipeError, match=r"'guidance' is 2, but the model has no labels: data.labels is false"):
        plain.sample(3, guidance=2.0, **FAST)


def test_without_label_dropout_there_is_no_unconditional_network():
    keys = [*SMALL[:2], "objective.label_dropout=0"]
    with pytest.raises(RecipeError, match=r"objective.label_dropout is 0, so nothing was trained without labels"):
        load(RECIPES / "toy_labels.yaml", [*keys, "sampling.guidance=2"])
    model = cld_core.Model(load(RECIPES / "toy_labels.yaml", keys))
    with pytest.raises(UsageError, match="Pass label, one for each example"):
        model.log_likelihood(torch.zeros(2, 2))


def test_likelihood_given_labels_is_that_of_each_example(model):
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    keys = {"velocities": 1, "probes": 1, "rtol": 1e-2, "atol": 1e-2}
    whole = model.log_likelihood(x, label=[0, 1, 2, 3], **keys)
    assert_close(model.log_likelihood(x[1:3], first=1, label=[1, 2], **keys), whole[1:3], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model.log_likelihood(x, **keys), whole)


def test_an_exported_model_keeps_its_classes(model, tmp_path):
    model.export(tmp_path / "model.safetensors")
    exported = cld_core.load(tmp_path / "model.safetensors")
    assert exported.classes == model.classes
    guided = {"label": 4, "guidance": 1.5, **FAST}
    assert torch.equal(exported.sample(9, **guided), model.sample(9, **guided))


def test_the_bound_of_a_report_is_conditional(run, monkeypatch):
    cut(monkeypatch, 16)
    keys = ["eval.elbo.rtol=1e-2", "eval.elbo.atol=1e-2", "eval.elbo.velocities=1", "eval.elbo.probes=1"]
    recipe = with_overrides(run.recipe(), keys, "test")
    work = Evaluation(request_of(recipe, ("elbo", "loss"), 20, shards=3).save(run))
    assert work.compute(Ranks())
    bound = work.report["elbo"]
    assert bound["conditional"]
    # H of one mode: log 9 less than that of the diamond.
    assert bound["true_entropy"] == pytest.approx(torch.tensor(2 * torch.pi * torch.e * 0.04**2).log().item(), abs=1e-6)
    assert bound["nll"] - bound["gap"] == pytest.approx(bound["true_entropy"], abs=0.6)


@pytest.mark.slow
def test_a_trained_network_has_the_conditional_laws():
    keys = ["train.steps=1500", "train.batch_size=256", "network.width=96"]
    trainer = stepped(Trainer(load(RECIPES / "toy_labels.yaml", keys), Ranks()), 1500)
    model = cld_core.Model(trainer.recipe, net=trainer.net.eval(), data=trainer.source, step=1500)
    law, label = diamond(), torch.arange(9).repeat_interleave(200)
    with trainer.ema.in_place():
        x = model.sample(len(label), label=label, method="exponential", nfe=20)
        free = model.sample(len(label), label=label, method="exponential", nfe=20, guidance=0.0)
    for number in range(9):
        noise = torch.randn(200, 2, generator=generator(number), dtype=torch.float64)
        # Modes are 0.5 apart and 0.04 wide; sets of so many true points are 0.007 apart.
        assert sliced_w2(x[label == number], law.means[number] + law.std * noise) < 0.02
    modes = torch.cdist(free.double(), law.means).argmin(1)
    assert torch.bincount(modes, minlength=9).min() > 100, "without labels, samples are of all classes"
