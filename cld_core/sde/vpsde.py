"""The variance-preserving diffusion, the baseline (the paper, appendix; docs/math.md section 3)."""

from dataclasses import dataclass

from torch import Tensor

from cld_core.config.sde import VpsdeSpec
from cld_core.sde.base import Diffusion, Law
from cld_core.sde.coefficients import spread
from cld_core.sde.number import Number, exp, minus_expm1, sqrt
from cld_core.sde.rows import Rows


@dataclass(frozen=True, kw_only=True)
class VPSDE(Diffusion):
    """dx = -beta/2 x dt + sqrt(beta) dw. There is one half: u is x. The two objectives are the same.

    Some overrides exist only to keep the order of operations, and so the last bit of results, unchanged.
    """

    n = 1
    m = 1

    beta0: float = VpsdeSpec.beta0
    beta1: float = VpsdeSpec.beta1
    numerical_eps: float = VpsdeSpec.numerical_eps

    A = ((-0.5,),)
    D = (1.0,)
    precision = (1.0,)
    prior_std = (1.0,)
    initial_std = ()

    def mean(self, t: Number) -> Rows[Number]:
        return ((exp(-0.5 * self.schedule.integral(t)),),)

    def factor(self, t: Number, objective: str = "hsm") -> Rows[Number]:
        return ((sqrt(self.variance(t)),),)

    def variance(self, t: Number) -> Number:
        """Variance of x at t given x at time 0, numerical_eps included."""
        return self._exact(t, 0.0) + self.numerical_eps

    def _exact(self, t: Number, data_var: float) -> Number:
        big_b = self.schedule.integral(t)
        return minus_expm1(big_b) + data_var * exp(-big_b)

    def law(self, t: Number, *, data_var: float) -> Law[Number]:
        variance = self._exact(t, data_var)
        return Law(((),), (1.0 / variance,), variance)

    def mixed(self, t: Number, objective: str = "hsm") -> tuple[Rows[Number], Rows[Number], Rows[Number]]:
        """P is the inverse variance of x for data of variance 1, the same at every t."""
        ((ell,),), variance = self.target(t), self._exact(t, 1.0) + self.numerical_eps
        return ((ell,),), ((1.0 / variance,),), ((1.0 / (ell * variance),),)

    def known_precision(self, t: Number) -> Rows[Number]:
        """0: the whole score is interpolated, as predicted noise, which is what DDIM and DEIS do."""
        return ((0.0 * t,),)

    def flow(self, u: Tensor, score: Tensor, t: float | Tensor) -> Tensor:
        return spread(-0.5 * self.schedule.beta(t), u) * (u + score)

    def euler_step(self, u: Tensor, score: Tensor, t: float, dt: float) -> Tensor:
        c = self.schedule.beta(t) * dt
        return (u * (1.0 + 0.5 * c)).add_(score, alpha=c)

    def flow_divergence(self, score_trace: Tensor, t: Number, dimensions: int) -> Tensor:
        return -0.5 * self.schedule.beta(t) * (dimensions + score_trace)
