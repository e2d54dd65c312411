"""Langevin diffusion of third order (HOLD, arXiv 2404.12814; docs/math.md section 11.3)."""

import math
from dataclasses import dataclass
from functools import cached_property

from cld_core.config.sde import HoldSpec

from .base import Diffusion
from .kernel import Entries

# In units of the mass. They make the eigenvalues of the drift equal, all -sqrt(3): the third-order critical damping.
_COUPLING = 2.0 * math.sqrt(2.0)
_FRICTION = 3.0 * math.sqrt(3.0)


@dataclass(frozen=True, kw_only=True)
class HOLD(HoldSpec, Diffusion):
    """The diffusion of u = (x, v, a): data, velocity and acceleration. The score of a is learned.

    Noise enters a, which drives v, which drives x. At t = 0, v and a are independent, both of variance ``kappa`` M.
    """

    n = 3
    m = 1

    @cached_property
    def omega(self) -> float:
        """1 / sqrt(M)."""
        return math.sqrt(self.m_inv)

    @property
    def A(self) -> Entries:
        g, xi = _COUPLING * self.omega, _FRICTION * self.omega
        return (0.0, self.m_inv, 0.0), (-1.0, 0.0, g), (0.0, -g, -xi)

    @property
    def D(self) -> tuple[float, ...]:
        return (2.0 * _FRICTION / self.omega,)

    @property
    def prior_std(self) -> tuple[float, ...]:
        return 1.0, 1.0 / self.omega, 1.0 / self.omega

    @property
    def initial_std(self) -> tuple[float, ...]:
        std = math.sqrt(self.kappa) / self.omega
        return std, std
