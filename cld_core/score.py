"""Network output -> score: the one place where float64 coefficients meet the network's tensors.

docs/math.md section 5: s = -E alpha (plain), or s = -E alpha - P u_S (mixed), with the scored halves u_S and the
coefficients `Diffusion.target` and `Diffusion.mixed`. Both are -E times the *predicted noise* alpha_hat, which is what
the losses compare with the noise that was drawn.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cld_core.recipe.objective import ObjectiveSpec
from cld_core.sde import Diffusion
from cld_core.sde.coefficients import apply, as_batch
from cld_core.sde.rows import negated

# (u: (B, nC, ...), t: a float or (B,) float64) -> (B, mC, ...): any score that samplers can use.
ScoreFunction = Callable[[Tensor, float | Tensor], Tensor]


class Score:
    """The score of the scored halves (v of CLD, x of VPSDE) that a network stands for.

    ``net`` maps u and t, (B,), to (B, mC, ...). The result has the type of u, whatever the network computes in.

    Attributes:
        single_backward: a result may be differentiated once only, because the network is compiled.
    """

    def __init__(self, sde: Diffusion, objective: ObjectiveSpec, net: nn.Module) -> None:
        self.sde = sde
        self.objective = objective
        self.net = net
        self.single_backward = any(getattr(module, "single_backward", False) for module in net.modules())
        self._weight = next(net.parameters(), None)

    def _network(self, u: Tensor, t: float | Tensor) -> Tensor:
        weight = u if self._weight is None else self._weight
        return self.net(u.to(weight.dtype), as_batch(t, len(u), u.device, weight.dtype)).to(u.dtype)

    def __call__(self, u: Tensor, t: float | Tensor) -> Tensor:
        """The score (B, mC, ...) at u (B, nC, ...); t is a float or a (B,) float64 tensor."""
        alpha = self._network(u, t)
        if not self.objective.mixed_score:
            return apply(negated(self.sde.target(t, self.objective.name)), alpha)
        target, precision, _ = self.sde.mixed(t, self.objective.name)
        return torch.sub(apply(negated(target), alpha), apply(precision, self.sde.scored(u)))

    def predicted_noise(self, u: Tensor, t: Tensor) -> Tensor:
        """-E^-1 s, (B, mC, ...): the network's estimate of the noise in the scored halves of u."""
        alpha = self._network(u, t)
        if not self.objective.mixed_score:
            return alpha
        *_, shift = self.sde.mixed(t, self.objective.name)
        return alpha + apply(shift, self.sde.scored(u))
