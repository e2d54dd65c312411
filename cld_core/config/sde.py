"""The `sde` section: one spec for each diffusion."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from .keys import Problem, key, spec_class


@spec_class
class SdeSpec:
    """What every diffusion has.

    Attributes:
        objectives: values of `objective.name` that train it.
        splittable: whether its dynamics can be split, as SSCS needs; the implementation then
            defines `reverse`.
    """

    objectives: ClassVar[tuple[str, ...]] = ("hsm", "dsm")
    splittable: ClassVar[bool] = False

    name: str
    beta0: float = key(4.0, "beta(t) = beta0 + beta1 t", ge=0)
    beta1: float = key(0.0, "beta(t) = beta0 + beta1 t", ge=0)

    def problems(self) -> Iterator[Problem]:
        """Pairs of keys of this section that do not go together."""
        if self.beta0 == self.beta1 == 0:
            yield (
                "beta0",
                "beta1",
                "is 0 and so is sde.beta1: nothing would be diffused. Raise one.",
            )


@spec_class
class CldSpec(SdeSpec):
    splittable = True

    name: str = key("cld", "critically-damped Langevin diffusion")
    m_inv: float = key(4.0, "inverse mass", gt=0)
    gamma: float = key(0.04, "variance of the initial velocity, in units of the mass", gt=0, le=1)
    numerical_eps: float = key(1e-6, "added to the diagonal of the kernel's covariance", ge=0)


@spec_class
class VpsdeSpec(SdeSpec):
    objectives = ("dsm",)

    name: str = key("vpsde", "variance-preserving diffusion, the baseline")
    beta0: float = 0.1
    beta1: float = 19.9
    numerical_eps: float = key(0.0, "added to the kernel's variance", ge=0)


@spec_class
class PsldSpec(SdeSpec):
    splittable = True

    name: str = key("psld", "phase-space Langevin diffusion, with noise in data and velocity")
    beta0: float = 8.0
    friction: float = key(
        0.01, "friction of the data, the paper's Gamma; 0 makes it CLD with half of the beta", ge=0
    )
    nu: float = key(
        4.01, "friction of the velocity; the inverse mass is (friction - nu)^2 / 4", gt=0
    )
    kappa: float = key(0.04, "variance of the initial velocity, in units of the mass", gt=0, le=1)
    numerical_eps: float = key(1e-9, "added to the diagonal of the kernel's covariance", ge=0)
    triangle: Literal["lower", "upper"] = key(
        "lower", "which triangular factor of the kernel's covariance multiplies the noise"
    )

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.friction == self.nu:
            yield (
                "friction",
                "nu",
                f"is {self.friction:g} and so is sde.nu: the mass would be infinite. Change one.",
            )


@spec_class
class HoldSpec(SdeSpec):
    splittable = True

    name: str = key(
        "hold", "Langevin diffusion of third order: position, velocity and acceleration"
    )
    m_inv: float = key(
        4.0, "inverse mass, the inverse variance of velocity and acceleration at t = 1", gt=0
    )
    kappa: float = key(
        0.04, "variance of the initial velocity and acceleration, in units of the mass", gt=0, le=1
    )
    numerical_eps: float = key(1e-6, "added to the diagonal of the kernel's covariance", ge=0)
