"""Any linear diffusion, from its constants alone (docs/math.md section 11)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cld_core.sde.base import Auxiliary, Diffusion, Law
from cld_core.sde.number import Number, by_numpy
from cld_core.sde.rows import (
    Rows,
    cholesky,
    inverse_of_lower,
    matmul,
    permuted,
    square,
    transposed,
    with_column,
)
from cld_core.sde.series import Series, series

# That of images scaled to [-1, 1]: CIFAR-10 has 0.25. It only affects what samplers solve exactly or interpolate.
TYPICAL_DATA_VAR = 0.25


@dataclass(frozen=True, kw_only=True)
class LinearDiffusion(Diffusion):
    """A diffusion that is defined by its constants; its kernel is computed by a series.

    Times are in (0, 1]. Every coefficient has a relative error of at most 1e-12, however small t is, except near a time
    at which it changes sign.
    """

    @property
    def order(self) -> tuple[int, ...]:
        """The halves in the order in which `factor` is lower triangular: first those that are not scored."""
        return tuple(range(self.n))

    @property
    def _noise(self) -> tuple[float, ...]:
        return (0.0,) * (self.n - self.m) + tuple(self.D)

    def _series(self, a: Rows[float]) -> Series:
        return series(a, self._noise, tuple(self.prior_std), self.schedule.integral(1.0))

    def _moments(self, t: Number) -> tuple[Rows[Number], Rows[Number]]:
        """Psi and the covariance of the noise, (n, n) each."""
        return self._series(self.A)(self.schedule.integral(t))

    @by_numpy
    def mean(self, t: Number) -> Rows[Number]:
        return self._moments(t)[0]

    @by_numpy
    def factor(self, t: Number, objective: str = "hsm") -> Rows[Number]:
        others: tuple[float, ...] = self.initial_std if objective == "hsm" else (0.0,) * (self.n - 1)
        lower = self._lower(self._moments(t), (0.0, *others), self.order, self.numerical_eps)
        natural = self.order == tuple(range(self.n))
        return lower if natural else permuted(lower, self.order)

    @by_numpy
    def target(self, t: Number, objective: str = "hsm") -> Rows[Number]:
        return super().target(t, objective)

    @by_numpy
    def mixed(self, t: Number, objective: str = "hsm") -> tuple[Rows[Number], Rows[Number], Rows[Number]]:
        return super().mixed(t, objective)

    @by_numpy
    def known_precision(self, t: Number) -> Rows[Number]:
        """Inverse covariance of the scored halves under HSM's kernel, numerical_eps included.

        If x is scored, it is that for Gaussian data of variance `TYPICAL_DATA_VAR`.
        """
        stds = (math.sqrt(TYPICAL_DATA_VAR) if self.m == self.n else 0.0, *self.initial_std)
        scored = range(self.n - self.m, self.n)
        inverse = square(inverse_of_lower(self._lower(self._moments(t), stds, scored, self.numerical_eps)))
        return matmul(transposed(inverse), inverse)

    def law(self, t: Number, *, data_var: float) -> Law[Number]:
        factor = self._law_factor(t, data_var)
        pivots = tuple(row[-1] for row in factor)
        slopes = tuple(tuple(row[j] / pivots[j] for j in range(i)) for i, row in enumerate(factor))
        det = pivots[0] * pivots[0]
        for pivot in pivots[1:]:
            det = det * (pivot * pivot)
        return Law(slopes, tuple(1.0 / (pivot * pivot) for pivot in pivots), det)

    @by_numpy
    def _law_factor(self, t: Number, data_var: float) -> Rows[Number]:
        return self._lower(self._moments(t), (math.sqrt(data_var), *self.initial_std), range(self.n))

    def auxiliary(self, t: float) -> Auxiliary:
        moments = self._moments(t)
        factor = self._lower(moments, (0.0, *self.initial_std), range(1, self.n))
        mean = tuple(row[0] for row in moments[0][1:])
        return Auxiliary(mean, factor, math.prod(row[-1] ** 2 for row in factor))

    def reverse(self, big_d: float) -> tuple[Rows[float], Rows[float]]:
        """That of another linear diffusion, with the same noise and the drift Sigma_inf A^T Sigma_inf^-1."""
        variances = [std * std for std in self.prior_std]
        back = tuple(tuple(self.A[j][i] * (variances[i] / variances[j]) for j in range(self.n)) for i in range(self.n))
        psi, noise = self._series(back)(big_d)
        return psi, cholesky(noise)

    def _lower(
        self, moments: tuple[Rows[Number], Rows[Number]], stds: Sequence[float], order: Sequence[int], eps: float = 0.0
    ) -> Rows[Number]:
        """Lower factor of the covariance of the halves ``order``, for independent halves ``stds`` (n,) at time 0.

        Independent initial values are added to the factor of the noise one by one, so nothing cancels. Factorising the
        sum of the covariances would lose half of the digits at t = 1e-12.
        """
        psi, noise = moments
        lower = cholesky(tuple(tuple(noise[i][j] for j in order) for i in order))
        for column, std in enumerate(stds):
            if std:
                lower = with_column(lower, [psi[i][column] * std for i in order])
        for k in range(len(lower)) if eps else ():
            lower = with_column(
                lower, [0.0 * row[0] + (math.sqrt(eps) if i == k else 0.0) for i, row in enumerate(lower)]
            )
        return lower
