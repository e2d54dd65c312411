"""Exact law of a sampler's output when the score is linear: no sampling, the sampler itself run on unit vectors."""

from typing import Any

import torch
from torch import Tensor

from cld_core.analytic import gaussian
from cld_core.recipe.sampling_spec import SamplingSpec
from cld_core.sampling import sample


class UnitNoise:
    """Row r is zero but for the r-th of all numbers that the sampler asks for, which is 1.

    The rows of the output are then the columns of the affine map from all its noise, and their Gram matrix the
    covariance. ``width`` is the numbers a step, ``first`` those of the prior.
    """

    def __init__(self, *, first: int, steps: int, width: int) -> None:
        self.first, self.steps, self.width = first, steps, width
        self.rows = first + steps * width
        self._calls = 0

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        self._calls += 1
        if self._calls == 1:
            return torch.eye(self.rows, dtype=torch.float64)[:, : self.first].reshape(self.rows, *shape)
        assert self._calls == 2, "the steps of this test fit into one block of noise"
        assert shape[0] == self.steps, f"{self.steps} steps do not fit into a block of {shape}"
        block = torch.zeros(self.rows, self.steps * self.width, dtype=torch.float64)
        block[self.first :] = torch.eye(self.steps * self.width, dtype=torch.float64)
        return block.reshape(self.rows, *shape)


def output_covariance(sde: Any, spec: SamplingSpec, std: float = 0.5) -> Tensor:
    """Covariance (2, 2), or (1, 1), of (x, v) of samples for data N(0, std^2)."""
    width = {"em": 1, "sscs": 2, "ode": 0, "exponential": (2 if sde.phase_space else 1) if spec.eta else 0}[spec.method]
    steps = 0 if spec.method == "ode" else spec.nfe - int(spec.denoise)
    steps += spec.method == "sscs"  # its steps have noise between them, before and behind
    noise = UnitNoise(first=2 if sde.phase_space else 1, steps=steps, width=width)
    out = sample(gaussian(std, d=1).score(sde), sde, spec, noise, (1,))
    columns = out.x if out.v is None else torch.cat([out.x, out.v], dim=1)
    return columns.T @ columns
