"""A class-conditional model from training to its report, guidance, and augmentation that does not leak."""

import math

import pytest
import torch

import cld_core
from benchmarks.diamond import sliced_w2
from cld_core import augment, nets, seeds
from cld_core.analytic import diamond
from cld_core.config import load, with_overrides
from cld_core.config.eval import ElboSpec
from cld_core.config.network import NcsnppSpec
from cld_core.config.sampling import ExponentialSpec
from cld_core.errors import RecipeError, UsageError
from cld_core.evaluate.evaluation import Evaluation
from cld_core.evaluate.request import EvalRequest
from cld_core.guidance import Conditional, Guided, bound, counted
from cld_core.likelihood import likelihood
from cld_core.ranks import Ranks
from cld_core.samplers import sample
from cld_core.samplers.split import grid_of
from cld_core.sde import CLD, VPSDE
from cld_core.seeds import SampleNoise, generator
from cld_core.train.step import Trainer
from tests.support.affine import spec_of
from tests.support.chunks import cut
from tests.support.images import clone, make_images, tiny_recipe
from tests.support.paths import RECIPES
from tests.support.tools import same, trained

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
    torch.testing.assert_close(model.sample(2, first=1, label=1, **FAST)[0], one[1])
    drawn = model.sample(40, **FAST)
    assert torch.equal(model.sample(40, label=model.classes.drawn(0, 40), **FAST), drawn)
    torch.testing.assert_close(model.sample(10, first=25, **FAST), drawn[25:35])
    torch.testing.assert_close(model.sample(40, batch_size=7, **FAST), drawn)


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
    torch.testing.assert_close(
        model.log_likelihood(x[1:3], first=1, label=[1, 2], **keys), whole[1:3], rtol=1e-4, atol=1e-4
    )
    assert not torch.allclose(model.log_likelihood(x, **keys), whole)


def test_an_exported_model_keeps_its_classes(model, tmp_path):
    model.export(tmp_path / "model.safetensors")
    exported = cld_core.load(tmp_path / "model.safetensors")
    assert exported.classes == model.classes
    assert torch.equal(
        exported.sample(9, label=4, guidance=1.5, **FAST), model.sample(9, label=4, guidance=1.5, **FAST)
    )


def test_the_bound_of_a_report_is_conditional(run, monkeypatch):
    cut(monkeypatch, 16)
    keys = ["eval.elbo.rtol=1e-2", "eval.elbo.atol=1e-2", "eval.elbo.velocities=1", "eval.elbo.probes=1"]
    recipe = with_overrides(run.recipe(), keys, "test")
    work = Evaluation(EvalRequest.of(recipe, ("elbo", "loss"), 20, shards=3).save(run))
    assert work.compute(Ranks())
    bound = work.report["elbo"]
    assert bound["conditional"]
    # H of one mode: log 9 less than that of the diamond.
    assert bound["true_entropy"] == pytest.approx(torch.tensor(2 * torch.pi * torch.e * 0.04**2).log().item(), abs=1e-6)
    assert bound["nll"] - bound["gap"] == pytest.approx(bound["true_entropy"], abs=0.6)


@pytest.mark.slow
def test_a_trained_network_has_the_conditional_laws():
    keys = ["train.steps=1500", "train.batch_size=256", "network.width=96"]
    trainer = Trainer(load(RECIPES / "toy_labels.yaml", keys), Ranks())
    for step in range(1500):
        trainer.step(step)
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


LAW, CLASSES = diamond(), torch.arange(9)
NONE = 9
SDES = {"cld": CLD(), "vpsde": VPSDE()}
METHODS = {
    "exponential": {"nfe": 30, "order": 2, "corrector": False},
    "em": {"nfe": 100, "grid": "quadratic"},
    "sscs": {"nfe": 100, "grid": "quadratic"},
    "ode": {"rtol": 1e-4, "atol": 1e-4},
}


