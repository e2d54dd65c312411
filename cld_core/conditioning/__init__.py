"""Samples given a linear observation of x, y = H x + sigma z, with the same network.

A `Way` conditions a score on y: `GradientGuidance` or `Replacement` (docs/math.md section 14).
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from cld_core.conditioning.observation import Observation
from cld_core.config.registry import require_fixed_steps
from cld_core.config.sampling import SamplingSpec
from cld_core.data.format import DataFormat
from cld_core.errors import UsageError
from cld_core.samplers import Noise
from cld_core.score import ScoreFunction, for_rows
from cld_core.sde import Diffusion
from cld_core.sde.estimate import Estimate, estimate
from cld_core.sde.matrices import apply, as_batch, combined, spread

__all__ = ["GradientGuidance", "GradientGuided", "Observation", "Replaced", "Replacement", "Way"]

# Up to this number of observed values, "auto" means "jacobian", which takes a backward pass for
# each.
MOST_BACKWARD = 8
# Variances that are a smaller fraction of the isotropic one are replaced by it.
_LEAST_SHARE = 1e-2


def _require_untuned(spec: SamplingSpec) -> None:
    """Raise UsageError if the sampler was fitted to the flow without an observation."""
    if spec.needs_solution:
        raise UsageError(
            f"sampling.method={spec.method} was fitted to the network's flow without an "
            f"observation. Choose another method, for example exponential."
        )


@dataclass(frozen=True, kw_only=True)
class GradientGuidance:
    """Settings of conditioning by gradient (docs/math.md section 14.2).

    The gradient of log N(y; H x_hat, H C H^T + sigma^2 I) is added to the score, where x_hat =
    E[x_0 | u_t] and C stands for the covariance of x_0 given u_t. This is diffusion posterior
    sampling (arXiv 2209.14687) in the form of pseudo-inverse guidance (Song et al., ICLR 2023), in
    phase space. On Gaussian data it is exact. Every evaluation also takes backward passes through
    the network.

    Attributes:
        scale: factor of the gradient; 1 is Bayes' rule.
        covariance: C. "jacobian": the covariance of x_0 given u_t, from the derivative of x_hat,
            which takes one backward pass for each observed value. "isotropic": r_t^2 I, the
            covariance for data N(0, data_std^2 I), with one backward pass. "auto": "jacobian" for
            up to 8 observed values.
        data_std: standard deviation of the data, in the units of x, for "isotropic" and
            `score_error`; of features or channels, the root mean square. None: 1 in the units of
            the model.
        score_error: root-mean-square error of the noise that the network predicts (docs/math.md
            section 14.1). With 0, x_hat trusts the score completely. Only exact scores allow that:
            for t near 1, errors are multiplied by 400.
    """

    scale: float = 1.0
    covariance: Literal["auto", "jacobian", "isotropic"] = "auto"
    data_std: float | None = None
    score_error: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.scale <= 1e4:
            raise UsageError(
                f"gradient scale {self.scale:g}: expected a number from 0 to 10,000; 1 is Bayes' "
                f"rule."
            )
        if not 0 <= self.score_error < float("inf"):
            raise UsageError(f"score_error={self.score_error:g}: expected a number of 0 or more.")
        if self.data_std is not None and not 0 < self.data_std < float("inf"):
            raise UsageError(f"data_std={self.data_std:g}: expected a standard deviation above 0.")
        if self.covariance not in ("auto", "jacobian", "isotropic"):
            raise UsageError(
                f"covariance={self.covariance!r}: expected auto, jacobian or isotropic."
            )

    def of_model(self, form: DataFormat) -> Self:
        """The same settings for z, which the model sees in place of x = S z + shift."""
        if self.data_std is None or not form.scale:
            return self
        scale = math.hypot(*form.scale) / math.sqrt(len(form.scale))
        return replace(self, data_std=self.data_std / scale)

    def uses_jacobian(self, observation: Observation) -> bool:
        """Whether the covariance is "jacobian", with "auto" resolved."""
        if self.covariance == "auto":
            return observation.count <= MOST_BACKWARD
        return self.covariance == "jacobian"

    def require_usable(self, observation: Observation, spec: SamplingSpec) -> None:
        """Check that the sampler can be guided.

        Raises:
            UsageError: the sampler is tuned, or the network is compiled and would be differentiated
                several times.
        """
        _require_untuned(spec)
        if spec.compile and self.uses_jacobian(observation) and observation.count > 1:
            raise UsageError(
                "a compiled network can be differentiated once only, and the covariance takes "
                "several passes. Sample with sampling.compile=false, or with "
                "covariance='isotropic'."
            )

    def conditioned(
        self, score: ScoreFunction, sde: Diffusion, observation: Observation, noise: Noise
    ) -> "GradientGuided":
        """The score given y; ``noise`` is not used."""
        return GradientGuided(score, sde, observation, self)


class GradientGuided:
    """A score plus the gradient of an observation's likelihood."""

    def __init__(
        self,
        score: ScoreFunction,
        sde: Diffusion,
        observation: Observation,
        guidance: GradientGuidance,
    ) -> None:
        self._score = score
        self.sde = sde
        self.observation = observation
        self.guidance = guidance
        self._gradient = (
            self._by_jacobian if guidance.uses_jacobian(observation) else self._isotropic
        )

    def __call__(self, u: Tensor, t: float | Tensor) -> Tensor:
        """The score (B, mC, ...) given y at u (B, nC, ...); t is a float or a (B,) float64
        tensor."""
        times = as_batch(t, len(u), u.device, torch.float64)
        data_std = self.guidance.data_std or 1.0
        posterior = estimate(
            self.sde, times, score_error=self.guidance.score_error, data_std=data_std
        )
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            score = self._score(leaf, t)
            x = posterior.posterior_mean(self.sde, leaf, score)
            observed = self.observation.apply(x)
        residual = self.observation.y.to(u.device) - observed.detach().double()
        gradient = self._gradient(posterior, leaf, observed, residual)
        return torch.add(score.detach(), gradient.to(u.dtype), alpha=self.guidance.scale)

    def for_rows(self, rows: Tensor) -> "GradientGuided":
        """The guided score for the examples ``rows`` of a batch, see `cld_core.score.for_rows`."""
        part = for_rows(self._score, rows)
        if part is self._score:
            return self
        return GradientGuided(part, self.sde, self.observation, self.guidance)

    def _isotropic(
        self, posterior: Estimate, leaf: Tensor, observed: Tensor, residual: Tensor
    ) -> Tensor:
        """The gradient (B, mC, ...) with C = r_t^2 I, by one backward pass."""
        weights = self._solved(posterior.variance[:, None], residual)
        (gradient,) = torch.autograd.grad(observed, leaf, weights.to(observed.dtype))
        return self.sde.scored(gradient)

    def _solved(self, variance: Tensor, residual: Tensor) -> Tensor:
        """(variance H H^T + sigma^2 I)^-1 residual, (B, k), for a variance (B, 1)."""
        noise = self.observation.sigma**2
        gram = self.observation.gram
        if not isinstance(gram, Tensor):
            return residual / (variance * gram + noise)
        values, vectors = torch.linalg.eigh(gram.to(residual.device))
        scale = variance * values.clamp(min=0.0) + noise
        return ((residual @ vectors) / scale) @ vectors.T

    def _by_jacobian(
        self, posterior: Estimate, leaf: Tensor, observed: Tensor, residual: Tensor
    ) -> Tensor:
        """The gradient (B, mC, ...) with C from the derivative of x_hat, by k backward passes."""
        rows, variances, axes = self._principal(posterior, leaf, observed)
        along = torch.einsum("bjk,bk->bj", axes, residual)
        weights = along / (variances + self.observation.sigma**2)
        gradient = torch.einsum("bj,bj...->b...", weights, rows)
        return apply(posterior.pull[:, :, None], gradient)

    def _principal(
        self, posterior: Estimate, leaf: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """H C (B, k, C, ...) and H C H^T (B, k), in the axes in which the latter is diagonal, and
        the axes (B, k, k).

        The error of a network can make the variance along an axis negative or tiny. There, both are
        replaced by those of the isotropic covariance.
        """
        observation = self.observation
        batch, count = observed.shape
        rows = self._rows_of_covariance(posterior, leaf, observed)
        projected = observation.apply(rows.flatten(0, 1)).view(batch, count, count)
        variances, vectors = torch.linalg.eigh(0.5 * (projected + projected.mT))
        axes = vectors.mT
        rows = torch.einsum("bjk,bk...->bj...", axes, rows)
        plain = observation.transpose(axes.flatten(0, 1)).view_as(rows)
        plain = spread(posterior.variance, plain) * plain
        plain_projected = observation.apply(plain.flatten(0, 1)).view(batch, count, count)
        plain_variances = (plain_projected * axes).sum(2)
        doubtful = variances < _LEAST_SHARE * plain_variances
        rows = torch.where(doubtful.view(batch, count, *[1] * (rows.ndim - 2)), plain, rows)
        return rows, torch.where(doubtful, plain_variances, variances), axes

    def _rows_of_covariance(self, posterior: Estimate, leaf: Tensor, observed: Tensor) -> Tensor:
        """H C, (B, k, C, ...), float64: the derivative of H x_hat by scored half i is c_i H C."""
        rows = []
        for unit in torch.eye(observed.shape[1], dtype=observed.dtype, device=observed.device):
            direction = unit.expand_as(observed)
            (gradient,) = torch.autograd.grad(observed, leaf, direction, retain_graph=True)
            rows.append(self.sde.scored(gradient))
        jacobian = torch.stack(rows, dim=1).double()
        shares = posterior.pull / posterior.pull.square().sum(1, keepdim=True)
        return torch.einsum("bm,bkm...->bk...", shares, jacobian.unflatten(2, (self.sde.m, -1)))


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """Settings of conditioning by replacement, for observations through a mask (docs/math.md
    section 14.3).

    At every evaluation of the network, the observed coordinates of u are replaced by a draw of the
    kernel given the observed x, in all halves jointly (Song et al. 2021, arXiv 2011.13456, section
    5, in phase space). This is an approximation: the network sees a noisy version of the observed
    values.

    Attributes:
        renew: draw new noise for the observed coordinates at every evaluation. Otherwise each
            sample keeps its noise, and samplers without noise follow a smooth flow.
    """

    renew: bool = True

    def of_model(self, form: DataFormat) -> Self:
        """These settings, unchanged, because none of them has a unit."""
        return self

    def require_usable(self, observation: Observation, spec: SamplingSpec) -> None:
        """Check that observation and sampler suit replacement.

        Raises:
            UsageError: the observed values are not numbers of x, or the sampler is tuned or chooses
                its own steps.
        """
        _require_untuned(spec)
        if observation.mask is None:
            raise UsageError(
                "replacement needs numbers of x as they are, and H is another map. Condition by "
                "gradient, or pass a mask."
            )
        require_fixed_steps(spec)

    def conditioned(
        self, score: ScoreFunction, sde: Diffusion, observation: Observation, noise: Noise
    ) -> "Replaced":
        """The score given y; ``noise`` is used to draw the replaced coordinates."""
        return Replaced(score, sde, observation, self, noise)


class Replaced:
    """A score whose observed coordinates are replaced, for samplers with fixed steps.

    With noise of std sigma in y, the observed x of a sample is drawn once from N(y, sigma^2).
    """

    def __init__(
        self,
        score: ScoreFunction,
        sde: Diffusion,
        observation: Observation,
        replacement: Replacement,
        noise: Noise,
    ) -> None:
        assert observation.mask is not None, (
            "`Replacement.require_usable` refuses other observations"
        )
        self._score = score
        self.sde = sde
        self._noise = noise
        self._shape = (sde.n * observation.shape[0], *observation.shape[1:])
        self._renew = replacement.renew
        self._e = noise.normal(self._shape)
        self._mask = observation.mask.to(self._e.device)
        y = observation.y.to(self._e)[None] + observation.sigma * noise.normal((observation.count,))
        self._x = observation.transpose(y)

    def __call__(self, u: Tensor, t: float | Tensor) -> Tensor:
        """The score (B, mC, ...), which in observed coordinates is the kernel's; t is a float."""
        if self._renew:
            self._e = self._noise.normal(self._shape).to(u)
        score = self._score(self.replaced(u, t), t)
        own = apply(-self.sde.target(t), self.sde.scored(self._e.to(u)))
        return torch.where(self._wide(self.sde.m), own, score)

    def replaced(self, u: Tensor, t: float | Tensor) -> Tensor:
        """u with Psi_0 x + L e in its observed coordinates."""
        noise = self.sde.halves(self._e.to(u))
        observed = combined(self.sde.perturbation(t), (self._x.to(u), *noise))
        return torch.where(self._wide(self.sde.n), observed, u)

    def _wide(self, halves: int) -> Tensor:
        """The mask over some halves, (halves C, ...)."""
        return torch.cat([self._mask] * halves)

    def finished(self, x: Tensor) -> Tensor:
        """Samples (B, C, ...) with the observed values in their places."""
        return torch.where(self._mask, self._x.to(x), x)


# A way of conditioning samples on an observation.
Way = GradientGuidance | Replacement


def checked(
    observation: Observation | None,
    by: Way | None,
    spec: SamplingSpec,
    form: DataFormat,
    *,
    is_image: bool,
    caller: str,
) -> Callable[..., ScoreFunction] | None:
    """Check the arguments for conditioning, and bind the observation to `Way.conditioned`.

    Args:
        by: the way of conditioning; None: ``GradientGuidance()``.
        form: the form in which the model sees the data.
        caller: the public function, for messages.

    Returns:
        A function of score, diffusion and noise that returns the score given the observation; None
        without an observation.

    Raises:
        UsageError: an argument has another type, the observation is of other data, or it cannot be
            used with ``by`` or the sampler.
    """
    way = by or GradientGuidance()
    if not isinstance(observation, Observation | None) or not isinstance(way, Way):
        raise UsageError(
            f"{caller}: observation or by is of another type. Pass an Observation, and a "
            "GradientGuidance or a Replacement, of cld_core.conditioning."
        )
    if observation is None:
        return None
    observation.require_fit(form.shape, is_image=is_image)
    observation = observation.of_model(form)
    way = way.of_model(form)
    way.require_usable(observation, spec)
    return functools.partial(way.conditioned, observation=observation)
