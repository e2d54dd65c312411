"""The variance-preserving diffusion, the baseline (the paper, appendix; docs/math.md section 3)."""

from dataclasses import dataclass
from typing import Any

from cld_core.config.sde import VpsdeSpec

from .base import Diffusion
from .kernel import module_of


@dataclass(frozen=True, kw_only=True)
class VPSDE(VpsdeSpec, Diffusion):
    """dx = -beta/2 x dt + sqrt(beta) dw. There is one half: u is x. The two objectives are the same."""

    n = 1
    m = 1

    A = ((-0.5,),)
    D = (1.0,)
    prior_std = (1.0,)
    initial_std = ()

    def moments(self, big_b: Any) -> tuple[Any, Any]:
        module = module_of(big_b)
        return module.exp(-0.5 * big_b).reshape(1, 1, -1), -module.expm1(-big_b).reshape(1, 1, -1)

    def _known(self, psi: Any, lower: Any) -> Any:
        """0: the whole score is interpolated, as predicted noise, which is what DDIM and DEIS do."""
        return 0.0 * lower

    def _mixed(self, psi: Any, lower: Any) -> Any:
        """The inverse variance of x for data of variance 1, the same at every t."""
        return self._precision(psi, lower, 1.0)
