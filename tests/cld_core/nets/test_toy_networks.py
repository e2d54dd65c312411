"""The networks for toy data: their inputs, their shapes, and the fused layers of sampling."""

import pytest
import torch

from cld_core import nets
from cld_core.errors import RecipeError
from cld_core.nets import dense
from cld_core.recipe.network import MlpSpec, ResnetSpec


def built(spec, d=2, n=2, m=1):
    return nets.build(spec, data_shape=(d,), halves_in=n, halves_out=m)


@pytest.mark.parametrize("time_input", ["raw", "log", "fourier"])
def test_every_form_of_the_time_gives_finite_results_and_gradients(time_input):
    net = built(MlpSpec(time_input=time_input))
    out = net(torch.randn(5, 4), torch.tensor([1e-5, 1e-3, 0.1, 0.5, 1.0]))
    assert out.shape == (5, 2)
    assert torch.isfinite(out).all()
    out.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("spec", [MlpSpec(width=16, layers=3), ResnetSpec(width=16, layers=4)])
def test_any_number_of_halves_goes_in_and_out(spec):
    for d, n, m in ((3, 1, 1), (2, 2, 2), (2, 3, 1)):
        assert built(spec, d, n, m)(torch.randn(4, n * d), torch.rand(4)).shape == (4, m * d)


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_a_network_for_vectors_refuses_images(name):
    spec = MlpSpec() if name == "mlp" else ResnetSpec()
    with pytest.raises(RecipeError, match=rf"{name} takes vectors.*\(3, 8, 8\)"):
        nets.build(spec, data_shape=(3, 8, 8), halves_in=2, halves_out=1)


@pytest.mark.parametrize("rows", [1, 17, 2500])
def test_without_gradients_the_result_is_the_same_to_rounding(rows, monkeypatch):
    net = built(MlpSpec())
    u, t = torch.randn(rows, 4), torch.rand(rows)
    plain = net(u, t).detach()
    with torch.no_grad():
        fused = net(u, t)
        monkeypatch.setattr(dense, "_FUSED", False)
        unfused = net(u, t)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(unfused, plain, rtol=1e-5, atol=1e-6)
