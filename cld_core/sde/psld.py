"""Phase-space Langevin diffusion (PSLD, arXiv 2303.01748; docs/math.md section 11.2)."""

import math
from dataclasses import dataclass
from functools import cached_property

from cld_core.config.sde import PsldSpec

from .base import Diffusion
from .kernel import Entries


@dataclass(frozen=True, kw_only=True)
class PSLD(PsldSpec, Diffusion):
    """The diffusion of u = (x, v), data and velocity, with friction and noise in both, critically damped.

    Both scores are learned. With ``friction`` 0 there is no noise in x, only the score of v is learned, and it is `CLD`
    with half of the beta.
    """

    n = 2

    @property
    def m(self) -> int:  # type: ignore[override] # of others, the class says it
        return 2 if self.friction else 1

    @cached_property
    def m_inv(self) -> float:
        """1 / M, for critical damping."""
        return 0.25 * (self.friction - self.nu) ** 2

    @property
    def A(self) -> Entries:
        return (-0.5 * self.friction, 0.5 * self.m_inv), (-0.5, -0.5 * self.nu)

    @property
    def D(self) -> tuple[float, ...]:
        return (self.friction, self.nu / self.m_inv)[-self.m :]

    @property
    def prior_std(self) -> tuple[float, ...]:
        return 1.0, 1.0 / math.sqrt(self.m_inv)

    @property
    def initial_std(self) -> tuple[float, ...]:
        return (math.sqrt(self.kappa / self.m_inv),)

    @property
    def order(self) -> tuple[int, ...]:
        return (1, 0) if self.triangle == "upper" and self.m == 2 else (0, 1)