def exact(sde):
    return LAW.score(sde, CLASSES)


def noise(n, purpose="sample"):
    return SampleNoise(0, purpose, first=0, last=n)


def drawn(score, sde, spec, n):
    return sample(score, sde, spec, noise(n), (2,))


def state(n=6, seed=0):
    return torch.randn(n, 4, generator=generator(seed, "state"), dtype=torch.float64)


def test_the_exact_conditional_score_is_that_of_the_component():
    score, u, label = exact(CLD()), state(), torch.tensor([0, 1, 2, 3, 4, NONE])
    given = score(u, 0.3, label)
    for row, number in enumerate(label.tolist()):
        law = LAW if number == NONE else type(LAW)(LAW.means[number : number + 1], LAW.std)
        torch.testing.assert_close(given[row], law.score(CLD())(u, 0.3)[row], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("method", METHODS)
def test_samples_given_a_label_have_the_conditional_law(name, method):
    """Of each class as near to its true law as so many true samples are to others."""
    if (name, method) == ("vpsde", "sscs"):
        pytest.skip("VPSDE cannot be split")
    sde, n = SDES[name], 9 * 200
    label = torch.arange(n) % 9
    x = drawn(Conditional(exact(sde), label), sde, spec_of(method, **METHODS[method]), n).x
    for number in range(9):
        mine = x[label == number]
        true = LAW.means[number] + LAW.std * torch.randn(200, 2, generator=generator(number), dtype=torch.float64)
        other = LAW.means[number] + LAW.std * torch.randn(200, 2, generator=generator(number, 2), dtype=torch.float64)
        assert sliced_w2(true, other) < 0.012  # 0.04 is the width of the mode
        assert sliced_w2(mine, true) < 0.014, (number, mine.mean(0), mine.std(0))


@pytest.mark.parametrize("w", [0.0, 0.5, 1.5, 4.0])
def test_a_guided_score_is_the_formula_and_outside_its_interval_the_conditional_score(w):
    score, u, label = exact(CLD()), state(), torch.arange(6)
    guided = Guided(score, label, NONE, ExponentialSpec(guidance=w, guidance_from=0.1, guidance_to=0.5))
    t = torch.tensor([0.05, 0.1, 0.3, 0.5, 0.6, 1.0], dtype=torch.float64)
    given, free = score(u, t, label), score(u, t)
    expected = torch.where(((t >= 0.1) & (t <= 0.5))[:, None], free + w * (given - free), given)
    torch.testing.assert_close(guided(u, t), expected, rtol=1e-12, atol=1e-12)
    for row, time in enumerate(t.tolist()):
        torch.testing.assert_close(guided(u, time)[row], expected[row], rtol=1e-12, atol=1e-12)
    # Three rows at their own times; all rows at each of the three times within.
    once = 0 if w == 0 else 1
    assert guided.extra.tolist() == [3 * once + once * inside for inside in (0, 1, 1, 1, 0, 0)]


def test_every_evaluation_of_the_network_counts():
    sde, label = CLD(), torch.arange(9)
    spec = ExponentialSpec(nfe=20, guidance=2.0)
    score = bound(exact(sde), spec, label, NONE)
    assert counted(drawn(score, sde, spec, 9), score).nfe_each.tolist() == [40] * 9
    part = ExponentialSpec(nfe=20, guidance=2.0, guidance_from=0.2, guidance_to=0.9)
    score = bound(exact(sde), part, label, NONE)
    inside = sum(0.2 <= t <= 0.9 for t in grid_of(part, sde.schedule))
    assert counted(drawn(score, sde, part, 9), score).nfe_each.tolist() == [20 + inside] * 9
    assert 0 < inside < 20


def test_a_sample_of_the_adaptive_flow_keeps_its_label_when_others_have_arrived():
    """Rows leave the solver's batch; each of the others stays with its own label and its own steps."""
    sde, label = CLD(), torch.arange(64) % 9
    spec = spec_of("ode", rtol=1e-4, atol=1e-4, guidance=1.5)
    whole = drawn(Guided(exact(sde), label, NONE, spec), sde, spec, 64)
    few = sample(
        Guided(exact(sde), label[40:50], NONE, spec), sde, spec, SampleNoise(0, "sample", first=40, last=50), (2,)
    )
    torch.testing.assert_close(few.x, whole.x[40:50], rtol=1e-4, atol=1e-4)
    assert torch.equal(torch.cdist(whole.x.double(), LAW.means).argmin(1), label)


@pytest.mark.parametrize("name", SDES)
def test_the_likelihood_given_a_label_is_the_conditional_density(name):
    sde, n = SDES[name], 18
    label = torch.arange(n) % 9
    x = LAW.means[label] + LAW.std * torch.randn(n, 2, generator=generator(5), dtype=torch.float64)
    truth = torch.distributions.Normal(LAW.means[label], LAW.std).log_prob(x).sum(1)
    spec = ElboSpec(velocities=2, eps=1e-6, rtol=1e-5, atol=1e-5)
    result = likelihood(Conditional(exact(sde), label), sde, spec, noise(n, "elbo"), x, exact_trace=True)
    # VPSDE is exact except for the prior, which the mode's law at t = 1 is not quite; the bound of CLD varies.
    assert float((result.elbo - truth).abs().max()) < (0.01 if sde.n == 1 else 0.05)
    assert float((result.elbo - truth).mean()) == pytest.approx(0.0, abs=2e-3 if sde.n == 1 else 0.02)
    free = likelihood(exact(sde), sde, spec, noise(n, "elbo"), x, exact_trace=True)
    # One of nine classes: the density without the label is a ninth.
    assert float((result.elbo - free.elbo).mean()) == pytest.approx(torch.tensor(9.0).log().item(), abs=5e-3)


SIZE = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data") / "set")


def changes(probability=1.0, batch=64, seed=0):
    return augment.draw(seeds.generator(seed), batch, SIZE, probability)


def one(*, flipped=(False, False), shift=(0, 0), sources=((1.0, 0.0), (0.0, 1.0)), warped=False):
    parts = (torch.tensor([flipped]), torch.tensor([shift]), torch.tensor([warped]), torch.tensor([sources]))
    return augment.Changes(*parts, torch.zeros(1, 9))


def images(count=1):
    return 2.0 * torch.rand(count, 3, SIZE, SIZE, generator=seeds.generator(7)) - 1.0


def test_without_a_change_images_stay_and_the_network_is_told_zeros():
    none, x = changes(0.0), images(64)
    assert torch.equal(none.apply(x), x)
    assert not none.conditions.any()


def test_mirrored_and_shifted_images_are_exact():
    x = images()
    assert torch.equal(one(flipped=(True, False)).apply(x), x.flip(3))
    assert torch.equal(one(flipped=(False, True)).apply(x), x.flip(2))
    moved = one(shift=(2, -1)).apply(x)
    assert torch.equal(moved[:, :, :-1, 2:], x[:, :, 1:, :-2])
    # Beyond the edge as in a mirror, which repeats the outermost pixel.
    assert torch.equal(moved[:, :, :-1, :2], x[:, :, 1:, :2].flip(3))
    assert torch.equal(moved[:, :, -1, 2:], x[:, :, -1, :-2])
    assert torch.equal(one(shift=(2 * SIZE, 0)).apply(x), x)
    both = one(flipped=(True, False), shift=(1, 0)).apply(x)
    assert torch.equal(both[..., 1:], x.flip(3)[..., :-1])


def test_warped_images_are_those_of_their_map():
    x = images()
    quarter = one(sources=((0.0, 1.0), (-1.0, 0.0)), warped=True).apply(x)
    torch.testing.assert_close(quarter, torch.rot90(x, -1, (2, 3)), rtol=0, atol=1e-5)
    # A ramp that is twice as wide is half as steep.
    ramp = (torch.arange(SIZE) - (SIZE - 1) / 2).expand(1, 3, SIZE, SIZE) / SIZE
    wide = one(sources=((0.5, 0.0), (0.0, 1.0)), warped=True).apply(ramp)
    torch.testing.assert_close(wide[..., 2:-2], 0.5 * ramp[..., 2:-2], rtol=0, atol=0.01)
    assert float(one(sources=((0.7, 0.2), (0.0, 1.1)), warped=True).apply(x.sign()).abs().max()) <= 1.0


def test_the_map_is_what_the_network_is_told():
    """Both ways: the numbers describe the change completely, and equal changes have equal numbers."""
    made = changes(0.5, batch=256)
    told = made.conditions.double()
    assert torch.equal(told[:, :2] == 1, made.flipped)
    torch.testing.assert_close((told[:, 2:4] * SIZE / 8).round().long(), made.shift)
    octave = 0.2 * math.log(2.0)
    scale = (octave * told[:, 4]).exp()
    turn = torch.stack([told[:, 5] + 1, -told[:, 6], told[:, 6], told[:, 5] + 1], dim=1).view(-1, 2, 2)
    stretch = octave * torch.stack([told[:, 7], told[:, 8], told[:, 8], -told[:, 7]], dim=1).view(-1, 2, 2)
    forward = turn @ torch.linalg.matrix_exp(stretch) * scale[:, None, None]
    torch.testing.assert_close(torch.linalg.inv(forward), made.sources.double(), rtol=1e-4, atol=1e-5)
    assert torch.equal(made.warped, (told[:, 4:] != 0).any(1))


def test_each_change_has_the_probability():
    told = changes(0.12, batch=20_000).conditions
    for columns in ((0,), (1,), (2, 3), (4,), (5, 6), (7, 8)):
        # One shift in sixty is of less than half a pixel in both directions, and none at all.
        made = float((told[:, columns] != 0).any(1).double().mean())
        assert made == pytest.approx(0.12, abs=0.03 if columns == (2, 3) else 0.012)
    assert float(told[told[:, 4] != 0, 4].std()) == pytest.approx(1.0, abs=0.05)


def network(spec):
    torch.manual_seed(0)
    return nets.build(spec, data_shape=(3, SIZE, SIZE), halves_in=2, halves_out=1)


def test_a_network_that_is_told_nothing_is_one_without_augmentation():
    keys = {"image_size": SIZE, "channels": 8, "multipliers": (1, 2), "attention": (4,), "blocks": 1, "init_scale": 1.0}
    plain, told = network(NcsnppSpec(**keys)).eval(), network(NcsnppSpec(**keys, augment=0.1)).eval()
    own = told.state_dict()
    assert set(own) - set(plain.state_dict()) == {"augmentation.weight"}
    assert all(torch.equal(tensor, own[name]) for name, tensor in plain.state_dict().items())
    u, t = torch.cat([images(4), images(4)], dim=1), torch.tensor([0.1, 0.2, 0.3, 1.0])
    assert torch.equal(told(u, t), plain(u, t))
    assert torch.equal(told(u, t, augmented=torch.zeros(4, 9)), plain(u, t))
    assert not torch.equal(told(u, t, augmented=changes(batch=4).conditions), plain(u, t))


def trained_on(recipe, steps=4, made=None, first=0):
    made = made or Trainer(recipe, Ranks())
    for step in range(first, steps):
        made.step(step)
    return made


def test_training_is_exactly_resumed(data):
    recipe = tiny_recipe(data, "network.augment=0.5")
    whole = trained_on(recipe)
    resumed = Trainer(recipe, Ranks())
    resumed.load_state_dict(clone(trained_on(recipe, 2).state_dict()))
    assert same(trained_on(recipe, made=resumed, first=2).state_dict(), whole.state_dict())
