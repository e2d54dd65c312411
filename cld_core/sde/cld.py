"""Critically-damped Langevin diffusion (the paper, section 3; docs/math.md section 2)."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cld_core.sde import kernel
from cld_core.sde.coefficients import spread
from cld_core.sde.schedule import Number, Schedule


@dataclass(frozen=True, kw_only=True)
class CLD:
    """The forward process of u = (x, v), and what its reversal needs.

    ``u`` is (B, 2C, ...): x in the first C channels, v in the last. Times are floats, or (B,) float64 tensors.
    """

    beta0: float = 4.0
    beta1: float = 0.0
    m_inv: float = 4.0
    gamma: float = 0.04
    numerical_eps: float = 1e-6

    phase_space = True

    @cached_property
    def schedule(self) -> Schedule:
        return Schedule(beta0=self.beta0, beta1=self.beta1)

    @cached_property
    def mass(self) -> float:
        return 1.0 / self.m_inv

    @cached_property
    def friction(self) -> float:
        """Gamma, for critical damping."""
        return 2.0 * math.sqrt(self.mass)

    def split(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Views (x, v), each (B, C, ...), of u."""
        x, v = u.chunk(2, dim=1)
        return x, v

    def scored(self, u: Tensor) -> Tensor:
        """View of the half of u whose score is learned: v, (B, C, ...)."""
        return self.split(u)[1]

    def transition(self, t: Number) -> kernel.Transition[Number]:
        """Psi(B(t)), the mean map from time 0."""
        return kernel.transition(self.schedule.integral(t), self.m_inv)

    def covariance(self, t: Number, objective: str = "hsm") -> kernel.Covariance[Number]:
        """Sigma_t, numerical_eps included, from Sigma_0 = diag(0, gamma M) for "hsm" and 0 for "dsm"."""
        var_y = self.gamma if objective == "hsm" else 0.0
        return kernel.covariance(self.schedule.integral(t), self.m_inv, var_y=var_y, numerical_eps=self.numerical_eps)

    def law(self, t: Number, *, data_var: float) -> kernel.Covariance[Number]:
        """Exact covariance of (x, v) at t, without numerical_eps, for Gaussian data of variance ``data_var``."""
        return kernel.covariance(self.schedule.integral(t), self.m_inv, var_x=data_var, var_y=self.gamma)

    def ell(self, t: Number, objective: str = "hsm") -> Number:
        """ell_t: the score's regression target is -ell_t times the noise of the scored half."""
        return self.covariance(t, objective).ell

    def score_coefficients(self, t: Number, objective: str) -> tuple[Number, Number]:
        """(ell_t, variance of the mixed score's Gaussian: always that of HSM, numerical_eps included)."""
        hsm = self.covariance(t, "hsm")
        return (hsm if objective == "hsm" else self.covariance(t, objective)).ell, hsm.vv

    def known_precision(self, t: Number) -> Number:
        """p(t) for which -p v is the part of the score that samplers solve exactly: 1 / Svv of HSM."""
        return 1.0 / self.covariance(t).vv

    def diffusion2(self, t: Number) -> Number:
        """Square of the diffusion coefficient of the scored half, 2 Gamma beta(t)."""
        return 2.0 * self.friction * self.schedule.beta(t)

    def drift(self, u: Tensor, t: float | Tensor) -> Tensor:
        """Drift F(t) u of the forward process, shaped as u."""
        x, v = self.split(u)
        beta = spread(self.schedule.beta(t), u)
        return torch.cat([(beta * self.m_inv) * v, -beta * (x + (self.friction * self.m_inv) * v)], dim=1)

    def flow(self, u: Tensor, score: Tensor, t: float | Tensor) -> Tensor:
        """Field du/dt of the probability flow, shaped as u; ``score`` is (B, C, ...)."""
        x, v = self.split(u)
        beta = spread(self.schedule.beta(t), u)
        pull = torch.add(x, torch.add(score, v, alpha=self.m_inv), alpha=self.friction)
        return torch.cat([(beta * self.m_inv) * v, -beta * pull], dim=1)

    def flow_divergence(self, score_trace: Tensor, t: Number, dimensions: int) -> Tensor:
        """Divergence (B,) of the flow, from the trace (B,) of the score's Jacobian or an estimate of it.

        ``dimensions`` is that of x.
        """
        return -self.schedule.beta(t) * self.friction * (self.m_inv * dimensions + score_trace)

    def probe_cross_term(self, probe: Tensor, t: Number) -> Tensor:
        """(B,): what e^T F e adds to the divergence for a probe e (B, 2C, ...) that also has an x half.

        Its mean is zero, so a probe of the v half alone is the better one; the published code's has both.
        """
        probe_x, probe_v = self.split(probe)
        return self.schedule.beta(t) * (self.m_inv - 1.0) * (probe_x * probe_v).flatten(1).sum(1).double()

    def velocity_law(self, t: float) -> tuple[float, float]:
        """v at t given x0, without numerical_eps: (factor of x0 in its mean, variance); (0, gamma M) at t = 0."""
        return self.transition(t).vx, self.law(t, data_var=0.0).vv

    def euler_step(self, u: Tensor, score: Tensor, t: float, dt: float) -> Tensor:
        """Mean of one Euler-Maruyama step of the reverse process from t to t - dt; u is not changed."""
        x, v = self.split(u)
        c = self.schedule.beta(t) * dt
        out = torch.empty_like(u)
        out_x, out_v = self.split(out)
        torch.add(x, v, alpha=-c * self.m_inv, out=out_x)
        torch.add(v, x, alpha=c, out=out_v)
        out_v.add_(v, alpha=c * self.friction * self.m_inv).add_(score, alpha=2.0 * c * self.friction)
        return out

    def prior(self, noise: Tensor) -> Tensor:
        """Draws of the law at t = 1, N(0, I) x N(0, M I), from standard normal ``noise`` shaped as u."""
        x, v = self.split(noise)
        return torch.cat([x, v * math.sqrt(self.mass)], dim=1)

    def prior_logp(self, u: Tensor) -> Tensor:
        """Log-density (B,), float64, nats, of the prior."""
        x, v = (half.flatten(1).double() for half in self.split(u))
        constant = 0.5 * x.shape[1] * (2.0 * math.log(2.0 * math.pi) + math.log(self.mass))
        return -0.5 * (x.square().sum(1) + self.m_inv * v.square().sum(1)) - constant
