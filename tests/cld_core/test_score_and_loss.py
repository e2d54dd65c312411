import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from cld_core import nets
from cld_core.analytic import gaussian
from cld_core.config.network import MlpSpec
from cld_core.config.train import ObjectiveSpec
from cld_core.loss import Draws, ScoreMatching, importance
from cld_core.ranks import Ranks
from cld_core.score import Score, at_each, preconditioning
from cld_core.sde import CLD, VPSDE
from cld_core.sde.matrices import apply
from cld_core.seeds import SampleNoise
from cld_core.train.step import Trainer
from tests.support import parity
from tests.support.numeric import BothScored, ThirdOrder, float64, seeded, standard_normal
from tests.support.recipes import shipped_recipe
from tests.support.waits import Waits


@pytest.mark.parametrize("name", parity.TOYS)
@torch.no_grad()
def test_network_and_score_agree_with_the_published_ones(name):
    toy = parity.load(name)
    u, t = toy.data["u"], toy.data["t"]
    assert_close(toy.net(u, t.float()), toy.data["net"], rtol=1e-5, atol=1e-7)
    assert_close(toy.score()(u, t), toy.data["score"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", parity.TOYS)
@torch.no_grad()
def test_losses_agree_with_the_published_ones(name):
    toy = parity.load(name)
    cases = [key.removesuffix("/loss") for key in toy.data if key.endswith("/loss")]
    assert len(cases) == (6 if toy.sde.n == 2 else 3)
    for case in cases:
        _, objective, weighting = case.split("_")
        matching = ScoreMatching(toy.sde, ObjectiveSpec(name=objective, weighting=weighting))
        draws = Draws(toy.data[f"{case}/t"], toy.data[f"{case}/eps"], toy.data[f"{case}/v0"])
        loss = matching.losses(toy.score(name=objective), toy.data["x"], draws).weighted
        # The error of a mixed score is a difference of numbers 100 times its size: atol is their
        # float32 rounding.
        assert_close(loss, toy.data[f"{case}/loss"], rtol=1e-5, atol=2e-6)


@torch.no_grad()
def test_an_objective_of_a_plug_in_draws_what_its_spec_says():
    """Whatever it is called: the perturbed data and the score are those of one kernel."""
    toy = parity.load("mlp_cld_mixed")

    class Given(ObjectiveSpec):
        kernel = "dsm"

    for spec, same in ((ObjectiveSpec(name="mine"), "hsm"), (Given(name="mine"), "dsm")):
        found = []
        for objective in (spec, ObjectiveSpec(name=same)):
            matching = ScoreMatching(toy.sde, objective)
            draws = matching.draw(seeded(), len(toy.data["x"]), (2,))
            found.append(
                matching.losses(Score(toy.sde, objective, toy.net), toy.data["x"], draws).weighted
            )
        assert torch.equal(*found)


@pytest.mark.parametrize("name", parity.TOYS)
@torch.no_grad()
def test_the_score_at_many_times_is_that_at_each(name):
    toy = parity.load(name)
    u, score = toy.data["u"], toy.score()
    times = torch.rand(3, len(u), dtype=torch.float64, generator=seeded()) + 1e-3
    for dtype in (torch.float32, torch.float64):
        for function in (score, lambda u, t: score(u, t)):
            for t, then in zip(times, at_each(function, times, dtype), strict=True):
                assert torch.equal(then(u.to(dtype)), score(u.to(dtype), t))


def test_draws_are_of_the_global_batch_and_ranks_take_rows():
    matching = ScoreMatching(CLD(), ObjectiveSpec(name="dsm"))
    whole, again = (matching.draw(seeded(1), 8, (3, 4, 4)) for _ in range(2))
    assert (whole.noise.shape, whole.initial.shape) == ((8, 6, 4, 4), (8, 3, 4, 4))
    for name in ("t", "noise", "initial"):
        assert torch.equal(getattr(again.rows(slice(2, 5)), name), getattr(whole, name)[2:5])
    many = matching.draw(seeded(2), 10_000, (1,))
    assert float(many.initial.std()) == pytest.approx(0.1, rel=0.03)
    assert (
        ScoreMatching(VPSDE(), ObjectiveSpec(name="dsm")).draw(torch.Generator(), 2, (2,)).initial
        is None
    )


@pytest.mark.parametrize("each", [False, True])
def test_times_are_uniform_or_uniform_in_their_logarithm(each):
    """From loss_eps to 1: a quarter of log t lies below 1e-3 if it begins at 1e-4, and next to
    nothing of t itself."""

    def times(law):
        matching = ScoreMatching(CLD(), ObjectiveSpec(loss_eps=1e-4, times=law))
        if each:
            return matching.draw_each(SampleNoise(0, "test", first=0, last=4000), (2,)).t
        return matching.draw(seeded(), 4000, (2,)).t

    for law, below in (("uniform", 9e-4), ("log", 0.25)):
        t = times(law)
        assert t.dtype == torch.float64
        assert float(t.min()) >= 1e-4
        assert float(t.max()) <= 1
        assert float((t < 1e-3).double().mean()) == pytest.approx(below, abs=0.03)
    quantiles = float64([0.25, 0.5, 0.75])
    expected = float64([1e-3, 1e-2, 1e-1])
    assert_close(times("log").quantile(quantiles), expected, rtol=0.25, atol=0)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("weighting", ["likelihood", "reweightedv1", "reweightedv2"])
@pytest.mark.parametrize(
    ("sde", "name"), [(CLD(), "hsm"), (CLD(beta1=2.0), "dsm"), (VPSDE(), "hsm")]
)
def test_the_loss_and_its_gradient_never_wait_for_the_device(sde, name, weighting, mixed):
    objective = ObjectiveSpec(name=name, weighting=weighting, mixed_score=mixed)
    net = nets.build(MlpSpec(width=8, layers=2), data_shape=(2,), halves_in=sde.n, halves_out=1)
    matching, x = ScoreMatching(sde, objective), torch.zeros(4, 2)
    draws = matching.draw(seeded(), 4, (2,))
    # Times that can be differentiated are computed with by torch, as on a GPU, and so are those
    # without numbers.
    can = Draws(draws.t.requires_grad_(), draws.noise, draws.initial)
    initial = None if draws.initial is None else draws.initial.to("meta")
    bare = Draws(draws.t.detach().to("meta"), draws.noise.to("meta"), initial)
    score, bare_score = (
        Score(sde, objective, net),
        Score(sde, objective, copy.deepcopy(net).to("meta")),
    )
    with Waits() as waits:
        matching.losses(score, x, can)
        matching.losses(bare_score, x.to("meta"), bare).weighted.sum().backward()
    assert waits.names == []


EPS = 1e-4


@pytest.mark.parametrize(
    "weight",
    [
        lambda t: 1 / t,
        lambda t: torch.ones_like(t),
        lambda t: t**-2,
        lambda t: 1e-3 + (6 * t).cos() ** 2,
    ],
)
def test_the_mean_over_times_is_that_of_uniform_ones_whatever_the_weight(weight):
    draw, n = importance(weight, EPS), 400_000
    u01 = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    t, factors = draw(u01)
    assert float(t.min()) >= EPS * (1 - 1e-12)
    assert float(t.max()) <= 1.0
    assert torch.equal(t, t.sort().values)
    for f, integral in ((torch.ones_like, 1 - EPS), (torch.log, EPS - 1 - EPS * math.log(EPS))):
        assert float((factors * f(t)).mean()) == pytest.approx(integral / (1 - EPS), rel=2e-3)


def test_times_are_as_frequent_as_their_weight():
    t, factors = importance(lambda t: 1 / t, EPS)(float64([0.0, 0.25, 0.5, 0.75]))
    assert_close(t, float64([1e-4, 1e-3, 1e-2, 1e-1]), rtol=1e-9, atol=0)
    # The density of uniform times, 1 / (1 - eps), over 1 / (t log(1 / eps)).
    assert_close(factors, t * -math.log(EPS) / (1 - EPS), rtol=1e-9, atol=0)
    ends, _ = importance(lambda t: 1 / t, EPS)(float64([0.0, 1.0 - 2**-53]))
    assert ends.tolist() == pytest.approx([EPS, 1.0], rel=1e-9)


class NoNoise(torch.nn.Module):
    """Predicts no noise: every loss is known. Of Gaussian data, a preconditioned score has nothing
    else to learn."""

    def __init__(self, sde):
        super().__init__()
        self.sde = sde

    def forward(self, u, t):
        return torch.zeros_like(self.sde.scored(u))


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize(
    ("sde", "gain"),
    [(CLD(), 6.5), (VPSDE(), 300.0), (BothScored(), 2.0)],
    ids=["cld", "vpsde", "n=2, m=2"],
)
def test_the_likelihood_weighted_loss_keeps_its_mean_and_loses_variance(sde, gain, each):
    """The variance of uniform times is computed by quadrature over log t, that of importance
    sampling is drawn."""
    objective = ObjectiveSpec(weighting="likelihood", times="importance", loss_eps=1e-5)
    matching, n, d = ScoreMatching(sde, objective), 40_000, 2
    log_t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000 * math.log(1e-5)
    root, t = matching.weight_root(log_t.exp()), log_t.exp() * -math.log(1e-5) / (1 - 1e-5)
    weight = root.mT @ root
    trace, squares = weight.diagonal(dim1=1, dim2=2).sum(1), weight.square().sum((1, 2))
    mean = float((t * trace).mean()) * d
    # Of e^T W e for normal e in d dimensions.
    uniform = float((t * (2 * d * squares + (d * trace).square())).mean()) - mean**2
    if each:
        draws = matching.draw_each(SampleNoise(0, "test", first=0, last=n), (d,))
    else:
        draws = matching.draw(seeded(), n, (d,))
    losses = matching.losses(
        Score(sde, objective, NoNoise(sde)), torch.zeros(n, d), draws
    ).weighted.double()
    assert float(losses.mean()) == pytest.approx(mean, rel=4 * float(losses.std()) / mean / n**0.5)
    assert uniform / float(losses.var()) > gain
    if sde.m == 1:
        # What is left is the variance of |e|^2 alone.
        assert float(losses.var()) == pytest.approx(mean**2 * 2 / d, rel=0.05)


STD = 0.3
PRECONDITIONED = ObjectiveSpec(precondition="data", data_std=STD)
DIFFUSIONS = {
    "vpsde": VPSDE(beta1=2.0, numerical_eps=0.0),
    "cld": CLD(numerical_eps=0.0),
    "n=2, m=2": BothScored(),
    "n=3, m=1": ThirdOrder(),
}
SDES = pytest.mark.parametrize("sde", DIFFUSIONS.values(), ids=DIFFUSIONS)
OBJECTIVES = pytest.mark.parametrize("name", ["hsm", "dsm"])


def network(sde):
    torch.manual_seed(0)
    spec = MlpSpec(width=8, layers=2)
    return (
        nets.build(spec, data_shape=(2,), halves_in=sde.n, halves_out=sde.m)
        .double()
        .requires_grad_(False)
    )


@SDES
@OBJECTIVES
def test_nothing_is_left_to_learn_of_gaussian_data(sde, name):
    u, exact = standard_normal(20, 2 * sde.n), gaussian(STD).score(sde)
    score = Score(sde, replace(PRECONDITIONED, name=name), NoNoise(sde))
    times = float64([1e-4, 1e-2, 0.3, 1.0])
    for t in times.tolist():
        assert_close(score(u, t), exact(u, t), rtol=1e-11, atol=1e-11)
    each = times[:, None].expand(4, 20)
    for stage, t in zip(score.at(each, torch.float64), times.tolist(), strict=True):
        assert_close(stage(u), exact(u, t), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("sde", [*DIFFUSIONS.values(), CLD(numerical_eps=1e-3)], ids=str)
def test_input_and_target_have_unit_variance_and_the_linear_part_is_the_best_one(sde):
    """By the exact covariances of z and of the target with the draws (x / std, e)."""
    first = sde.n - sde.m
    for t in (1e-3, 0.05, 0.4, 1.0):
        found = preconditioning(sde, t, STD)
        # u and the score of the kernel, as linear maps of x / std and the noise.
        factor = sde.factor(t)
        u = torch.cat([STD * sde.mean(t)[:, :1], factor], dim=1)
        score = torch.zeros(sde.m, 1 + sde.n, dtype=torch.float64)
        score[:, 1 + first :] = -sde.target(t)
        z = found.whiten @ u
        target = torch.linalg.inv(found.output) @ (score + found.precision @ z[first:])
        assert_close(z @ z.T, torch.eye(sde.n, dtype=torch.float64), rtol=0, atol=1e-9)
        ones = torch.ones(sde.m, dtype=torch.float64)
        assert_close((target @ target.T).diag(), ones, rtol=1e-6, atol=0)
        assert_close(
            target @ z.T, torch.zeros(sde.m, sde.n, dtype=torch.float64), rtol=0, atol=1e-6
        )


@SDES
@OBJECTIVES
def test_predicted_noise_and_losses_are_those_of_the_score(sde, name):
    objective = replace(PRECONDITIONED, name=name, weighting="likelihood")
    score, matching = Score(sde, objective, network(sde)), ScoreMatching(sde, objective)
    t, u = torch.linspace(0.05, 1.0, 6, dtype=torch.float64), standard_normal(6, 2 * sde.n)
    target = sde.target(t, name)
    expected = -apply(torch.linalg.inv(target), score(u, t))
    assert_close(score.predicted_noise(u, t), expected, rtol=1e-9, atol=1e-9)
    draws = matching.draw(seeded(), 6, (2,))
    initial = None if draws.initial is None else draws.initial.double()
    draws = replace(draws, t=t, noise=draws.noise.double(), initial=initial)
    x = standard_normal(6, 2, seed=1)
    error = score(matching.perturb(x, draws), t) + apply(target, sde.scored(draws.noise))
    rates = (0.5 * sde.diffusion2(t)).unbind(1)
    squares = sum(
        g * part.square().sum(1) for g, part in zip(rates, sde.scored_halves(error), strict=True)
    )
    assert_close(matching.losses(score, x, draws).weighted, squares, rtol=1e-8, atol=1e-8)


def test_training_learns_what_is_not_gaussian():
    """With the same data, times and noise, the loss is lower than that of a network which stays as
    it was made."""
    losses = []
    for rate in ("0.01", "1e-12"):
        settings = (
            "objective.precondition=data",
            "train.batch_size=64",
            f"optim.lr={rate}",
            "network.width=32",
        )
        made = Trainer(shipped_recipe("toy_diamond", *settings), Ranks())
        for step in range(200):
            if step == 100:
                made.take_scalars()
            made.step(step)
        losses.append(made.take_scalars()["loss"])
    assert losses[0] < losses[1]
