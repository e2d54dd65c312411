"""A diffusion: its constants, its kernel, and what its reversal needs (docs/math.md sections 2 and
11)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .matrices import (
    Entries,
    PerHalf,
    add_column,
    apply,
    cholesky,
    inverse_of_lower,
    module_of,
    product,
    series,
    spread,
)

# The standard deviation of images that are scaled to [-1, 1]. It only decides which part of the
# score samplers solve exactly, and which they interpolate.
TYPICAL_DATA_STD = 0.5
# A time that all examples share, or times (...,), float64.
Times = float | Tensor
# Matrices at the same times, (..., k, j) each.
Matrices = tuple[Tensor, ...]
# What `Diffusion.moments` returns: Psi and the covariance of the noise, (n, n, N) each.
Moments = tuple[Any, Any]


# Halvings of an interval of log t, after which a time is exact to rounding.
_HALVINGS = 60
# The smallest time of a noise level.
_EARLIEST = 1e-12


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """beta(t) on [0, 1], and its integral; ``t`` is a float, or a float64 tensor or array of any
    shape.

    Attributes:
        noise_level: `Diffusion.noise_level`, of which some grids are made.
    """

    beta0: float
    beta1: float
    noise_level: Callable[[Times], Tensor]

    def beta(self, t: Any) -> Any:
        return self.beta0 + self.beta1 * t

    def rate(self, t: Times) -> float | Tensor:
        """beta(t); a single float if it is the same at all times."""
        rate: float | Tensor = self.beta(t) if self.beta1 else self.beta0
        return rate

    def integral(self, t: Any) -> Any:
        """B(t), the integral of beta from 0 to t."""
        return t * (self.beta0 + 0.5 * self.beta1 * t) if self.beta1 else t * self.beta0

    def between(self, start: float, end: float) -> float:
        """B(end) - B(start), computed without the cancellation of that difference."""
        return (end - start) * (self.beta0 + 0.5 * self.beta1 * (start + end))

    def time(self, big_b: float) -> float:
        """The t at which B(t) = ``big_b``, in a form that is also valid for beta1 = 0."""
        root = math.sqrt(self.beta0 * self.beta0 + 2.0 * self.beta1 * big_b)
        return 2.0 * big_b / (self.beta0 + root)

    def time_of_noise(self, level: Tensor) -> Tensor:
        """The times (k,), float64, at which the noise has the levels (k,), by bisection."""
        low = torch.full_like(level, math.log(_EARLIEST))
        high = torch.zeros_like(level)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            is_later = self.noise_level(middle.exp()) < level
            low = torch.where(is_later, middle, low)
            high = torch.where(is_later, high, middle)
        return high.exp()

    def grid(self, name: str, n: int, eps: float, power: float = 1.0) -> list[float]:
        """The n + 1 times of a grid from 1 down to ``eps``.

        Args:
            name: "linear": n equal steps. "quadratic": steps that shrink towards the data, t_i =
                eps + (1 - eps) (1 - i/n)^2. "power": n equal steps of B(t)^(1/power), that is of
                t^(1/power) if beta is constant. "noise": n equal steps of sigma^(1/power) for the
                noise level sigma; EDM's grid has the power 7. "flow": n equal steps of sigma / (1 +
                sigma), the time of flow matching.
        """
        if name == "power":
            first, last = (self.integral(t) ** (1.0 / power) for t in (1.0, eps))
            inner = [self.time((first + (last - first) * i / n) ** power) for i in range(1, n)]
        elif name in ("noise", "flow"):
            ends = self.noise_level(torch.tensor([1.0, eps], dtype=torch.float64))
            first, last = ends.pow(1.0 / power) if name == "noise" else ends / (1.0 + ends)
            even = first + (last - first) * torch.arange(1, n, dtype=torch.float64) / n
            levels = even.pow(power) if name == "noise" else even / (1.0 - even)
            inner = self.time_of_noise(levels).tolist()
        else:
            exponent = 2 if name == "quadratic" else 1
            inner = [eps + (1.0 - eps) * (1.0 - i / n) ** exponent for i in range(1, n)]
        return [1.0, *inner, eps]


@dataclass(frozen=True, kw_only=True)
class Diffusion(ABC):
    """du = beta(t) A u dt + sqrt(beta(t) D) dw for u of n *halves*, of which the last m are
    *scored*.

    ``u`` is (B, nC, ...): half 0 is the data x in the first C channels, and the other halves
    follow. D is diagonal, and non-zero only in the scored halves, whose score s = grad log p_t
    networks learn.

    Times are in (0, 1]: floats, or float64 tensors (...,), usually (B,) with one time per example.
    Matrices are float64 tensors (..., k, j); those at a float are (k, j). Every entry has a
    relative error of at most 1e-12, however small t is, except near a time at which it changes
    sign. "objective" is "hsm" (the other halves at time 0 are averaged over) or "dsm" (they are
    given).

    A diffusion is defined by the class variables and the abstract constants. The diffusions of
    `cld_core.sde` also derive from their specs, which declare their keys. A diffusion may override
    `moments` for a faster form, and `_known` for another part of the score that samplers solve
    exactly. The prior has to be the stationary law, with independent halves.
    """

    n: ClassVar[int]
    m: ClassVar[int]

    beta0: float
    beta1: float
    numerical_eps: float = 0.0  # added to the diagonal of the kernel's covariance

    @cached_property
    def schedule(self) -> Schedule:
        return Schedule(beta0=self.beta0, beta1=self.beta1, noise_level=self.noise_level)

    # Constants of the process.

    @property
    @abstractmethod
    def A(self) -> Entries:
        """(n, n), the drift per unit of beta."""

    @property
    @abstractmethod
    def D(self) -> PerHalf:
        """(m,), the squared diffusion coefficients of the scored halves per unit of beta."""

    @property
    @abstractmethod
    def prior_std(self) -> PerHalf:
        """(n,), standard deviations of the prior."""

    @property
    @abstractmethod
    def initial_std(self) -> PerHalf:
        """(n - 1,), standard deviations of the other halves at time 0, where they are independent
        of the data."""

    @property
    def order(self) -> tuple[int, ...]:
        """The halves in the order in which `factor` is lower triangular; the scored ones are
        last."""
        return tuple(range(self.n))

    @property
    def unscored(self) -> int:
        """n - m, the number of halves that are not scored; they are the first ones."""
        return self.n - self.m

    @property
    def precision(self) -> PerHalf:
        """(n,), inverse variances of the prior."""
        return tuple(1.0 / (std * std) for std in self.prior_std)

    @property
    def scored_precision(self) -> Tensor:
        """P, (m, m), the precision of the scored halves of the prior."""
        scored = torch.tensor(self.precision[self.unscored :], dtype=torch.float64)
        return torch.diag(scored)

    @property
    def trace_weights(self) -> PerHalf:
        """(m,), D / D[-1]: weights of the scored halves in the trace of `flow_divergence`."""
        return tuple(d / self.D[-1] for d in self.D)

    # The kernel.

    def mean(self, t: Times) -> Tensor:
        """Psi(B(t)), (..., n, n): the mean of u at t is Psi times u at time 0."""
        return self._at(t, lambda moments: moments[:1])[0]

    def factor(self, t: Times, objective: str = "hsm") -> Tensor:
        """L, (..., n, n): Sigma_t = L L^T is the covariance of u at t given the data, numerical_eps
        included.

        The halves that are not scored come first, in a lower triangle. Among the scored halves, L
        may be lower or upper triangular (`order`).
        """
        return self._at(t, lambda moments: [self._factor_in_place(moments, objective)])[0]

    def perturbation(self, t: Times, objective: str = "hsm") -> Tensor:
        """The matrix (..., n, 1 + n) that gives u at t from x at time 0 and the noise of n halves.

        That of DSM has more columns, for the other halves at time 0: (..., n, 2n).
        """

        def formula(moments: Moments) -> list[Any]:
            psi = moments[0]
            parts = [psi[:, :1], self._factor_in_place(moments, objective)]
            if objective == "dsm":
                parts.append(psi[:, 1:])
            return [module_of(psi).concatenate(parts, 1)]

        return self._at(t, formula)[0]

    def target(self, t: Times, objective: str = "hsm") -> Tensor:
        """E, (..., m, m), triangular: the regression target of the score is -E times the noise of
        the scored halves.

        The score of the kernel is -L^-T e. L has zeros to the right of the halves that are not
        scored, and L^-T has zeros below them. So E is the lower right block of L^-T, which is the
        inverse transpose of that of L.
        """

        return self._at(t, lambda moments: [self._target(self._lower(moments, objective))])[0]

    def inverse_target(self, t: Times, objective: str = "hsm") -> Tensor:
        """E^-1, (..., m, m), the transpose of the scored block of L."""
        return self.factor(t, objective)[..., self.unscored :, self.unscored :].mT

    def mixed(self, t: Times, objective: str = "hsm") -> Matrices:
        """E, P and E^-1 P, each (..., m, m), of a mixed score s = -E alpha - P u_S."""
        target, precision, _, shift = self._at(
            t, lambda moments: self._split(moments, objective, self._mixed)
        )
        return target, precision, shift

    def known(self, t: Times) -> Matrices:
        """E of HSM, K, E^-1 and E^-1 K, each (..., m, m).

        -K u_S is the part of the score that samplers solve exactly. The rest of the score is -E
        alpha with alpha = -E^-1 s - (E^-1 K) u_S.
        """
        return self._at(t, lambda moments: self._split(moments, "hsm", self._known))

    def known_precision(self, t: Times) -> Tensor:
        """K, (..., m, m)."""
        return self.known(t)[1]

    def law(self, t: Times, *, data_std: float, numerical_eps: float = 0.0) -> Tensor:
        """Lower triangular factor (..., n, n) of the covariance of u at t, for data of this
        standard deviation."""

        stds = (data_std, *self.initial_std)
        halves = range(self.n)
        return self._at(t, lambda moments: [self._factor(moments, stds, halves, numerical_eps)])[0]

    def information(self, t: Times) -> Matrices:
        """L^-1 (..., n, n), and L^-1 Psi_0 (..., n, 1).

        The latter are the factors of x_0 in L^-1 u, whose noise has variance 1.
        """

        def formula(moments: Moments) -> list[Any]:
            whiten = _permuted(inverse_of_lower(self._lower(moments, "hsm")), self.order)
            return [whiten, product(whiten, moments[0][:, :1])]

        return self._at(t, formula)

    def noise_level(self, t: Times) -> Tensor:
        """sigma, (...,): u at t says as much about x as x + sigma e does, with normal e.

        It increases with t, and is that of EDM: noise over the factor of x.
        """
        _, w = self.information(t)
        return w.square().sum((-2, -1)).rsqrt()

    def auxiliary(self, t: Times) -> Matrices:
        """The Gaussian law of the halves other than x at t > 0, given x at time 0, without
        numerical_eps.

        Returns:
            The factors of x in their means, (..., n - 1, 1), and the lower triangular factor of
            their covariance, (..., n - 1, n - 1).
        """

        def formula(moments: Moments) -> list[Any]:
            factor = self._factor(moments, (0.0, *self.initial_std), range(1, self.n))
            return [moments[0][1:, :1], factor]

        return self._at(t, formula)

    def reverse(self, big_d: float) -> tuple[Tensor, Tensor]:
        """Mean map (n, n) and lower triangular noise factor of the reverse process whose score is
        the prior's.

        That is the time reversal of the stationary process: a linear diffusion with the same noise
        and the drift Sigma_inf A^T Sigma_inf^-1.

        Args:
            big_d: the increment of B over which the process runs back.
        """
        variances = np.square(self.prior_std)
        back = np.transpose(self.A) * (variances[:, None] / variances)
        psi, noise = self._series(tuple(map(tuple, back.tolist())))(np.array([big_d]))
        return torch.from_numpy(psi[..., 0]), torch.from_numpy(cholesky(noise)[..., 0])

    def moments(self, big_b: Any) -> Moments:
        """Psi and the covariance of the noise (Sigma_t for Sigma_0 = 0), (n, n, N) each, at B
        (N,)."""
        return self._series(self.A)(big_b)

    def _series(self, a: Entries) -> Callable[[Any], Moments]:
        noise = (0.0,) * self.unscored + tuple(self.D)
        return series(a, noise, tuple(self.prior_std), self.schedule.integral(1.0))

    def _at(self, t: Times, formula: Callable[[Moments], Sequence[Any]]) -> Matrices:
        """The matrices (k, j, N) that ``formula`` makes of `moments` at t, each as (..., k, j).

        A formula is dozens of operations on a few hundred numbers. On the CPU, numpy takes half the
        time of torch for them.
        """
        if isinstance(t, Tensor) and (t.device.type != "cpu" or t.requires_grad):
            matrices = formula(self.moments(self.schedule.integral(t.double()).flatten()))
            return tuple(matrix.movedim(-1, 0).unflatten(0, t.shape) for matrix in matrices)
        times = t.double().numpy() if isinstance(t, Tensor) else np.asarray(t, dtype=np.float64)
        with np.errstate(all="ignore"):  # as torch does
            matrices = formula(self.moments(self.schedule.integral(times.reshape(-1))))
        tensors = tuple(torch.from_numpy(matrix.transpose(2, 0, 1)) for matrix in matrices)
        if times.ndim == 1:
            return tensors
        return tuple(matrix.reshape(*times.shape, *matrix.shape[1:]) for matrix in tensors)

    def _factor(
        self,
        moments: Moments,
        stds: Sequence[float],
        halves: Sequence[int],
        eps: float = 0.0,
    ) -> Any:
        """Lower factor of the covariance of ``halves``, for halves that are independent at time 0
        and have the standard deviations ``stds`` (n,) there.

        Initial values are added to the factor of the noise one by one, so nothing cancels.
        Factorising the sum of the covariances would lose half of the digits at t = 1e-12. The sum
        with eps I loses none.
        """
        psi = _picked(moments[0], halves, range(self.n))
        lower = cholesky(_picked(moments[1], halves, halves), eps)
        for column, std in enumerate(stds):
            if std:
                add_column(lower, psi[:, column] * std)
        return lower

    def _lower(self, moments: Moments, objective: str) -> Any:
        """L with rows and columns in the order in which it is lower triangular."""
        others = self.initial_std if objective == "hsm" else (0.0,) * (self.n - 1)
        return self._factor(moments, (0.0, *others), self.order, self.numerical_eps)

    def _factor_in_place(self, moments: Moments, objective: str) -> Any:
        """L."""
        return _permuted(self._lower(moments, objective), self.order)

    def _target(self, lower: Any) -> Any:
        """E, from L of `_lower`."""
        first = self.unscored
        return self._in_place(inverse_of_lower(lower[first:, first:])).swapaxes(0, 1)

    def _in_place(self, scored: Any) -> Any:
        """A matrix of the scored halves, with rows and columns as in u, from one in the order of
        `_lower`."""
        first = self.unscored
        return _permuted(scored, [half - first for half in self.order[first:]])

    def _split(
        self, moments: Moments, objective: str, precision: Callable[[Any, Any], Any]
    ) -> list[Any]:
        """E, a ``precision`` of the scored halves, E^-1 and the product of these."""
        hsm = self._lower(moments, "hsm")
        lower = hsm if objective == "hsm" else self._lower(moments, objective)
        first = self.unscored
        # E^-1 is the transpose of the scored block of L.
        inverse = self._in_place(lower[first:, first:]).swapaxes(0, 1)
        scored_precision = precision(moments[0], hsm)
        return [self._target(lower), scored_precision, inverse, product(inverse, scored_precision)]

    def _known(self, psi: Any, lower: Any) -> Any:
        """K: the precision of the scored halves under HSM's kernel.

        If x is scored, it is for data of `TYPICAL_DATA_STD`; otherwise for a single data point,
        which is about right for data of any scale. With 0, the whole score is interpolated.
        """
        return self._precision(psi, lower, TYPICAL_DATA_STD if self.m == self.n else 0.0)

    def _mixed(self, psi: Any, lower: Any) -> Any:
        """P of a mixed score."""
        return self._known(psi, lower)

    def _precision(self, psi: Any, lower: Any, data_std: float) -> Any:
        """Inverse covariance of the scored halves for data of ``data_std``, from HSM's L."""
        first = self.unscored
        block = 1.0 * lower[first:, first:]
        for column in range(first):
            add_column(block, 1.0 * lower[first:, column])
        if data_std:
            add_column(block, _picked(psi, self.order[first:], [0])[:, 0] * data_std)
        inverse = self._in_place(inverse_of_lower(block))
        return product(inverse.swapaxes(0, 1), inverse)

    # Tensors.

    def diffusion2(self, t: Times) -> Tensor:
        """(..., m), squares of the diffusion coefficients at t, beta(t) D."""
        beta = self.schedule.beta(t)
        if isinstance(beta, Tensor):
            return torch.stack([d * beta for d in self.D], dim=-1)
        return torch.tensor([d * beta for d in self.D], dtype=torch.float64)

    def halves(self, u: Tensor) -> tuple[Tensor, ...]:
        """The n halves of u, views, each (B, C, ...)."""
        return u.chunk(self.n, dim=1)

    def scored(self, u: Tensor) -> Tensor:
        """The scored halves of u, a view, (B, mC, ...)."""
        channels = u.shape[1] // self.n
        return u.narrow(1, self.unscored * channels, self.m * channels)

    def scored_halves(self, s: Tensor) -> tuple[Tensor, ...]:
        """The m parts of ``s`` (B, mC, ...), views, each (B, C, ...)."""
        return s.chunk(self.m, dim=1)

    def flow(self, u: Tensor, score: Tensor, t: Times) -> Tensor:
        """Field du/dt of the probability flow, shaped as u; ``score`` is (B, mC, ...).

        Sampling runs backwards in time: a step from t to s < t adds (s - t) du/dt to u.
        """
        return self._rates(u, score, 0.5).mul_(spread(self.schedule.rate(t), u))

    def euler_step(self, u: Tensor, score: Tensor, t: float, dt: float) -> Tensor:
        """Mean of one Euler-Maruyama step of the reverse process from t to t - dt, a new tensor."""
        return torch.add(u, self._rates(u, score, 1.0), alpha=-dt * self.schedule.beta(t))

    def forward(self, u: Tensor, noise: Tensor, start: float, end: float) -> Tensor:
        """A draw of the forward process at ``end``, given u at ``start`` < ``end``.

        u and the standard normal ``noise`` are (B, nC, ...). The process depends on t only through
        B(t), so this is the kernel with Sigma_0 = 0 at another time.
        """
        t = self.schedule.time(self.schedule.between(start, end))
        return apply(self.mean(t), u) + apply(self.factor(t, "dsm"), noise)

    def _rates(self, u: Tensor, score: Tensor, strength: float) -> Tensor:
        """A u - ``strength`` D score, the drift per unit of beta."""
        out = torch.empty_like(u)
        parts = (*self.halves(u), *self.scored_halves(score))
        strengths = (1.0,) * self.n + (-strength,) * self.m
        for target, ((factor, place), *others) in zip(self.halves(out), self._terms, strict=True):
            torch.mul(parts[place], factor * strengths[place], out=target)
            for factor, place in others:
                target.add_(parts[place], alpha=factor * strengths[place])
        return out

    @cached_property
    def _terms(self) -> tuple[tuple[tuple[float, int], ...], ...]:
        """The terms of each half of A u + D score.

        Each is a factor, and the place of what it multiplies among the n halves and m scores.
        """
        first = self.unscored
        rows = []
        for i, row in enumerate(self.A):
            terms = [(a, place) for place, a in enumerate(row) if a]
            if i >= first:
                terms.append((self.D[i - first], self.m + i))
            rows.append(tuple(terms or [(0.0, 0)]))
        return tuple(rows)

    def flow_divergence(self, score_trace: Tensor, t: Times, dimensions: int) -> Tensor:
        """Divergence (B,) of the flow.

        Args:
            score_trace: (B,), the sum over the scored halves i of trace_weights[i] tr(ds_i/du_i),
                or an estimate of it.
            dimensions: numbers in x.
        """
        trace_of_a = sum(row[i] for i, row in enumerate(self.A))
        per_beta = trace_of_a * dimensions - 0.5 * self.D[-1] * score_trace
        return self.schedule.rate(t) * per_beta

    def prior(self, noise: Tensor) -> Tensor:
        """Draws of the law at t = 1, from standard normal ``noise`` shaped as u."""
        halves = zip(self.halves(noise), self.prior_std, strict=True)
        return torch.cat([half * std for half, std in halves], dim=1)

    def prior_logp(self, u: Tensor) -> Tensor:
        """Log-density (B,), float64, nats, of the prior."""
        halves = zip(self.halves(u), self.precision, strict=True)
        squares = [rate * half.flatten(1).double().square().sum(1) for half, rate in halves]
        log_det = -math.log(math.prod(self.precision))
        log_volume = u[0].numel() // self.n * (self.n * math.log(2.0 * math.pi) + log_det)
        return -0.5 * (torch.stack(squares).sum(0) + log_volume)


def _picked(matrix: Any, rows: Sequence[int], columns: Sequence[int]) -> Any:
    """Some rows and columns of a matrix, without an index that would have to be copied to a GPU."""
    all_rows = list(rows) == list(range(len(matrix)))
    if all_rows and list(columns) == list(range(len(matrix[0]))):
        return matrix
    if not rows:
        return matrix[:0, : len(columns)]
    stack = module_of(matrix).stack
    return stack([stack([matrix[i, j] for j in columns]) for i in rows])


def _permuted(lower: Any, order: Sequence[int]) -> Any:
    """The matrix with the rows and columns of ``lower`` at the places ``order``."""
    place = sorted(range(len(order)), key=lambda i: order[i])
    return _picked(lower, place, place)
