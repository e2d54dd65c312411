"""A diffusion is added in one file: a spec, an implementation, one registry call.

It is CLD again, from its kernel alone: everything else is the generic code of `Diffusion`. So it must agree with `CLD`
except for rounding, through training, sampling and the likelihood.
"""

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
import torch

from cld_core import samplers, sde
from cld_core.analytic import diamond
from cld_core.config import load
from cld_core.config.eval import ElboSpec
from cld_core.config.keys import key
from cld_core.config.registry import SECTIONS
from cld_core.config.sde import SdeSpec
from cld_core.config.train import ObjectiveSpec
from cld_core.errors import RecipeError
from cld_core.likelihood import likelihood, log_density
from cld_core.loss import Draws, ScoreMatching
from cld_core.nets.mlp import MLP
from cld_core.ranks import Ranks
from cld_core.registration import Variant, register
from cld_core.score import Score
from cld_core.sde import CLD, Diffusion, cld_kernel
from cld_core.seeds import SampleNoise
from cld_core.train.step import Trainer
from tests.support.numeric import check, law_of_factor
from tests.support.paths import RECIPES
from tests.support.sampling import spec_of


@dataclass(frozen=True, kw_only=True)
class LangevinSpec(SdeSpec):
    splittable: ClassVar[bool] = True

    name: Literal["langevin"] = key("langevin", "Langevin diffusion of mass 1/4")
    beta0: float = key(4.0, "beta(t) = beta0 + beta1 t", ge=0)
    beta1: float = key(0.0, "beta(t) = beta0 + beta1 t", ge=0)


@dataclass(frozen=True, kw_only=True)
class Langevin(Diffusion):
    n = 2
    m = 1
    numerical_eps: float = 1e-6

    A = ((0.0, 4.0), (-1.0, -4.0))
    D = (2.0,)
    precision = (1.0, 4.0)
    prior_std = (1.0, 0.5)
    initial_std = (0.1,)

    def mean(self, t):
        return cld_kernel.transition(self.schedule.integral(t), 4.0)

    def factor(self, t, objective="hsm"):
        var_y = 0.04 if objective == "hsm" else 0.0
        big_b = self.schedule.integral(t)
        return cld_kernel.covariance(big_b, 4.0, var_y=var_y, numerical_eps=self.numerical_eps).cholesky()

    def law(self, t, *, data_var):
        covariance = cld_kernel.covariance(self.schedule.integral(t), 4.0, var_x=data_var, var_y=0.04)
        return law_of_factor(covariance.cholesky())

    def known_precision(self, t):
        _, (l_vx, l_vv) = self.factor(t)
        return ((1.0 / (l_vx * l_vx + l_vv * l_vv),),)

    def reverse(self, big_d):
        (xx, xv), (vx, vv) = cld_kernel.transition(big_d, 4.0)
        (l_xx,), (l_vx, l_vv) = cld_kernel.covariance(big_d, 4.0).cholesky()
        return ((xx, -xv), (-vx, vv)), ((l_xx,), (-l_vx, l_vv))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    variants = dict(SECTIONS["sde"].variants)  # other tests count the variants
    register("sde", "langevin", f"{__name__}:Langevin", LangevinSpec)
    yield
    SECTIONS["sde"].variants.clear()
    SECTIONS["sde"].variants.update(variants)


PAIRS = [(Langevin(beta0=b0, beta1=b1), CLD(beta0=b0, beta1=b1)) for b0, b1 in ((4.0, 0.0), (0.1, 6.9))]
BOTH = pytest.mark.parametrize("pair", PAIRS, ids=["constant", "rising"])


def agree(ours, theirs, tolerance=1e-12):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return MLP(inputs=4, outputs=2, width=16, layers=3, time_input="log").double()


class DoubleNoise(SampleNoise):
    """float64, so that samples of two runs can be compared beyond float32."""

    def _draw(self, draw, shape, dtype):
        return super()._draw(draw, shape, torch.float64)


def noise(last=6):
    return DoubleNoise(0, "new diffusion", first=0, last=last)


@BOTH
def test_coefficients(pair):
    times = torch.tensor([1e-5, 1e-3, 0.2, 1.0], dtype=torch.float64)
    for t in (times, 1e-5, 0.3):
        for objective in ("hsm", "dsm"):
            a, b = ([*d.mixed(t, objective), d.known_precision(t)] for d in pair)
            agree(*(torch.stack([torch.as_tensor(matrix[0][0]) for matrix in side]) for side in (a, b)))
    a, b = (d.auxiliary(1e-3) for d in pair)
    assert (a.mean, a.factor[0], a.det) == (pytest.approx(b.mean), pytest.approx(b.factor[0]), pytest.approx(b.det))


@BOTH
def test_tensors(pair):
    u, s, times = numbers(4, 4, 3, 3), numbers(4, 2, 3, 3, seed=1), torch.tensor([1e-5, 1e-3, 0.2, 1.0]).double()
    for t in (times, 0.3):
        agree(*(d.flow(u, s, t) for d in pair))
        agree(*(d.flow_divergence(numbers(4), t, 18) for d in pair))
        agree(*(d.probe_cross_term(u, t) for d in pair))
    agree(*(d.euler_step(u, s, 0.3, 0.1) for d in pair))
    agree(*(d.prior(u) for d in pair))
    agree(*(d.prior_logp(u) for d in pair))


