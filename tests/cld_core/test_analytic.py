import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from cld_core.analytic import GaussianMixture, gaussian
from cld_core.sde import CLD, VPSDE
from tests.support.numeric import MIXTURE, seeded

SDES = (CLD(), CLD(beta0=0.1, beta1=6.9), VPSDE())


@pytest.mark.parametrize("sde", SDES)
def test_law_is_that_of_the_forward_process(sde):
    """Log-density at t against a plain mixture of normals with the kernel's mean and covariance."""
    generator = seeded()
    x = MIXTURE.sample(6, generator).double()
    v = 0.1 * torch.randn(6, 2, generator=generator, dtype=torch.float64)
    u = torch.cat([x, v], dim=1) if sde.n == 2 else x
    for t in (1e-3, 0.3, 1.0):
        densities = []
        for mean, weight in zip(MIXTURE.means, MIXTURE.weights, strict=True):
            # With Sigma = L L^T of the kernel, the data's variance adds a term along the first
            # column of Psi.
            bare = replace(sde, numerical_eps=0.0)
            psi, factor = bare.mean(t), bare.factor(t)
            covariance = factor @ factor.T + 0.09 * torch.outer(psi[:, 0], psi[:, 0])
            location, covariance = (
                torch.kron(psi[:, 0], mean),
                torch.kron(covariance, torch.eye(2).double()),
            )
            normal = torch.distributions.MultivariateNormal(location, covariance)
            densities.append(normal.log_prob(u) + weight.log())
        expected = torch.logsumexp(torch.stack(densities), 0)
        assert_close(MIXTURE.score(sde).log_density(u, t), expected, rtol=1e-5, atol=1e-5)


def test_entropy_by_quadrature():
    for std in (0.5, 0.04):
        assert gaussian(std).entropy() == pytest.approx(
            math.log(2 * math.pi * math.e * std**2), abs=1e-10
        )
    # Two components so close that no closed form helps: twice the nodes give the same.
    law = GaussianMixture(torch.tensor([[0.0, 0.0], [0.1, 0.05]]), 0.05)
    assert law.entropy() == pytest.approx(law.entropy(per_std=8.0), abs=1e-9)
