"""The score of a network, also given labels: network output -> score.

This is the one place where float64 coefficients meet the network's tensors.

docs/math.md section 5: s = -E alpha (plain), or s = -E alpha - P u_S (mixed), with the scored
halves u_S and the coefficients `Diffusion.target` and `Diffusion.mixed`; or s = N f - P z_S with
the network f of z, the scaled u (`preconditioning`, `straight_path`). All are -E times the
*predicted noise* alpha_hat, which is what the losses compare with the noise that was drawn. Section
13: scores given labels, and classifier-free guidance.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cld_core.config.sampling import SamplingSpec
from cld_core.config.train import ObjectiveSpec
from cld_core.sde import Diffusion
from cld_core.sde.matrices import apply, as_batch

# (u: (B, nC, ...), t: a float or (B,) float64) -> (B, mC, ...): any score that samplers can use.
ScoreFunction = Callable[[Tensor, float | Tensor], Tensor]
# The same with labels, (B,), as a third argument: the score given the class of each example.
LabelScore = Callable[[Tensor, float | Tensor, Tensor], Tensor]


class NoiseModel(Protocol):
    """The part of a score that losses use."""

    def predicted_noise(self, u: Tensor, t: Tensor, *, augmented: Tensor | None = None) -> Tensor:
        """(B, mC, ...): the estimate of the noise in the scored halves of u (B, nC, ...) at the
        times t (B,)."""


@dataclass(frozen=True, slots=True)
class Coefficients:
    """The score is output net(z, time) - precision z_S, where z is whiten u.

    Without ``whiten``, z is u; without ``time``, the network is told t. Matrices are (..., k, j),
    as those of `cld_core.sde.Diffusion`.
    """

    output: Tensor  # (m, m)
    precision: Tensor | None = None  # (m, m)
    whiten: Tensor | None = None  # (n, n)
    time: Tensor | None = None  # (...,)

    def each(self, count: int, dtype: torch.dtype) -> list["Coefficients"]:
        """The coefficients at each of ``count`` times, in another type; these are at (count, B)."""
        parts = (self.output, self.precision, self.whiten, self.time)
        columns = [[None] * count if part is None else part.to(dtype).unbind(0) for part in parts]
        return [Coefficients(*entries) for entries in zip(*columns, strict=True)]


def preconditioning(sde: Diffusion, t: float | Tensor, data_std: float) -> Coefficients:
    """Data-variance preconditioning: inputs and outputs scaled as for Gaussian data.

    See docs/math.md section 5.1.

    It generalises that of EDM (Karras et al. 2022, arXiv 2206.00364, section 5 and appendix B.6) to
    any `Diffusion`. If the data had the law N(0, data_std^2 I), u at t would have a covariance
    C = K K^T and a score that is linear in *all* halves: -P z_S, with the scored block P of K^-T.
    The network sees z = K^-1 u, which then has unit covariance, and outputs the rest of the score,
    in units of the standard deviation of x around its linear estimate.

    The coefficients are the same for both objectives: halves other than x have their random initial
    values, as in samples. numerical_eps is included.
    """
    first = sde.unscored
    factor = sde.law(t, data_std=data_std, numerical_eps=sde.numerical_eps)
    identity = torch.eye(sde.n, dtype=torch.float64, device=factor.device)
    whiten = torch.linalg.solve_triangular(factor, identity, upper=False)
    # u contains x with the factor w in units of the noise, so the linear estimate of x has the
    # error variance open_^2.
    _, w = sde.information(t)
    open_ = data_std / (1.0 + data_std**2 * w.square().sum(-2)).sqrt()
    gains = (sde.target(t) @ w[..., first:, :])[..., 0]
    return Coefficients(torch.diag_embed(gains * open_), whiten[..., first:, first:].mT, whiten)


def straight_path(sde: Diffusion, t: float | Tensor) -> Coefficients:
    """Flow matching (Lipman et al. 2023, arXiv 2210.02747; Liu et al. 2023, arXiv 2209.03003).

    The network sees x' = (1 - t') x + t' e, is told t' and outputs the velocity e - x. With the
    noise level sigma of t, t' is sigma / (1 + sigma) and x' is u in other units: see docs/math.md
    section 5.2. The diffusion is one of the data alone, n = 1.
    """
    time = 1.0 - 1.0 / (1.0 + sde.noise_level(t))
    target = sde.target(t)
    # e is x' + (1 - t') (e - x).
    scale = 1.0 / (sde.mean(t) + sde.factor(t))
    return Coefficients(-target * (1.0 - time)[..., None, None], target, scale, time)


def coefficients(sde: Diffusion, objective: ObjectiveSpec, t: Any) -> Coefficients:
    """The coefficients at t, a float or float64 times, for a network trained with an objective."""
    if objective.precondition == "flow":
        return straight_path(sde, t)
    if objective.precondition != "none":
        found = preconditioning(sde, t, objective.data_std)
        # Networks take log t, which is then EDM's log(sigma) / 4.
        is_edm = objective.precondition == "edm"
        return replace(found, time=sde.noise_level(t).pow(0.25)) if is_edm else found
    if not objective.mixed_score:
        return Coefficients(-sde.target(t, objective.kernel))
    target, precision, _ = sde.mixed(t, objective.kernel)
    return Coefficients(-target, precision)


# Cached, because every batch has the same times.
_at_number = functools.lru_cache(maxsize=4096)(coefficients)


class Score:
    """The score of the scored halves (v of CLD, x of VPSDE) by a network.

    ``net`` maps u and t, (B,), to (B, mC, ...). The result has the type of u, whatever the network
    computes in. A network of labelled data takes labels, (B,), int64, as well; without them, the
    score is the unconditional one.

    Attributes:
        single_backward: a result may be differentiated once only, because the network is compiled.
    """

    def __init__(self, sde: Diffusion, objective: ObjectiveSpec, net: nn.Module) -> None:
        self.sde = sde
        self.objective = objective
        self.net = net
        self.single_backward = any(
            getattr(module, "single_backward", False) for module in net.modules()
        )
        self._weight = next(net.parameters(), None)

    def __call__(self, u: Tensor, t: float | Tensor, *label: Tensor) -> Tensor:
        """The score (B, mC, ...) at u (B, nC, ...); t is a float or a (B,) float64 tensor."""
        return self._score(u, t, self._coefficients(t), *label)

    def at(self, times: Tensor, dtype: torch.dtype) -> list[Callable[[Tensor], Tensor]]:
        """The score at each of ``times`` (k, B), float64, as a function of u of type ``dtype``.

        It is what `__call__` computes; the coefficients for all times are computed together.
        """
        each_time = self._coefficients(times).each(len(times), dtype)
        stages = zip(times.to(self._dtype(dtype)), each_time, strict=True)
        return [functools.partial(self._score, t=t, factors=each) for t, each in stages]

    def _coefficients(self, t: float | Tensor) -> Coefficients:
        find = coefficients if isinstance(t, Tensor) else _at_number
        return find(self.sde, self.objective, t)

    def _score(
        self,
        u: Tensor,
        t: float | Tensor,
        factors: Coefficients,
        *label: Tensor,
        augmented: Tensor | None = None,
    ) -> Tensor:
        z = u if factors.whiten is None else apply(factors.whiten, u)
        time = t if factors.time is None else factors.time
        score = apply(factors.output, self._network(z, time, *label, augmented=augmented))
        if factors.precision is None:
            return score
        return torch.sub(score, apply(factors.precision, self.sde.scored(z)))

    def _network(
        self, u: Tensor, t: float | Tensor, *label: Tensor, augmented: Tensor | None = None
    ) -> Tensor:
        dtype = self._dtype(u.dtype)
        more = {} if augmented is None else {"augmented": augmented}
        times = as_batch(t, len(u), u.device, dtype)
        return self.net(u.to(dtype), times, *label, **more).to(u.dtype)

    def _dtype(self, otherwise: torch.dtype) -> torch.dtype:
        """The type in which the network computes."""
        return otherwise if self._weight is None else self._weight.dtype

    def predicted_noise(
        self, u: Tensor, t: Tensor, *label: Tensor, augmented: Tensor | None = None
    ) -> Tensor:
        """-E^-1 s, (B, mC, ...): the network's estimate of the noise in the scored halves of u.

        Args:
            augmented: how the images were changed, see `Draws.augmented`; None: they were not.
        """
        kernel = self.objective.kernel
        if self.objective.precondition != "none":
            factors = self._coefficients(t)
            assert factors.precision is not None, "preconditioning has a linear part"
            # The score times -E^-1.
            unscale = -self.sde.inverse_target(t, kernel)
            scaled = replace(
                factors,
                output=unscale @ factors.output,
                precision=unscale @ factors.precision,
            )
            return self._score(u, t, scaled, *label, augmented=augmented)
        alpha = self._network(u, t, *label, augmented=augmented)
        if not self.objective.mixed_score:
            return alpha
        *_, shift = self.sde.mixed(t, kernel)
        return alpha + apply(shift, self.sde.scored(u))


def for_rows(score: ScoreFunction, rows: Tensor) -> ScoreFunction:
    """The score for the examples ``rows`` (b,) of a batch, as a function of their u (b, nC, ...).

    It is ``score`` itself, unless that is bound to examples, as a `Conditional` is.
    """
    select = getattr(score, "for_rows", None)
    return score if select is None else select(rows)


def at_each(
    score: ScoreFunction, times: Tensor, dtype: torch.dtype
) -> list[Callable[[Tensor], Tensor]]:
    """`Score.at`, for any ``score``."""
    together = getattr(score, "at", None)
    if together is not None:
        return together(times, dtype)
    return [functools.partial(lambda t, u: score(u, t), t) for t in times]


class Conditional:
    """A `ScoreFunction`: the score given a label for each example of a batch.

    Args:
        score: the score of any labels, such as `Score`.
        label: (B,), int64.
    """

    def __init__(self, score: LabelScore, label: Tensor) -> None:
        self._score = score
        self._label = label
        self.single_backward = getattr(score, "single_backward", False)

    def __call__(self, u: Tensor, t: float | Tensor) -> Tensor:
        return self._score(u, t, self._label)

    def predicted_noise(self, u: Tensor, t: Tensor, *, augmented: Tensor | None = None) -> Tensor:
        """The noise that `Score.predicted_noise` returns for these labels."""
        assert isinstance(self._score, Score), "losses are those of a network, not of any score"
        return self._score.predicted_noise(u, t, self._label, augmented=augmented)

    def for_rows(self, rows: Tensor) -> "Conditional":
        """The score of some examples of the batch, see the function `for_rows`."""
        return Conditional(self._score, self._label[rows])


class Guided:
    """s(none) + w (s(label) - s(none)) at the times of guidance, and s(label) at the others.

    At these times, both scores are computed in one batch of twice the size. The score jumps at the
    ends of the interval, so the adaptive solver takes short steps there.

    Args:
        score: the score of any labels.
        label: (B,), int64.
        none: the label that stands for none, which gives the unconditional score.
        spec: its ``guidance`` is w, which acts from ``guidance_from`` to ``guidance_to``.

    Attributes:
        extra: (B,), int64, evaluations of the network beyond one for each evaluation of this score.
    """

    def __init__(self, score: LabelScore, label: Tensor, none: int, spec: SamplingSpec) -> None:
        self._score = score
        self._label = label
        self._none = none
        self._spec = spec
        self._rows = torch.arange(len(label), device=label.device)
        self.extra = torch.zeros_like(label)

    def __call__(self, u: Tensor, t: float | Tensor) -> Tensor:
        rows = self._acting(t)
        if self._spec.guidance == 0:
            return self._score(u, t, self._label.index_fill(0, rows, self._none))
        times = torch.cat([t, t[rows]]) if isinstance(t, Tensor) else t
        label = torch.cat([self._label, torch.full_like(rows, self._none)])
        both = self._score(torch.cat([u, u[rows]]), times, label)
        given, free = both.split([len(u), len(rows)])
        self.extra[self._rows[rows]] += 1
        return given.index_copy(0, rows, free + self._spec.guidance * (given[rows] - free))

    def networks(self, t: float) -> int:
        """The number of network evaluations that one evaluation of this score takes at time t."""
        acts = self._spec.guidance_from <= t <= self._spec.guidance_to
        return 2 if acts and self._spec.guidance != 0 else 1

    def for_rows(self, rows: Tensor) -> "Guided":
        """The score of some examples of the batch; it counts in this score's `extra`."""
        part = Guided(self._score, self._label[rows], self._none, self._spec)
        part._rows = self._rows[rows]
        part.extra = self.extra
        return part

    def _acting(self, t: float | Tensor) -> Tensor:
        """The rows of the batch whose times are in the interval of guidance."""
        first = self._spec.guidance_from
        last = self._spec.guidance_to
        if isinstance(t, Tensor):
            return ((t >= first) & (t <= last)).nonzero()[:, 0]
        count = len(self._label) if first <= t <= last else 0
        return torch.arange(count, device=self._label.device)


def labelled(score: Score, spec: SamplingSpec, label: Tensor | None, none: int) -> ScoreFunction:
    """The score for samples with labels (B,); ``score`` itself if they have none.

    Args:
        none: the label that stands for none.
    """
    if label is None:
        return score
    if spec.guidance == 1:
        return Conditional(score, label)
    return Guided(score, label, none, spec)
