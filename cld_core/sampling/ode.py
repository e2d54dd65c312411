"""The probability flow, solved adaptively (docs/math.md section 7)."""

import torch
from torch import Tensor

from cld_core.score import ScoreFunction
from cld_core.sde import SDE
from cld_core.solver import solve


def probability_flow(
    score: ScoreFunction, sde: SDE, u: Tensor, *, end: float, rtol: float, atol: float
) -> tuple[Tensor, Tensor]:
    """u (B, 2C or C, ...) at time ``end``, from u at time 1, and the evaluations (B,) that each sample took.

    Every sample has its own steps (`solver`). The state is float64, the score is evaluated in the type of u.

    Raises:
        SolverError: the tolerance is out of reach.
    """
    shape, dtype = u.shape[1:], u.dtype

    def field(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        now = y.to(dtype).view(-1, *shape)
        return sde.flow(now, score(now, t), t).flatten(1).to(torch.float64)

    solution = solve(field, u.flatten(1), 1.0, end, rtol=rtol, atol=atol)
    return solution.y.to(dtype).view_as(u), solution.nfe
