"""Network output -> score: the one place where float64 coefficients meet the network's tensors.

docs/math.md section 5: s = -ell_t alpha (plain), or s = -v / Svv - ell_t alpha (mixed). Both are -ell_t times
the *predicted noise* alpha_hat, which is what the losses compare with the noise that was drawn.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cld_core.recipe.schema import ObjectiveSpec
from cld_core.sde import SDE
from cld_core.sde.coefficients import as_batch, spread

# (u: (B, 2C or C, ...), t: a float or (B,) float64) -> (B, C, ...): any score that samplers can use.
ScoreFunction = Callable[[Tensor, float | Tensor], Tensor]


class Score:
    """The score of the scored half (v of CLD, x of VPSDE) that a network stands for.

    ``net`` maps u and t, (B,), to (B, C, ...). The result has the type of u, whatever the network computes in.
    """

    def __init__(self, sde: SDE, objective: ObjectiveSpec, net: nn.Module) -> None:
        self.sde = sde
        self.objective = objective
        self.net = net
        self._weight = next(net.parameters(), None)

    def _network(self, u: Tensor, t: float | Tensor) -> Tensor:
        weight = u if self._weight is None else self._weight
        return self.net(u.to(weight.dtype), as_batch(t, len(u), u.device, weight.dtype)).to(u.dtype)

    def __call__(self, u: Tensor, t: float | Tensor) -> Tensor:
        """The score (B, C, ...) at u (B, 2C or C, ...); t is a float or a (B,) float64 tensor."""
        ell, variance = self.sde.score_coefficients(t, self.objective.name)
        alpha = self._network(u, t)
        score = alpha * spread(-ell, alpha)
        if not self.objective.mixed_score:
            return score
        half = self.sde.scored(u)
        return torch.sub(score, half * spread(1.0 / variance, half))

    def predicted_noise(self, u: Tensor, t: Tensor) -> Tensor:
        """-s / ell_t, (B, C, ...): the network's estimate of the noise in the scored half of u."""
        alpha = self._network(u, t)
        if not self.objective.mixed_score:
            return alpha
        ell, variance = self.sde.score_coefficients(t, self.objective.name)
        half = self.sde.scored(u)
        return alpha + half * spread(1.0 / (ell * variance), half)
