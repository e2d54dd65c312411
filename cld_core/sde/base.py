"""The interface of a diffusion: its kernel, its prior, and what its reversal needs (docs/math.md section 2)."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Generic

import torch
from torch import Tensor

from cld_core.sde.coefficients import apply, combine, spread
from cld_core.sde.number import Number
from cld_core.sde.rows import Rows, inverse, matmul, square, transposed
from cld_core.sde.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Law(Generic[Number]):
    """A centred Gaussian law of the n halves, by its conditionals.

    The residual of a half is its difference from its mean given the halves before it:
    r_i = u_i - sum over j < i of slopes[i][j] r_j. It has the precision ``precisions[i]``.
    """

    slopes: Rows[Number]  # strictly lower triangular: row i has i entries
    precisions: tuple[Number, ...]  # (n,)
    det: Number  # of the covariance


@dataclass(frozen=True, slots=True)
class Auxiliary:
    """The Gaussian law of the halves u_1, ..., u_(n-1) at a time t, given x at time 0, without numerical_eps."""

    mean: tuple[float, ...]  # (n - 1,), factors of x
    factor: Rows[float]  # (n - 1, n - 1), lower triangular
    det: float  # of its covariance; 1 if n is 1


@dataclass(frozen=True, kw_only=True)
class Diffusion(ABC):
    """du = beta(t) A u dt + sqrt(beta(t) D) dw for u of n *halves*, of which the last m are *scored*.

    ``u`` is (B, nC, ...): half 0 is the data x in the first C channels, the other halves follow. D is diagonal, and
    non-zero only in the scored halves, whose score s = grad log p_t is what networks learn.

    Times are floats, or (B,) float64 tensors with one time per example. Coefficients have the same form, in float64.
    "objective" is "hsm" (the other halves at time 0 are averaged over) or "dsm" (they are given).

    A new diffusion defines the class variables and the abstract members. It may override others for a better or
    faster form.
    """

    n: ClassVar[int]
    m: ClassVar[int]

    beta0: float
    beta1: float
    numerical_eps: float = 0.0  # added to the diagonal of the kernel's covariance

    @property
    def splittable(self) -> bool:
        """Whether its dynamics can be split, as SSCS needs: whether it defines `reverse`."""
        return type(self).reverse is not Diffusion.reverse

    @cached_property
    def schedule(self) -> Schedule:
        return Schedule(beta0=self.beta0, beta1=self.beta1)

    # Constants of the process.

    @property
    @abstractmethod
    def A(self) -> Rows[float]:
        """(n, n), the drift per unit of beta."""

    @property
    @abstractmethod
    def D(self) -> tuple[float, ...]:
        """(m,), the squared diffusion coefficients of the scored halves per unit of beta."""

    @property
    @abstractmethod
    def precision(self) -> tuple[float, ...]:
        """(n,), inverse variances of the prior."""

    @property
    @abstractmethod
    def prior_std(self) -> tuple[float, ...]:
        """(n,), standard deviations of the prior."""

    @property
    @abstractmethod
    def initial_std(self) -> tuple[float, ...]:
        """(n - 1,), standard deviations of the other halves at time 0, where they are independent of the data."""

    # The kernel, entry by entry.

    @abstractmethod
    def mean(self, t: Number) -> Rows[Number]:
        """Psi(B(t)), (n, n): the mean of u at t is Psi times u at time 0."""

    @abstractmethod
    def factor(self, t: Number, objective: str = "hsm") -> Rows[Number]:
        """L, a factor of the covariance of u at t given the data, numerical_eps included.

        Rows may leave out trailing zeros: they have n entries or fewer. The halves that are not scored come first, in
        a lower triangle; among the scored halves, L may be lower or upper triangular.
        """

    @abstractmethod
    def law(self, t: Number, *, data_var: float) -> Law[Number]:
        """Exact law of u at t for centred Gaussian data of variance ``data_var``, without numerical_eps."""

    @abstractmethod
    def known_precision(self, t: Number) -> Rows[Number]:
        """K, (m, m): -K times the scored halves is the part of the score that samplers solve exactly.

        Choose the precision of the scored halves at t for data of about the right scale (for CLD's v, any scale). With
        0, the whole score is interpolated. K is also the P of ``objective.mixed_score``, unless `mixed` is overridden.
        """

    def target(self, t: Number, objective: str = "hsm") -> Rows[Number]:
        """E, (m, m), triangular: the regression target of the score is -E times the noise of the scored halves.

        The score of the kernel is -L^-T e. L has zeros to the right of the halves that are not scored, L^-T below them:
        E is its lower right block, the inverse transpose of that of L.
        """
        first = self.n - self.m
        block = tuple(row[first:] for row in self.factor(t, objective)[first:])
        return transposed(inverse(square(block)))

    def mixed(self, t: Number, objective: str = "hsm") -> tuple[Rows[Number], Rows[Number], Rows[Number]]:
        """E, P and E^-1 P, each (m, m), of a mixed score s = -E alpha - P u_S; P is K unless this is overridden."""
        target, known = self.target(t, objective), self.known_precision(t)
        return target, known, matmul(inverse(target), known)

    def auxiliary(self, t: float) -> Auxiliary:
        """Law of the halves other than x at time ``t`` > 0, given x at time 0."""
        if self.n == 1:
            return Auxiliary((), (), 1.0)
        law = self.law(t, data_var=0.0)
        unit = torch.eye(self.n, dtype=torch.float64)
        for i, row in enumerate(law.slopes):
            unit[i, :i] = torch.tensor(row, dtype=torch.float64)
        scaled = unit / torch.tensor(law.precisions, dtype=torch.float64).sqrt()
        factor = torch.linalg.cholesky((scaled @ scaled.T)[1:, 1:])
        rows = tuple(tuple(row[: i + 1]) for i, row in enumerate(factor.tolist()))
        det = math.prod(row[-1] ** 2 for row in rows)
        return Auxiliary(tuple(row[0] for row in self.mean(t)[1:]), rows, det)

    def reverse(self, big_d: float) -> tuple[Rows[float], Rows[float]]:
        """Mean map (n, n) and lower triangular noise factor of the reverse process whose score is the prior's.

        ``big_d`` is the increment of B over which the process runs back. Diffusions that are not splittable lack it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no reverse process in closed form")

    def diffusion2(self, t: Number) -> tuple[Number, ...]:
        """(m,), squares of the diffusion coefficients at t, beta(t) D."""
        beta = self.schedule.beta(t)
        return tuple(d * beta for d in self.D)

    @property
    def trace_weights(self) -> tuple[float, ...]:
        """(m,), D / D[-1]: weights of the scored halves in the trace that `flow_divergence` takes."""
        return tuple(d / self.D[-1] for d in self.D)

    # Tensors.

    def halves(self, u: Tensor) -> tuple[Tensor, ...]:
        """The n halves of u, views, each (B, C, ...)."""
        return u.chunk(self.n, dim=1)

    def scored(self, u: Tensor) -> Tensor:
        """The scored halves of u, a view, (B, mC, ...)."""
        channels = u.shape[1] // self.n
        return u.narrow(1, (self.n - self.m) * channels, self.m * channels)

    def scored_halves(self, s: Tensor) -> tuple[Tensor, ...]:
        """The m parts of ``s`` (B, mC, ...), views, each (B, C, ...)."""
        return s.chunk(self.m, dim=1)

    def flow(self, u: Tensor, score: Tensor, t: float | Tensor) -> Tensor:
        """Field du/dt of the probability flow, shaped as u; ``score`` is (B, mC, ...)."""
        return self._with_score(u, score, t, 0.5)

    def euler_step(self, u: Tensor, score: Tensor, t: float, dt: float) -> Tensor:
        """Mean of one Euler-Maruyama step of the reverse process from t to t - dt; u is not changed."""
        return u - dt * self._with_score(u, score, t, 1.0)

    def forward(self, u: Tensor, noise: Tensor, start: float, end: float) -> Tensor:
        """A draw of the forward process at ``end`` given u at ``start`` < ``end``; noise is normal, both (B, nC, ...).

        The process depends on t only through B(t), so this is the kernel with Sigma_0 = 0 at another time.
        """
        t = self.schedule.time(self.schedule.between(start, end))
        return apply(square(self.mean(t)), u) + apply(square(self.factor(t, "dsm")), noise)

    def _with_score(self, u: Tensor, score: Tensor, t: float | Tensor, strength: float) -> Tensor:
        """beta A u, minus ``strength`` times beta D score in the scored halves."""
        beta = spread(self.schedule.beta(t), u)
        halves = self.halves(u)
        rates = [combine(row, halves) for row in self.A]
        for i, (d, s) in enumerate(zip(self.D, self.scored_halves(score), strict=True), start=self.n - self.m):
            rates[i] = rates[i] - (strength * d) * s
        return torch.cat([beta * rate for rate in rates], dim=1)

    def flow_divergence(self, score_trace: Tensor, t: Number, dimensions: int) -> Tensor:
        """Divergence (B,) of the flow, from the weighted trace (B,) of the score's Jacobian or an estimate of it.

        The trace is the sum over the scored halves i of trace_weights[i] tr(ds_i/du_i). ``dimensions`` is that of x.
        """
        trace_of_a = sum(row[i] for i, row in enumerate(self.A))
        return self.schedule.beta(t) * (trace_of_a * dimensions - 0.5 * self.D[-1] * score_trace)

    def probe_cross_term(self, probe: Tensor, t: Number) -> Tensor:
        """(B,): the drift's contribution e^T beta A e to the divergence for a probe e (B, nC, ...) of all halves.

        Its mean over probes comes from the diagonal of A, which `flow_divergence` computes exactly and which is left
        out here. The remainder has mean zero, so it is better to probe the scored halves alone; the published code
        probes all of them.
        """
        parts = self.halves(probe)
        total = torch.zeros(len(probe), dtype=torch.float64, device=probe.device)
        for i in range(self.n):
            for j in range(i):
                rate = self.schedule.beta(t) * (self.A[j][i] + self.A[i][j])
                total = total + rate * (parts[j] * parts[i]).flatten(1).sum(1).double()
        return total

    def prior(self, noise: Tensor) -> Tensor:
        """Draws of the law at t = 1 from standard normal ``noise`` shaped as u."""
        return torch.cat([half * std for half, std in zip(self.halves(noise), self.prior_std, strict=True)], dim=1)

    def prior_logp(self, u: Tensor) -> Tensor:
        """Log-density (B,), float64, nats, of the prior."""
        halves = [half.flatten(1).double() for half in self.halves(u)]
        square = combine(self.precision, [half.square().sum(1) for half in halves])
        log_det = -math.log(math.prod(self.precision))
        return -0.5 * (square + halves[0].shape[1] * (self.n * math.log(2.0 * math.pi) + log_det))
