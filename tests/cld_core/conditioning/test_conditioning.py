"""Both ways of conditioning, where the conditional law is known."""

import pytest
import torch
from torch.testing import assert_close

from cld_core.analytic import diamond, gaussian
from cld_core.conditioning import GradientGuidance, Observation, Replacement
from cld_core.data.format import DataFormat
from cld_core.errors import UsageError
from cld_core.samplers import sample
from cld_core.sde import CLD, VPSDE
from cld_core.sde.estimate import estimate, posterior_mean
from cld_core.seeds import SampleNoise
from tests.support.affine import spec_of
from tests.support.numeric import BothScored, Given, ThirdOrder, float64, seeded, standard_normal
from tests.support.parity import InjectedNoise

CLD_EXACT = CLD(numerical_eps=0.0)
SDES = pytest.mark.parametrize(
    "sde",
    [CLD_EXACT, VPSDE(), BothScored(), ThirdOrder()],
    ids=["cld", "vpsde", "n=2, m=2", "n=3, m=1"],
)
H = float64([[1.0, 0.5]])
TWO = float64([[1.0, 0.5, 0.0], [0.0, 1.0, -1.0]])
EXACT = {
    "jacobian": GradientGuidance(score_error=0.0),
    "isotropic": GradientGuidance(covariance="isotropic", data_std=0.5, score_error=0.0),
}


def of_first(value):
    """The first of two coordinates is known; what stands for the other one does not count."""
    return Observation.masked(torch.tensor([value, 9.0]), torch.tensor([True, False]))


def drawn(score, sde, observation, way, n, **keys):
    noise, apart = (SampleNoise(0, name, first=0, last=n) for name in ("sample", "observation"))
    given = way.conditioned(score, sde, observation, apart)
    return sample(given, sde, spec_of(**keys), noise, (2,))


def at_time(sde, t, covariance):
    """The covariance of u at t if the data have this one."""
    psi, factor = sde.mean(t)[:, 0], sde.factor(t)
    noise = torch.kron(factor @ factor.T, torch.eye(len(covariance)).double())
    return noise + torch.kron(torch.outer(psi, psi), covariance)


@SDES
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("sigma", [0.0, 0.3])
@pytest.mark.parametrize("matrix", [H, TWO], ids=["one value", "two values"])
def test_on_normal_data_guidance_is_the_exact_score_given_y(sde, name, sigma, matrix):
    d, y = matrix.shape[1], torch.tensor([0.4, -0.7])[: len(matrix)]
    law, u = gaussian(0.5, d), standard_normal(5, sde.n * d)
    given = Given(law, matrix, y, sigma)
    guided = EXACT[name].conditioned(
        law.score(sde), sde, Observation.linear(matrix, y, sigma), None
    )
    for t in (0.01, 0.3, 1.0):
        offset = u - torch.kron(sde.mean(t)[:, 0], given.means[0])
        exact = -torch.linalg.solve(at_time(sde, t, given.covariance), offset.T).T
        assert_close(guided(u, t), sde.scored(exact), rtol=1e-6, atol=1e-6)


@SDES
def test_samples_of_normal_data_have_the_conditional_mean_and_covariance(sde):
    """A sampler without noise is an affine map of the prior's, so it shows them without
    sampling."""
    law, observation = gaussian(0.5), Observation.linear(H, torch.tensor([0.6]), 0.2)
    given = Given(law, H, observation.y, 0.2)
    guided = EXACT["jacobian"].conditioned(law.score(sde), sde, observation, None)
    spec = spec_of("exponential", nfe=100, order=3, corrector=False, grid_power=3.0)
    zero_and_units = torch.cat([torch.zeros(1, sde.n * 2), torch.eye(sde.n * 2)]).double()
    x = sample(guided, sde, spec, InjectedNoise(zero_and_units), (2,)).x
    columns = x[1:] - x[0]
    assert_close(x[:1], given.means, rtol=0, atol=6e-3)
    assert_close(columns.T @ columns, given.covariance, rtol=0, atol=6e-3)


def test_the_standard_deviation_of_data_is_in_their_units():
    """Observed with noise as large as their spread, they have the posterior mean (3 + y)/2."""
    form = DataFormat(shape=(12,), scale=(50.0,) * 12, shift=(3.0,) * 12)
    y = torch.linspace(30, 90, 12)
    observation = Observation.masked(y, torch.arange(12) < 10, 50.0).of_model(form)
    spec = spec_of("exponential", nfe=50, order=3, corrector=False, grid_power=3.0)
    for std in (None, 50.0):
        way = GradientGuidance(data_std=std).of_model(form)
        guided = way.conditioned(gaussian(1.0, 12).score(CLD_EXACT), CLD_EXACT, observation, None)
        noise = InjectedNoise(torch.zeros(1, 24).double())
        x = form.to_data(sample(guided, CLD_EXACT, spec, noise, (12,)).x)
        assert_close(x[0, :10], (3 + y[:10].double()) / 2, rtol=0.01, atol=0)


