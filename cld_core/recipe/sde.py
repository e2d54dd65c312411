"""The `sde` section: one spec for each diffusion."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from .keys import key


@dataclass(frozen=True, kw_only=True)
class SdeSpec:
    """What every diffusion has.

    Attributes:
        objectives: values of `objective.name` that train it.
        splittable: its dynamics can be split, as SSCS needs; the implementation then defines `reverse`.
    """

    objectives: ClassVar[tuple[str, ...]] = ("hsm", "dsm")
    splittable: ClassVar[bool] = False

    name: str
    beta0: float
    beta1: float


@dataclass(frozen=True, kw_only=True)
class CldSpec(SdeSpec):
    splittable: ClassVar[bool] = True

    name: Literal["cld"] = key("cld", "critically-damped Langevin diffusion")
    beta0: float = key(4.0, "beta(t) = beta0 + beta1 t", ge=0)
    beta1: float = key(0.0, "beta(t) = beta0 + beta1 t", ge=0)
    m_inv: float = key(4.0, "inverse mass", gt=0)
    gamma: float = key(0.04, "variance of the initial velocity, in units of the mass", gt=0, le=1)
    numerical_eps: float = key(1e-6, "added to the diagonal of the kernel's covariance", ge=0)


@dataclass(frozen=True, kw_only=True)
class VpsdeSpec(SdeSpec):
    objectives: ClassVar[tuple[str, ...]] = ("dsm",)

    name: Literal["vpsde"] = key("vpsde", "variance-preserving diffusion, the baseline")
    beta0: float = key(0.1, "beta(t) = beta0 + beta1 t", ge=0)
    beta1: float = key(19.9, "beta(t) = beta0 + beta1 t", ge=0)
    numerical_eps: float = key(0.0, "added to the kernel's variance", ge=0)
