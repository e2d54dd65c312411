import pytest
import torch

from cld_core import nets
from cld_core.errors import RecipeError
from cld_core.loss import Draws, ScoreMatching
from cld_core.nets import dense
from cld_core.recipe.network import MlpSpec, ResnetSpec
from cld_core.recipe.objective import ObjectiveSpec
from cld_core.score import Score
from cld_core.sde import CLD, VPSDE
from tests.support import parity


@pytest.mark.parametrize("name", parity.TOYS)
@torch.no_grad()
def test_network_and_score_agree_with_the_published_ones(name):
    toy = parity.load(name)
    u, t = toy.data["u"], toy.data["t"]
    torch.testing.assert_close(toy.net(u, t.float()), toy.data["net"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(toy.score()(u, t), toy.data["score"], rtol=1e-5, atol=0)


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
        loss = matching.per_sample(toy.score(name=objective), toy.data["x"], draws)
        # The error of a mixed score is a difference of numbers 100 times its size: atol is their float32 rounding.
        torch.testing.assert_close(loss, toy.data[f"{case}/loss"], rtol=1e-5, atol=2e-6)


def test_score_takes_one_time_or_many_and_keeps_the_type():
    toy = parity.load("mlp_cld_mixed")
    u, score = toy.data["u"], toy.score()
    one = score(u, 0.3)
    torch.testing.assert_close(score(u, torch.full((16,), 0.3, dtype=torch.float64)), one, rtol=1e-6, atol=1e-6)
    assert one.dtype == torch.float32
    assert score(u.double(), 0.3).dtype == torch.float64


def test_predicted_noise_is_minus_the_score_over_ell():
    toy = parity.load("mlp_cld_mixed")
    u, t, score = toy.data["u"], toy.data["t"], toy.score()
    ell = toy.sde.target(t)[0][0][:, None].float()
    torch.testing.assert_close(score.predicted_noise(u, t), -score(u, t) / ell, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("sde", "objective"), [(CLD(), "hsm"), (CLD(beta0=0.1, beta1=6.9), "dsm"), (VPSDE(), "hsm")])
def test_perturbed_data_have_the_moments_of_the_kernel(sde, objective):
    n, t = 200_000, 0.2
    matching = ScoreMatching(sde, ObjectiveSpec(name=objective))
    draws = matching.draw(torch.Generator().manual_seed(0), n, (1,))
    draws = Draws(torch.full((n,), t, dtype=torch.float64), draws.noise, draws.initial)
    u = matching.perturb(torch.full((n, 1), 0.7), draws).double()
    mean = torch.tensor([row[0] for row in sde.mean(t)]) * 0.7
    if isinstance(sde, CLD):
        # Once v0 is drawn, DSM's marginal is HSM's kernel.
        c = sde.covariance(t, "hsm")
        covariance = torch.tensor([[c.xx, c.xv], [c.xv, c.vv]])
    else:
        covariance = torch.tensor([[sde.variance(t)]])
    torch.testing.assert_close(u.mean(0).float(), mean.float(), rtol=0, atol=5 / n**0.5)
    measured = torch.cov(u.T).reshape(covariance.shape)
    torch.testing.assert_close(measured.float(), covariance.float(), rtol=0.02, atol=2e-3)


def test_draws_are_of_the_global_batch_and_ranks_take_rows():
    matching = ScoreMatching(CLD(), ObjectiveSpec(name="dsm", loss_eps=1e-3))
    whole = matching.draw(torch.Generator().manual_seed(1), 8, (3, 4, 4))
    again = matching.draw(torch.Generator().manual_seed(1), 8, (3, 4, 4))
    share = again.rows(slice(2, 5))
    assert whole.noise.shape == (8, 6, 4, 4)
    assert whole.initial is not None
    assert share.initial is not None
    assert whole.initial.shape == (8, 3, 4, 4)
    assert torch.equal(share.t, whole.t[2:5])
    assert torch.equal(share.noise, whole.noise[2:5])
    assert torch.equal(share.initial, whole.initial[2:5])
    assert whole.t.dtype == torch.float64
    many = matching.draw(torch.Generator().manual_seed(2), 10_000, (1,))
    assert 1e-3 <= float(many.t.min()) < 2e-3
    assert float(many.t.max()) <= 1.0
    assert float(many.initial.std()) == pytest.approx(0.1, rel=0.03)
    assert ScoreMatching(VPSDE(), ObjectiveSpec(name="dsm")).draw(torch.Generator(), 2, (2,)).initial is None


@pytest.mark.parametrize("time_input", ["raw", "log", "fourier"])
def test_mlp_time_inputs(time_input):
    net = nets.build(MlpSpec(time_input=time_input), data_shape=(2,), halves_in=2, halves_out=1)
    out = net(torch.randn(5, 4), torch.tensor([1e-5, 1e-3, 0.1, 0.5, 1.0]))
    assert out.shape == (5, 2)
    assert torch.isfinite(out).all()
    out.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_networks_of_other_sizes_and_numbers_of_halves():
    for spec in (MlpSpec(width=16, layers=3), ResnetSpec(width=16, layers=4)):
        net = nets.build(spec, data_shape=(3,), halves_in=1, halves_out=1)
        assert net(torch.randn(2, 3), torch.rand(2)).shape == (2, 3)
        net = nets.build(spec, data_shape=(3,), halves_in=3, halves_out=2)
        assert net(torch.randn(2, 9), torch.rand(2)).shape == (2, 6)


def test_a_network_for_vectors_refuses_images():
    with pytest.raises(RecipeError, match=r"mlp takes vectors.*\(3, 8, 8\)"):
        nets.build(MlpSpec(), data_shape=(3, 8, 8), halves_in=2, halves_out=1)


@pytest.mark.parametrize("rows", [1, 17, 2500])
def test_the_fast_path_without_gradients_computes_the_same(rows, monkeypatch):
    net = nets.build(MlpSpec(), data_shape=(2,), halves_in=2, halves_out=1)
    u, t = torch.randn(rows, 4), torch.rand(rows)
    plain = net(u, t).detach()
    with torch.no_grad():
        fast = net(u, t)
        monkeypatch.setattr(dense, "_FUSED", False)
        unfused = net(u, t)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(unfused, plain, rtol=1e-5, atol=1e-6)


def test_loss_gradient_reaches_the_network_and_the_default_weight_is_one():
    sde, objective = CLD(), ObjectiveSpec()
    net = nets.build(MlpSpec(width=8, layers=2), data_shape=(2,), halves_in=2, halves_out=1)
    matching = ScoreMatching(sde, objective)
    draws = matching.draw(torch.Generator().manual_seed(0), 4, (2,))
    matching.per_sample(Score(sde, objective, net), torch.zeros(4, 2), draws).mean().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in net.parameters())
    assert matching.weight(draws.t) == ((1.0,),)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_fused_layer_has_the_gradients_of_the_plain_pair(frozen, monkeypatch):
    monkeypatch.setattr(dense, "_FUSED_WITH_GRADIENTS", dense._FUSED)
    torch.manual_seed(0)
    layer, h = torch.nn.Linear(24, 16), torch.randn(40, 24, requires_grad=True)
    layer.requires_grad_(not frozen)
    wanted_from = [h] if frozen else [h, *layer.parameters()]
    out, plain = dense.linear_silu(layer, h), torch.nn.functional.silu(layer(h))
    torch.testing.assert_close(out, plain, rtol=1e-5, atol=1e-6)
    weight = torch.randn_like(out)
    found, wanted = (torch.autograd.grad((y * weight).sum(), wanted_from) for y in (out, plain))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