def test_gradient_scale_is_a_factor_of_the_gradient():
    law, u = gaussian(), standard_normal(3, 4)
    observation = Observation.linear(H, torch.tensor([0.6]))
    plain, once, twice = (
        GradientGuidance(scale=scale).conditioned(
            law.score(CLD_EXACT), CLD_EXACT, observation, None
        )(u, 0.3)
        for scale in (0.0, 1.0, 2.0)
    )
    assert_close(plain, law.score(CLD_EXACT)(u, 0.3))
    assert_close(twice - plain, 2 * (once - plain))


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["uncertain", "of the wrong sign"])
def test_guidance_of_a_bad_network_does_not_push_the_wrong_way(sign):
    """A covariance that is negative is not believed: samples are pulled towards y, by less than y
    is away."""
    sde, law = CLD_EXACT, gaussian(0.5)

    def score(u, t):
        return -sign * 50.0 * sde.scored(u) + law.score(sde)(u, t)

    observation = of_first(2.0)
    t = 0.5
    u = torch.zeros(1, 4, dtype=torch.float64)
    pull = GradientGuidance().conditioned(score, sde, observation, None)(u, t) - score(u, t)
    assert float(pull[0, 0]) < 0, "v is pulled down where x has to be larger"
    assert float(pull.abs().max()) < 10


@SDES
def test_replaced_coordinates_have_the_kernel_of_all_halves(sde):
    observation = of_first(0.7)
    n, t = 40_000, 0.2
    noise = SampleNoise(0, "observation", first=0, last=n)
    replaced = Replacement().conditioned(gaussian().score(sde), sde, observation, noise)
    u = standard_normal(n, 2 * sde.n)
    halves = torch.stack(sde.halves(replaced.replaced(u, t)), dim=1)
    assert torch.equal(halves[:, :, 1], torch.stack(sde.halves(u), dim=1)[:, :, 1])
    known, factor = halves[:, :, 0], sde.factor(t)
    covariance, expected = factor @ factor.T, 0.7 * sde.mean(t)[:, 0]
    spread = covariance.diagonal().sqrt()
    scale = torch.outer(spread, spread)
    assert float(((known.mean(0) - expected) / spread).abs().max()) < 0.02
    assert_close(known.T.cov() / scale, covariance / scale, rtol=0, atol=0.03)
    assert torch.equal(replaced.finished(u[:, :2])[:, 0], torch.full((n,), 0.7).double())


def test_noise_is_renewed_or_kept():
    observation = of_first(0.7)
    u = standard_normal(8, 4)
    for renew in (True, False):
        noise = SampleNoise(0, "observation", first=0, last=8)
        score = gaussian().score(CLD_EXACT)
        replaced = Replacement(renew=renew).conditioned(score, CLD_EXACT, observation, noise)
        assert torch.equal(replaced(u, 0.2), replaced(u, 0.2)) is not renew


METHODS = [
    {"method": "exponential", "nfe": 50},
    {"method": "em", "nfe": 150, "grid": "quadratic"},
    {"method": "sscs", "nfe": 150, "grid": "quadratic"},
]


@pytest.mark.parametrize("keys", METHODS, ids=lambda keys: keys["method"])
def test_on_the_diamond_samples_are_near_the_conditional_law(keys):
    """x = 0.3 leaves two modes. docs/howto/inpainting.md has the distances of more samples."""
    law, n, y = diamond(), 600, torch.tensor([0.3])
    observation = of_first(0.3)
    given = Given(law, torch.tensor([[1.0, 0.0]]), y, 0.0)
    true = given.sample(n, seeded())[:, 1].sort().values
    for way, far, least in (
        (GradientGuidance(score_error=0.0), 0.09, -0.6),
        (Replacement(), 0.12, -2.5),
    ):
        x = drawn(law.score(CLD_EXACT), CLD_EXACT, observation, way, n, **keys).x
        distance = float((x[:, 1].sort().values - true).square().mean().sqrt())
        assert distance < far
        assert least < float(given.log_density(x).mean()) < 1.3
        assert float(observation.residual(x).abs().max()) < 0.02


DEPENDENT = float64([[0.25, 0.2], [0.2, 0.25]])


def score_of_dependent_halves(sde):
    """The exact score of N(0, DEPENDENT): given its first coordinate y, the second one is N(0.8 y,
    0.09)."""

    def score(u, t):
        covariance = at_time(sde, t, DEPENDENT)
        return sde.scored(-torch.linalg.solve(covariance, u.double().T).T).to(u)

    return score


