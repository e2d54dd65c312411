"""The probability flow, solved adaptively (docs/math.md section 7)."""

import torch
from torch import Tensor

from cld_core.errors import SolverError
from cld_core.score import ScoreFunction
from cld_core.sde import SDE
from cld_core.solver import solve


def probability_flow(
    score: ScoreFunction, sde: SDE, u: Tensor, *, end: float, rtol: float, atol: float, solver: str = "rows"
) -> tuple[Tensor, Tensor]:
    """u (B, 2C or C, ...) at time ``end``, from u at time 1, and the evaluations (B,) that each sample took.

    With ``solver="rows"`` every sample has its own steps (`cld_core.solver`). With "torchdiffeq" the library's dopri5
    chooses one step size for the batch, so that a sample depends a little on its neighbours. The state is float64, the
    score is evaluated in the type of u.

    Raises:
        SolverError: the tolerance is out of reach.
    """
    if solver == "torchdiffeq":
        return _by_torchdiffeq(score, sde, u, end=end, rtol=rtol, atol=atol)
    shape, dtype = u.shape[1:], u.dtype

    def field(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        now = y.to(dtype).view(-1, *shape)
        return sde.flow(now, score(now, t), t).flatten(1).to(torch.float64)

    solution = solve(field, u.flatten(1), 1.0, end, rtol=rtol, atol=atol)
    return solution.y.to(dtype).view_as(u), solution.nfe


def _by_torchdiffeq(
    score: ScoreFunction, sde: SDE, u: Tensor, *, end: float, rtol: float, atol: float
) -> tuple[Tensor, Tensor]:
    from torchdiffeq import odeint

    evaluations = 0

    def field(t: Tensor, y: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        now = y.to(u.dtype)
        return sde.flow(now, score(now, float(t)), float(t)).to(torch.float64)

    times = torch.tensor([1.0, end], dtype=torch.float64, device=u.device)
    # Steps end at the end: beyond it, at loose tolerances, there may be no t any more.
    options = {"step_t": times[1:]}
    try:
        path = odeint(field, u.double(), times, rtol=rtol, atol=atol, method="dopri5", options=options)
    except AssertionError as error:  # torchdiffeq's word for a step that became too small
        text = f"torchdiffeq could not keep to rtol={rtol:g}, atol={atol:g}: {error}"
        raise SolverError(f"{text}. Raise sampling.rtol and sampling.atol.") from error
    return path[-1].to(u.dtype), torch.full((len(u),), evaluations, dtype=torch.int64, device=u.device)
