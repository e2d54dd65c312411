"""The baseline that speed is compared with computes what cld_core computes."""

import pytest
import torch
from torch.testing import assert_close

from benchmarks import baseline
from benchmarks.plain_nets import plain_ncsnpp
from cld_core import nets
from cld_core.config.network import MlpSpec
from cld_core.config.sampling import EmSpec, OdeSpec, SscsSpec
from cld_core.config.train import ObjectiveSpec
from cld_core.likelihood import log_density
from cld_core.loss import Draws, ScoreMatching
from cld_core.samplers import sample
from cld_core.score import Score
from cld_core.sde import CLD
from tests.cld_core.nets.test_toy_networks import IMAGES
from tests.support.parity import InjectedNoise


@pytest.fixture(params=[False, True], ids=["plain score", "mixed score"])
def both(request):
    torch.manual_seed(0)
    net = nets.build(MlpSpec(width=32), data_shape=(2,), halves_in=2, halves_out=1)
    objective = ObjectiveSpec(mixed_score=request.param)
    plain_net = baseline.PlainMLP(width=32)
    plain_net.load_state_dict(net.state_dict())
    return Score(CLD(), objective, net), baseline.PlainCLD(plain_net, mixed_score=request.param)


def test_losses_and_gradients_agree(both):
    score, plain = both
    x = torch.randn(64, 2)
    t = torch.rand(64, dtype=torch.float64) * 0.99 + 0.01
    noise = torch.randn(64, 4)
    ours = (
        ScoreMatching(score.sde, score.objective).losses(score, x, Draws(t, noise, None)).weighted
    )
    theirs = plain.loss(x, t, noise)
    assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    ours.sum().backward()
    theirs.sum().backward()
    for a, b in zip(score.net.parameters(), plain.net.parameters(), strict=True):
        assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4 * float(b.grad.abs().max()))


def test_samplers_and_likelihood_agree(both, monkeypatch):
    score, plain = both
    noise = torch.randn(8, 4)
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    for spec, theirs in (
        (EmSpec(nfe=20), baseline.sample_em),
        (SscsSpec(nfe=20), baseline.sample_sscs),
    ):
        ours = sample(score, score.sde, spec, InjectedNoise(noise), (2,)).x
        times = score.sde.schedule.grid("linear", 19, spec.eps)
        assert_close(ours, theirs(plain, noise, times), rtol=1e-4, atol=1e-4)
    ours = sample(score, score.sde, OdeSpec(), InjectedNoise(noise), (2,)).x
    assert_close(ours, baseline.sample_ode(plain, noise)[0], rtol=1e-3, atol=1e-3)
    x, v, probe = torch.randn(8, 2), 0.1 * torch.randn(8, 2), torch.ones(8, 2)
    joint, _, _ = log_density(score, score.sde, torch.cat([x, v], dim=1), probe[:, None], eps=1e-5)
    # Theirs probes all halves.
    theirs, _ = baseline.log_density(plain, x, v, torch.cat([torch.zeros_like(x), probe], dim=1))
    assert_close(joint, theirs, rtol=1e-3, atol=1e-3)


def test_the_plain_ncsnpp_has_the_same_output():
    torch.manual_seed(0)
    net = nets.build(IMAGES, data_shape=(3, 8, 8), halves_in=2, halves_out=1)
    plain = plain_ncsnpp(net)
    assert any(type(module).__name__ == "PlainAttention" for module in plain.modules())
    u, t = torch.randn(2, 6, 8, 8), torch.tensor([0.1, 0.9])
    assert_close(plain(u, t), net(u, t), rtol=1e-4, atol=1e-5)