@pytest.mark.parametrize(("sde", "jump"), [(CLD_EXACT, 25), (VPSDE(), 3)], ids=["cld", "vpsde"])
def test_the_error_of_replacement_falls_as_steps_are_repeated(sde, jump):
    observation = of_first(0.5)
    score = score_of_dependent_halves(sde)
    found = []
    for repeats in (1, 3, 10):
        keys = {"order": 0, "corrector": False, "eta": 1.0, "repeats": repeats, "jump": jump}
        keys |= {"method": "exponential", "nfe": 51}
        samples = drawn(score, sde, observation, Replacement(), 1000, **keys)
        assert samples.nfe == 50 * repeats + 1
        unknown = samples.x[:, 1]
        found.append((abs(float(unknown.mean()) - 0.4), abs(float(unknown.std()) - 0.3)))
    means, spreads = zip(*found, strict=True)
    assert means[0] > 0.13
    assert means[0] > 1.5 * means[1] > 1.5 * 1.2 * means[2]
    assert means[2] < 0.06
    assert spreads[2] < 0.03 < spreads[0]


def test_replacement_needs_a_mask_and_fixed_steps():
    with pytest.raises(
        UsageError,
        match=(
            r"method=ode chooses its own steps.*Choose em, sscs, exponential, gddim, conjugate "
            r"or splitting, or"
        ),
    ):
        Replacement().require_usable(of_first(0.3), spec_of("ode"))
    with pytest.raises(
        UsageError, match=r"replacement needs numbers of x as they are.*by gradient"
    ):
        Replacement().require_usable(Observation.linear(H, torch.tensor([0.3])), spec_of("em"))
    observation = Observation.linear(TWO, torch.tensor([0.3, 0.1]))
    with pytest.raises(UsageError, match=r"differentiated once only.*covariance='isotropic'"):
        GradientGuidance().require_usable(observation, spec_of("em", compile=True))

    for way in (GradientGuidance(), Replacement()):
        with pytest.raises(
            UsageError,
            match=r"method=tuned was fitted to the network's flow without an observation",
        ):
            way.require_usable(of_first(0.3), spec_of("tuned"))


def test_wrong_settings_of_guidance():
    said = {
        "scale": "gradient scale -1",
        "data_std": "data_std=-1",
        "score_error": "score_error=-1",
    }
    for name, words in said.items():
        with pytest.raises(UsageError, match=words):
            GradientGuidance(**{name: -1.0})
    with pytest.raises(UsageError, match="expected auto, jacobian or isotropic"):
        GradientGuidance(covariance="full")


def states(sde, law, t, n=50):
    """Draws of u at t."""
    generator = seeded()
    x = law.sample(n, generator).double()
    e = torch.randn(n, sde.n, law.dimension, generator=generator, dtype=torch.float64)
    psi = sde.mean(t)[:, 0]
    return (psi[:, None] * x[:, None] + torch.einsum("ij,bjd->bid", sde.factor(t), e)).flatten(1)


def by_bayes(sde, law, u, t):
    """E[x_0 | u] of a mixture, component by component, from the kernel of all halves."""
    psi = sde.mean(t)[:, 0]
    c = torch.linalg.solve(sde.factor(t) @ sde.factor(t).T, psi)
    informed = torch.einsum("i,bid->bd", c, u.unflatten(1, (sde.n, -1)))
    each = (law.means / law.std**2 + informed[:, None]) / (law.std**-2 + psi @ c)
    responsibility = torch.softmax(law.score(sde)._log_joint(u, t)[0], dim=1)
    return (responsibility[:, :, None] * each).sum(1)


@SDES
@pytest.mark.parametrize("law", [gaussian(), diamond()], ids=["gaussian", "diamond"])
def test_the_scored_halves_alone_give_the_posterior_mean(sde, law):
    for t in (1e-3, 0.05, 0.4, 1.0):
        u = states(sde, law, t)
        ours = posterior_mean(sde, u, law.score(sde)(u, t), t)
        assert_close(ours, by_bayes(sde, law, u, t), rtol=0, atol=1e-9)
        times = torch.full((len(u),), t, dtype=torch.float64)
        assert_close(
            posterior_mean(sde, u, law.score(sde)(u, times), times), ours, rtol=0, atol=1e-9
        )


@SDES
def test_its_derivative_is_the_covariance_times_the_pull(sde):
    law, t = gaussian(0.5), 0.2
    u = states(sde, law, t, 1).requires_grad_()
    x = posterior_mean(sde, u, law.score(sde)(u, t), t)
    scored = sde.scored(torch.autograd.grad(x[0, 0], u)[0])[0].view(sde.m, 2)
    found = estimate(sde, t, data_std=0.5)
    expected = found.pull * found.variance
    assert_close(scored, torch.stack([expected, torch.zeros_like(expected)], dim=1))


def test_an_allowed_error_of_the_score_bounds_what_it_does():
    """At t = 1 the score's error is multiplied by 1 / q_v = 372; weighed against the prior, by 0.13
    at most."""
    sde = CLD(numerical_eps=0.0)
    ell = sde.target(1.0)[0][0]
    assert float((estimate(sde, 1.0).of_score[0] * ell).abs()) == pytest.approx(372.6, rel=1e-3)
    assert float((estimate(sde, 1.0, score_error=0.05).of_score[0] * ell).abs()) < 1.1
