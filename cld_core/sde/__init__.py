"""The two diffusions and the algebra of their kernels."""

from cld_core.recipe.schema import CldSpec, SdeSpec
from cld_core.sde.cld import CLD
from cld_core.sde.schedule import Schedule
from cld_core.sde.vpsde import VPSDE

__all__ = ["CLD", "SDE", "VPSDE", "Schedule", "build"]

SDE = CLD | VPSDE


def build(spec: SdeSpec) -> SDE:
    """The diffusion that a recipe's `sde` section describes."""
    if isinstance(spec, CldSpec):
        return CLD(
            beta0=spec.beta0,
            beta1=spec.beta1,
            m_inv=spec.m_inv,
            gamma=spec.gamma,
            numerical_eps=spec.numerical_eps,
        )
    return VPSDE(beta0=spec.beta0, beta1=spec.beta1, numerical_eps=spec.numerical_eps)
