"""Exact law of a sampler's output for a linear score, from the sampler run on unit vectors."""

import functools
import math
from itertools import pairwise

import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from cld_core.analytic import gaussian
from cld_core.config.registry import SECTIONS
from cld_core.config.sampling import SplittingSpec
from cld_core.samplers import sample
from cld_core.samplers.splitting import evaluating


class UnitNoise:
    """Row r is zero except for the r-th of all numbers that the sampler draws, which is 1.

    The rows of the output are then the columns of the affine map from all its noise, and their Gram
    matrix the covariance. ``width`` is the number of draws per step, ``first`` that of the prior.
    """

    def __init__(self, *, first, steps, width):
        self.first = first
        self.steps = steps
        self.width = width
        self.rows = first + steps * width
        self._calls = 0

    def normal(self, shape):
        self._calls += 1
        if self._calls == 1:
            return torch.eye(self.rows, dtype=torch.float64)[:, : self.first].reshape(
                self.rows, *shape
            )
        assert self._calls == 2, "the steps of this test fit into one block of noise"
        assert shape[0] == self.steps, f"{self.steps} steps do not fit into a block of {shape}"
        block = torch.zeros(self.rows, self.steps * self.width, dtype=torch.float64)
        block[self.first :] = torch.eye(self.steps * self.width, dtype=torch.float64)
        return block.reshape(self.rows, *shape)


@functools.cache
def linear_score(sde, std):
    """The exact score (B, m) of data N(0, std^2) at u (B, n): the matrix of a time is that of all
    unit vectors.

    The grids of a test, and of the tests of a process, have many times in common.
    """
    exact = gaussian(std, d=1).score(sde)
    unit = torch.eye(sde.n, dtype=torch.float64)

    @functools.cache
    def matrix(t):
        return exact(unit, t)

    return lambda u, t: exact(u, t) if isinstance(t, Tensor) else u @ matrix(t)


def flow_covariance(sde, eps=1e-3, std=0.5):
    """Covariance (n, n) at the end of the probability flow for data N(0, std^2), by scipy."""
    score = linear_score(sde, std)
    start = sde.prior(torch.eye(sde.n, dtype=torch.float64))

    def field(t, flat):
        u = torch.from_numpy(flat).view_as(start)
        return sde.flow(u, score(u, t), t).flatten().numpy()

    flat = start.flatten().numpy()
    solution = solve_ivp(field, (1.0, eps), flat, method="DOP853", rtol=1e-10, atol=1e-11)
    columns = torch.from_numpy(solution.y[:, -1].copy()).view_as(start)
    return columns.T @ columns


def output_covariance(sde, spec, std=0.5):
    """Covariance (n, n) of the halves of samples for data N(0, std^2)."""
    width, steps = _drawn(sde, spec)
    noise = UnitNoise(first=sde.n, steps=steps, width=width)
    out = sample(linear_score(sde, std), sde, spec, noise, (1,))
    columns = out.x if out.v is None else torch.cat([out.x, out.v], dim=1)
    return columns.T @ columns


def convergence(sde, specs, std=0.5):
    """The covariances of specs with ever more steps, and the orders in which their differences
    fall."""
    found = [output_covariance(sde, spec, std) for spec in specs]
    differences = [float((a - b).abs().max()) for a, b in pairwise(found)]
    return found, [math.log2(coarse / fine) for coarse, fine in pairwise(differences)]


def _drawn(sde, spec):
    """Numbers that a sampler draws at once, and how often."""
    if isinstance(spec, SplittingSpec):
        per_step = sum(evaluating(sde, spec))
        return (
            (sde.m, (spec.nfe - int(spec.denoise)) // per_step)
            if spec.scheme in spec.stochastic
            else (0, 0)
        )
    width = {"em": sde.m, "sscs": sde.n}.get(spec.method, sde.n if getattr(spec, "eta", 0.0) else 0)
    steps = getattr(spec, "nfe", 0) - int(spec.denoise) if width else 0
    # SSCS has noise between its steps, before the first and after the last.
    return width, steps + (spec.method == "sscs")


def spec_of(method, **keys):
    """The spec of a sampler by the name of its method, for tests that run over several."""
    return SECTIONS["sampling"].find(method).spec(**keys)
