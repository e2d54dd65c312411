"""CLD, VPSDE (the variance-preserving baseline), PSLD and HOLD, defined by their constants."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cld_core.config.sde import CldSpec, HoldSpec, PsldSpec, VpsdeSpec

from .base import Diffusion, Moments
from .matrices import Entries, PerHalf, module_of

# Below this value the series is used. The closed form has lost 3 of 16 digits there, the series
# none.
SERIES_BELOW = 0.25
# 6/(k+3)! for k = 0..10: the 12th term is below 1e-18 of the first at `SERIES_BELOW`.
_SERIES = [6.0 / math.factorial(k + 3) for k in range(11)]
# Coupling and friction of third-order critical damping, in units of the mass: all eigenvalues of
# the drift are -sqrt(3).
_COUPLING = 2.0 * math.sqrt(2.0)
_FRICTION = 3.0 * math.sqrt(3.0)


@dataclass(frozen=True, kw_only=True)
class CLD(CldSpec, Diffusion):
    """Critically-damped Langevin diffusion (the paper, section 3; docs/math.md section 2).

    u is (x, v), data and velocity, and the score of v is learned. Its `moments` are in closed form,
    which is as exact as the series and saves a third of a training step of a toy.
    """

    n = 2
    m = 1

    @cached_property
    def mass(self) -> float:
        return 1.0 / self.m_inv

    @cached_property
    def omega(self) -> float:
        """1 / sqrt(M)."""
        return math.sqrt(self.m_inv)

    @cached_property
    def friction(self) -> float:
        """Gamma, for critical damping."""
        return 2.0 * math.sqrt(self.mass)

    @property
    def A(self) -> Entries:
        return (0.0, self.m_inv), (-1.0, -self.friction * self.m_inv)

    @property
    def D(self) -> PerHalf:
        return (2.0 * self.friction,)

    @property
    def prior_std(self) -> PerHalf:
        return 1.0, math.sqrt(self.mass)

    @property
    def initial_std(self) -> PerHalf:
        return (math.sqrt(self.gamma * self.mass),)

    def moments(self, big_b: Any) -> Moments:
        """Psi and the covariance of the noise, by closed forms.

        In the variables b = 2B/Gamma and y = v / sqrt(M), every entry is a sum of terms of one
        sign.
        """
        b = self.omega * big_b
        decay = module_of(b).exp(-b)
        mixing = decay * b
        xv = mixing * self.omega
        vx = mixing * (-1.0 / self.omega)
        psi = _matrix(decay + mixing, xv, vx, decay - mixing)
        z = 2.0 * b
        decay2 = decay * decay
        mixing2 = z * decay2
        noise_xx = gamma3(z, decay2)
        noise_xv = mixing2 * b * (1.0 / self.omega)
        noise_vv = (noise_xx + 2.0 * mixing2) * self.mass
        return psi, _matrix(noise_xx, noise_xv, noise_xv, noise_vv)


def _matrix(a: Any, b: Any, c: Any, d: Any) -> Any:
    """(2, 2, N)."""
    return module_of(a).concatenate([a, b, c, d]).reshape(2, 2, -1)


def gamma3_series(z: Any, exp_minus_z: Any) -> Any:
    """P(3, z) by its series, exact for small z (eleven terms: for z up to `SERIES_BELOW`)."""
    tail = _SERIES[-1] * z + _SERIES[-2]
    for c in reversed(_SERIES[:-2]):
        tail = tail * z + c
    return tail * exp_minus_z * z * z * z / 6.0


def gamma3_closed(z: Any, exp_minus_z: Any) -> Any:
    """P(3, z) by its closed form, which loses all digits for small z."""
    return 1.0 - exp_minus_z * (1.0 + z + 0.5 * z * z)


def gamma3(z: Any, exp_minus_z: Any) -> Any:
    """Regularised lower incomplete gamma function P(3, z) = 1 - exp(-z) (1 + z + z^2/2), z >= 0."""
    series = gamma3_series(z, exp_minus_z)
    return module_of(z).where(z < SERIES_BELOW, series, gamma3_closed(z, exp_minus_z))


@dataclass(frozen=True, kw_only=True)
class VPSDE(VpsdeSpec, Diffusion):
    """The variance-preserving baseline (the paper, appendix; docs/math.md section 3).

    dx = -beta/2 x dt + sqrt(beta) dw. There is one half, u = x, and the two objectives are the
    same.
    """

    n = 1
    m = 1

    A = ((-0.5,),)
    D = (1.0,)
    prior_std = (1.0,)
    initial_std = ()

    def moments(self, big_b: Any) -> Moments:
        module = module_of(big_b)
        psi = module.exp(-0.5 * big_b)
        noise = -module.expm1(-big_b)
        return psi.reshape(1, 1, -1), noise.reshape(1, 1, -1)

    def _known(self, psi: Any, lower: Any) -> Any:
        """0: the whole score is interpolated, as predicted noise. DDIM and DEIS do the same."""
        return 0.0 * lower

    def _mixed(self, psi: Any, lower: Any) -> Any:
        """The inverse variance of x for data of variance 1, the same at every t."""
        return self._precision(psi, lower, 1.0)


@dataclass(frozen=True, kw_only=True)
class PSLD(PsldSpec, Diffusion):
    """Phase-space Langevin diffusion (arXiv 2303.01748; docs/math.md section 11.2).

    u is (x, v), data and velocity, critically damped, with friction and noise in both halves. Both
    scores are learned. With ``friction`` 0 there is no noise in x, and only the score of v is
    learned: it is `CLD` with half of the beta.
    """

    n = 2

    @property
    def m(self) -> int:  # type: ignore[override] # a class variable elsewhere
        return 2 if self.friction else 1

    @cached_property
    def m_inv(self) -> float:
        """1 / M, for critical damping."""
        return 0.25 * (self.friction - self.nu) ** 2

    @property
    def A(self) -> Entries:
        return (-0.5 * self.friction, 0.5 * self.m_inv), (-0.5, -0.5 * self.nu)

    @property
    def D(self) -> PerHalf:
        return (self.friction, self.nu / self.m_inv)[-self.m :]

    @property
    def prior_std(self) -> PerHalf:
        return 1.0, 1.0 / math.sqrt(self.m_inv)

    @property
    def initial_std(self) -> PerHalf:
        return (math.sqrt(self.kappa / self.m_inv),)

    @property
    def order(self) -> tuple[int, ...]:
        return (1, 0) if self.triangle == "upper" and self.m == 2 else (0, 1)


@dataclass(frozen=True, kw_only=True)
class HOLD(HoldSpec, Diffusion):
    """Langevin diffusion of third order (arXiv 2404.12814; docs/math.md section 11.3).

    u is (x, v, a): data, velocity and acceleration. Noise enters a, which drives v, which drives x,
    and the score of a is learned. At t = 0, v and a are independent, both of variance ``kappa`` M.
    """

    n = 3
    m = 1

    @cached_property
    def omega(self) -> float:
        """1 / sqrt(M)."""
        return math.sqrt(self.m_inv)

    @property
    def A(self) -> Entries:
        g = _COUPLING * self.omega
        xi = _FRICTION * self.omega
        return (0.0, self.m_inv, 0.0), (-1.0, 0.0, g), (0.0, -g, -xi)

    @property
    def D(self) -> PerHalf:
        return (2.0 * _FRICTION / self.omega,)

    @property
    def prior_std(self) -> PerHalf:
        return 1.0, 1.0 / self.omega, 1.0 / self.omega

    @property
    def initial_std(self) -> PerHalf:
        std = math.sqrt(self.kappa) / self.omega
        return std, std