@BOTH
@pytest.mark.parametrize(
    ("name", "weighting", "mixed"),
    list(itertools.product(("hsm", "dsm"), ("reweightedv2", "reweightedv1", "likelihood"), (False, True))),
)
def test_losses_and_their_gradients(pair, name, weighting, mixed):
    objective, net, x = ObjectiveSpec(name=name, weighting=weighting, mixed_score=mixed), network(), numbers(8, 2)
    results = []
    for d in pair:
        matching = ScoreMatching(d, objective)
        draws = matching.draw(torch.Generator().manual_seed(3), 8, (2,))
        initial = None if draws.initial is None else draws.initial.double()
        loss = matching.per_sample(Score(d, objective, net), x, Draws(draws.t, draws.noise.double(), initial))
        results.append((loss, *torch.autograd.grad(loss.mean(), list(net.parameters()))))
    for ours, theirs in zip(*results, strict=True):
        agree(ours, theirs, 1e-10)


METHODS = [
    {"method": "ode", "denoise": False},
    {"method": "em", "nfe": 12},
    {"method": "sscs", "nfe": 12},
    {"method": "sscs", "nfe": 12, "sscs_order": 2, "grid": "quadratic"},
    {"method": "exponential", "nfe": 10},
    {"method": "exponential", "nfe": 10, "order": 3, "corrector": False, "eta": 0.7, "denoise": False},
]


@BOTH
@pytest.mark.parametrize("keys", METHODS, ids=str)
@pytest.mark.parametrize("mixed", [False, True])
def test_samples_of_a_network(pair, keys, mixed):
    """To 1e-9: a sampler multiplies rounding by the network's slope at every step."""
    net = network()
    drawn = []
    for d in pair:
        score = Score(d, ObjectiveSpec(mixed_score=mixed), net)
        drawn.append(samplers.sample(score, d, spec_of(**keys, eps=0.01), noise(), (2,)))
    agree(drawn[0].x, drawn[1].x, 1e-9)
    agree(drawn[0].v, drawn[1].v, 1e-9)
    assert torch.equal(drawn[0].nfe_each, drawn[1].nfe_each)


@BOTH
def test_exact_scores_and_likelihood(pair):
    u, law, spec = numbers(6, 4), diamond(), ElboSpec(velocities=2, probes=2, eps=1e-3, rtol=1e-3, atol=1e-3)
    results = []
    for d in pair:
        score = law.score(d)
        exact = likelihood(score, d, spec, noise(), u[:, :2], exact_trace=True)
        probed = likelihood(Score(d, ObjectiveSpec(), network()), d, spec, noise(), u[:, :2])
        score_of_network = Score(d, ObjectiveSpec(), network())
        whole = log_density(score_of_network, d, u, numbers(6, 1, 4), eps=1e-3, rtol=1e-3, atol=1e-3)
        laws = [part for t in (1e-3, 0.5) for part in (score(u, t), score.log_density(u, t), score.divergence(u, t))]
        results.append([*laws, exact.elbo, exact.log_q, exact.paper_elbo, probed.elbo, *whole[:2]])
    for ours, theirs in zip(*results, strict=True):
        agree(ours, theirs, 1e-9)


def with_few_steps(method):
    return spec_of(method, nfe=50)


def test_from_a_recipe_through_training_to_samples_and_a_bound():
    settings = ("data.name=diamond", "network.width=16", "network.layers=3", "train.batch_size=16", "sde.beta0=6")
    settings += ("eval.elbo.rtol=1e-3", "eval.elbo.atol=1e-3")
    results = []
    for name in ("langevin", "cld"):
        recipe = load(RECIPES / "toy.yaml", [f"sde.name={name}", *settings])
        trainer = Trainer(recipe, Ranks())
        assert isinstance(trainer.sde, Langevin if name == "langevin" else CLD)
        for step in range(20):
            trainer.step(step)
        score, keyed = Score(trainer.sde, recipe.objective, trainer.net), {"first": 0, "last": 8}
        x = trainer.source.dequantised_test_data(0, **keyed)
        bound = likelihood(score, trainer.sde, recipe.eval.elbo, SampleNoise(0, **keyed), x).elbo
        samples = [
            samplers.sample(score, trainer.sde, spec, SampleNoise(0, **keyed), (2,)).x
            for spec in (spec_of("ode", rtol=1e-3, atol=1e-3), *map(with_few_steps, ("em", "sscs", "exponential")))
        ]
        results.append([*trainer.net.parameters(), bound.float(), *samples])
    # Training is in float32.
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@BOTH
def test_it_is_what_its_matrices_say(pair):
    check(pair[0])


@dataclass(frozen=True, kw_only=True)
class Unsplit(LangevinSpec):
    splittable: ClassVar[bool] = False


def test_a_spec_that_disagrees_with_its_implementation_is_refused():
    with pytest.raises(RecipeError, match=r"Unsplit\.splittable is False, but Langevin defines `reverse`"):
        sde.build(Unsplit())
    SECTIONS["sde"].variants["langevin"] = Variant(Unsplit, f"{__name__}:Langevin")
    with pytest.raises(RecipeError, match=r"cannot be sscs with sde\.name=langevin, which cannot be split"):
        load(RECIPES / "toy.yaml", ["sde.name=langevin", "sampling.method=sscs"])


def test_build_passes_the_keys_of_the_spec():
    assert sde.build(LangevinSpec(beta0=2.0)) == Langevin(beta0=2.0, beta1=0.0)
