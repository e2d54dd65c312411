"""Conditioning by gradient (docs/math.md section 11.2).

The score gets the gradient of log N(y; H x_hat, H C H^T + sigma^2 I), where x_hat = E[x_0 | u_t] and C stands for the
covariance of x_0 given u_t: diffusion posterior sampling (arXiv 2209.14687) as pseudo-inverse guidance has it (Song et
al., ICLR 2023), in phase space. On Gaussian data it is exact.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cld_core.errors import UsageError
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion

from .estimate import Estimate, as_numbers
from .observation import Observation

# Up to so many observed values, "auto" means "jacobian", which takes a backward pass for each.
MOST_BACKWARD = 8
# Eigenvalues of an estimated covariance are at least this share of the isotropic one: a network's may be negative.
_LEAST_SHARE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Settings of conditioning by gradient. Every network evaluation also takes backward passes through the network.

    Attributes:
        scale: factor of the gradient; 1 is Bayes' rule.
        covariance: what C is. "jacobian": the covariance of x_0 given u_t, from the derivative of x_hat by one backward
            pass for each observed value. "isotropic": r_t^2 I, which it would be for data N(0, data_std^2 I); one
            backward pass. "auto": "jacobian" for up to 8 observed values.
        data_std: standard deviation of the data that "isotropic" assumes, in the units of x.
    """

    scale: float = 1.0
    covariance: Literal["auto", "jacobian", "isotropic"] = "auto"
    data_std: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.scale <= 1e4:
            raise UsageError(f"guidance scale {self.scale:g}: expected a number from 0 to 10,000; 1 is Bayes' rule.")
        if not 0 < self.data_std < float("inf"):
            raise UsageError(f"data_std={self.data_std:g}: expected a standard deviation above 0.")
        if self.covariance not in ("auto", "jacobian", "isotropic"):
            raise UsageError(f"covariance={self.covariance!r}: expected auto, jacobian or isotropic.")

    def of_jacobian(self, observation: Observation) -> bool:
        count = observation.operator.count
        return self.covariance == "jacobian" or (self.covariance == "auto" and count <= MOST_BACKWARD)


class Guided:
    """A score with the gradient of an observation's likelihood added; callable as ``score`` is."""

    def __init__(self, score: ScoreFunction, sde: Diffusion, observation: Observation, guidance: Guidance) -> None:
        self._score, self.sde, self.observation, self.guidance = score, sde, observation, guidance
        self._pull = self._by_jacobian if guidance.of_jacobian(observation) else self._isotropic

    def __call__(self, u: Tensor, t: float | Tensor) -> Tensor:
        """The score (B, mC, ...) given y at u (B, nC, ...); t is a float or a (B,) float64 tensor."""
        estimate = Estimate(self.sde, t)
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            score = self._score(leaf, t)
            x = estimate.posterior_mean(self.sde, leaf, score)
            observed = self.observation.operator.apply(x)
        pull = self._pull(estimate, leaf, observed)
        return torch.add(score.detach(), pull.to(u.dtype), alpha=self.guidance.scale)

    def _isotropic(self, estimate: Estimate, leaf: Tensor, observed: Tensor) -> Tensor:
        residual = self.observation.y.to(observed.device) - observed.detach().double()
        variance = estimate.isotropic_variance(self.guidance.data_std)
        weights = self._solved(as_numbers(variance, len(leaf), leaf.device)[:, None], residual)
        (gradient,) = torch.autograd.grad(observed, leaf, weights.to(observed.dtype))
        return self.sde.scored(gradient)

    def _solved(self, variance: Tensor, residual: Tensor) -> Tensor:
        """(variance H H^T + sigma^2 I)^-1 residual, (B, k), for a variance (B, 1)."""
        noise, gram = self.observation.sigma**2, self.observation.operator.gram
        if not isinstance(gram, Tensor):
            return residual / (variance * gram + noise)
        values, vectors = torch.linalg.eigh(gram.to(residual.device))
        return ((residual @ vectors) / (variance * values.clamp(min=0.0) + noise)) @ vectors.T

    def _by_jacobian(self, estimate: Estimate, leaf: Tensor, observed: Tensor) -> Tensor:
        operator, batch, count = self.observation.operator, len(leaf), self.observation.operator.count
        units = torch.eye(count, dtype=observed.dtype, device=observed.device)
        rows = [
            self.sde.scored(torch.autograd.grad(observed, leaf, unit.expand(batch, count), retain_graph=True)[0])
            for unit in units
        ]
        jacobian = torch.stack(rows, dim=1)  # (B, k, mC, ...): H times the derivative of x_hat by u_S
        covariance = self._projected(estimate, jacobian)
        values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.mT))
        least = _LEAST_SHARE * as_numbers(estimate.isotropic_variance(self.guidance.data_std), batch, leaf.device)
        gram = operator.gram
        size = float(gram.diagonal().mean()) if isinstance(gram, Tensor) else gram
        total = values.clamp(min=(size * least)[:, None]) + self.observation.sigma**2
        residual = self.observation.y.to(leaf.device) - observed.detach().double()
        weights = vectors @ ((vectors.mT @ residual[:, :, None]) / total[:, :, None])
        return (weights.view(batch, count, *[1] * (leaf.ndim - 1)) * jacobian).sum(1)

    def _projected(self, estimate: Estimate, jacobian: Tensor) -> Tensor:
        """H C H^T, (B, k, k), float64: the derivative of x_hat by scored half i is c_i C."""
        batch, count = jacobian.shape[:2]
        pulls = [as_numbers(c, batch, jacobian.device) for c in estimate.pull]
        square = sum((c.square() for c in pulls[1:]), start=pulls[0].square())
        total = torch.zeros((), dtype=torch.float64, device=jacobian.device)
        for c, part in zip(pulls, jacobian.double().chunk(self.sde.m, dim=2), strict=True):
            total = total + (c / square).view(-1, *[1] * (part.ndim - 1)) * part
        flat = self.observation.operator.apply(total.flatten(0, 1))
        return flat.view(batch, count, count)
