"""Critically-damped Langevin diffusion (the paper, section 3; docs/math.md section 2)."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cld_core.config.sde import CldSpec
from cld_core.sde import cld_kernel as kernel
from cld_core.sde.base import Auxiliary, Diffusion, Law
from cld_core.sde.coefficients import spread
from cld_core.sde.number import Number, by_numpy
from cld_core.sde.rows import Rows


@dataclass(frozen=True, kw_only=True)
class CLD(Diffusion):
    """The diffusion of u = (x, v), data and velocity; the score of v is learned.

    Some overrides exist only to keep the order of operations, and so the last bit of results, unchanged.
    """

    n = 2
    m = 1

    beta0: float = CldSpec.beta0
    beta1: float = CldSpec.beta1
    m_inv: float = CldSpec.m_inv
    gamma: float = CldSpec.gamma
    numerical_eps: float = CldSpec.numerical_eps

    @cached_property
    def mass(self) -> float:
        return 1.0 / self.m_inv

    @cached_property
    def friction(self) -> float:
        """Gamma, for critical damping."""
        return 2.0 * math.sqrt(self.mass)

    @property
    def A(self) -> Rows[float]:
        return (0.0, self.m_inv), (-1.0, -self.friction * self.m_inv)

    @property
    def D(self) -> tuple[float, ...]:
        return (2.0 * self.friction,)

    @property
    def precision(self) -> tuple[float, ...]:
        return 1.0, self.m_inv

    @property
    def prior_std(self) -> tuple[float, ...]:
        return 1.0, math.sqrt(self.mass)

    @property
    def initial_std(self) -> tuple[float, ...]:
        return (math.sqrt(self.gamma * self.mass),)

    @by_numpy
    def mean(self, t: Number) -> Rows[Number]:
        return kernel.transition(self.schedule.integral(t), self.m_inv)

    def covariance(self, t: Number, objective: str = "hsm") -> kernel.Covariance[Number]:
        """Sigma_t, numerical_eps included, from Sigma_0 = diag(0, gamma M) for "hsm" and 0 for "dsm"."""
        var_y = self.gamma if objective == "hsm" else 0.0
        return kernel.covariance(self.schedule.integral(t), self.m_inv, var_y=var_y, numerical_eps=self.numerical_eps)

    @by_numpy
    def factor(self, t: Number, objective: str = "hsm") -> Rows[Number]:
        return self.covariance(t, objective).cholesky()

    @by_numpy
    def target(self, t: Number, objective: str = "hsm") -> Rows[Number]:
        """((ell_t,),)."""
        return ((self.covariance(t, objective).ell,),)

    @by_numpy
    def mixed(self, t: Number, objective: str = "hsm") -> tuple[Rows[Number], Rows[Number], Rows[Number]]:
        """ell_t, 1 / Svv and 1 / (ell_t Svv); Svv is HSM's for either objective."""
        hsm = self.covariance(t, "hsm")
        ell = (hsm if objective == "hsm" else self.covariance(t, objective)).ell
        return ((ell,),), ((1.0 / hsm.vv,),), ((1.0 / (ell * hsm.vv),),)

    @by_numpy
    def known_precision(self, t: Number) -> Rows[Number]:
        """1 / Svv of HSM."""
        return ((1.0 / self.covariance(t).vv,),)

    def _exact(self, t: Number, data_var: float) -> kernel.Covariance[Number]:
        return kernel.covariance(self.schedule.integral(t), self.m_inv, var_x=data_var, var_y=self.gamma)

    def law(self, t: Number, *, data_var: float) -> Law[Number]:
        return Law(*self._law(t, data_var))

    @by_numpy
    def _law(self, t: Number, data_var: float) -> tuple[Rows[Number], tuple[Number, ...], Number]:
        s = self._exact(t, data_var)
        return ((), (s.xv / s.xx,)), (1.0 / s.xx, s.xx / s.det), s.det

    def auxiliary(self, t: float) -> Auxiliary:
        """N(0, gamma M) at t = 0."""
        variance = self._exact(t, 0.0).vv
        return Auxiliary((self.mean(t)[1][0],), ((math.sqrt(variance),),), variance)

    def reverse(self, big_d: float) -> tuple[Rows[float], Rows[float]]:
        """The forward process with the sign of v changed, so the kernel's off-diagonal entries change sign."""
        (xx, xv), (vx, vv) = kernel.transition(big_d, self.m_inv)
        (l_xx,), (l_vx, l_vv) = kernel.covariance(big_d, self.m_inv).cholesky()
        return ((xx, -xv), (-vx, vv)), ((l_xx,), (-l_vx, l_vv))

    def flow(self, u: Tensor, score: Tensor, t: float | Tensor) -> Tensor:
        x, v = self.halves(u)
        beta = spread(self.schedule.rate(t), u)
        out = torch.empty_like(u)
        out_x, out_v = self.halves(out)
        torch.mul(v, beta * self.m_inv, out=out_x)
        torch.add(score, v, alpha=self.m_inv, out=out_v)
        torch.add(x, out_v, alpha=self.friction, out=out_v).mul_(-beta)
        return out

    def euler_step(self, u: Tensor, score: Tensor, t: float, dt: float) -> Tensor:
        x, v = self.halves(u)
        c = self.schedule.beta(t) * dt
        out = torch.empty_like(u)
        out_x, out_v = self.halves(out)
        torch.add(x, v, alpha=-c * self.m_inv, out=out_x)
        torch.add(v, x, alpha=c, out=out_v)
        out_v.add_(v, alpha=c * self.friction * self.m_inv).add_(score, alpha=2.0 * c * self.friction)
        return out

    def flow_divergence(self, score_trace: Tensor, t: Number, dimensions: int) -> Tensor:
        return -self.schedule.beta(t) * self.friction * (self.m_inv * dimensions + score_trace)

    def prior_logp(self, u: Tensor) -> Tensor:
        x, v = (half.flatten(1).double() for half in self.halves(u))
        constant = 0.5 * x.shape[1] * (2.0 * math.log(2.0 * math.pi) + math.log(self.mass))
        return -0.5 * (x.square().sum(1) + self.m_inv * v.square().sum(1)) - constant
