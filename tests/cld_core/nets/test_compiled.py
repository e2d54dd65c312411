"""torch.compile for sampling and likelihoods: the same numbers, and few sizes to compile."""

import shutil
from dataclasses import replace

import pytest
import torch

from cld_core.likelihood import likelihood
from cld_core.model import Model
from cld_core.nets.compiled import SIZES, Compiled
from cld_core.recipe import load
from cld_core.seeds import SampleNoise
from tests.support.paths import RECIPES

RECIPE = load(RECIPES / "toy.yaml", ["network.width=8", "network.layers=2"])


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs")
def test_compiled_samples_and_bounds_are_those_of_the_plain_network():
    torch.manual_seed(0)
    model = Model(RECIPE)
    model.net.requires_grad_(False)
    wanted = model.sample(24, method="exponential", nfe=6)
    found = model.sample(24, method="exponential", nfe=6, compile=True)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    x, spec = 0.5 * torch.randn(24, 2), replace(RECIPE.eval.elbo, rtol=1e-3, atol=1e-3)
    bounds = [
        likelihood(model.score_of(compiled=compiled), model.sde, spec, SampleNoise(0, first=0, last=24), x).elbo
        for compiled in (False, True)
    ]
    torch.testing.assert_close(bounds[1], bounds[0], rtol=1e-3, atol=1e-3)
    assert isinstance(model.score_of(compiled=True).net, Compiled)


@pytest.mark.parametrize("largest", [1, 3, 24, 2048])
def test_a_shrinking_batch_is_computed_in_few_sizes(largest):
    net = Compiled(torch.nn.Linear(1, 1))
    sizes = {rows: net.padded(rows) for rows in range(largest, 0, -1)}
    assert len(set(sizes.values())) <= SIZES
    assert all(rows <= size <= min(largest, rows + -(-largest // SIZES)) for rows, size in sizes.items())


def test_padding_does_not_reach_the_result():
    seen = []

    class Net(torch.nn.Linear):
        def forward(self, u, t):
            seen.append(len(u))
            return super().forward(u) + t[:, None]

    net = Compiled(Net(2, 2))
    net._call = net.net
    u, t = torch.randn(9, 2), torch.rand(9)
    whole = net(u, t)
    torch.testing.assert_close(net(u[:4], t[:4]), whole[:4])
    assert seen == [9, 6]
