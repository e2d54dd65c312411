"""The variance-preserving diffusion, the baseline (the paper, appendix; docs/math.md section 3)."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cld_core.sde.coefficients import spread
from cld_core.sde.kernel import exp, minus_expm1, sqrt
from cld_core.sde.schedule import Number, Schedule


@dataclass(frozen=True, kw_only=True)
class VPSDE:
    """dx = -beta/2 x dt + sqrt(beta) dw. The same interface as `CLD`; here u is x, (B, C, ...)."""

    beta0: float = 0.1
    beta1: float = 19.9
    numerical_eps: float = 0.0

    phase_space = False

    @cached_property
    def schedule(self) -> Schedule:
        return Schedule(beta0=self.beta0, beta1=self.beta1)

    def scored(self, u: Tensor) -> Tensor:
        return u

    def mean_factor(self, t: Number) -> Number:
        """Factor of x0 in the mean of x at t."""
        return exp(-0.5 * self.schedule.integral(t))

    def variance(self, t: Number) -> Number:
        """Variance of x at t given x0, numerical_eps included."""
        return self.law(t, data_var=0.0) + self.numerical_eps

    def law(self, t: Number, *, data_var: float) -> Number:
        """Exact variance of x at t for Gaussian data of variance ``data_var``."""
        big_b = self.schedule.integral(t)
        return minus_expm1(big_b) + data_var * exp(-big_b)

    def ell(self, t: Number, objective: str = "dsm") -> Number:
        return 1.0 / sqrt(self.variance(t))

    def score_coefficients(self, t: Number, objective: str) -> tuple[Number, Number]:
        """(ell_t, variance of the mixed score's Gaussian: that of data with variance 1, at every t the same)."""
        return self.ell(t), self.law(t, data_var=1.0) + self.numerical_eps

    def known_precision(self, t: Number) -> Number:
        """0: the whole score is interpolated, as predicted noise, which is what DDIM and DEIS do."""
        return 0.0 * t

    def diffusion2(self, t: Number) -> Number:
        return self.schedule.beta(t)

    def drift(self, u: Tensor, t: float | Tensor) -> Tensor:
        return spread(-0.5 * self.schedule.beta(t), u) * u

    def flow(self, u: Tensor, score: Tensor, t: float | Tensor) -> Tensor:
        return spread(-0.5 * self.schedule.beta(t), u) * (u + score)

    def flow_divergence(self, score_trace: Tensor, t: Number, dimensions: int) -> Tensor:
        return -0.5 * self.schedule.beta(t) * (dimensions + score_trace)

    def euler_step(self, u: Tensor, score: Tensor, t: float, dt: float) -> Tensor:
        c = self.schedule.beta(t) * dt
        return (u * (1.0 + 0.5 * c)).add_(score, alpha=c)

    def prior(self, noise: Tensor) -> Tensor:
        return noise.clone()

    def prior_logp(self, u: Tensor) -> Tensor:
        flat = u.flatten(1).to(torch.float64)
        return -0.5 * (flat.square().sum(1) + flat.shape[1] * math.log(2.0 * math.pi))
