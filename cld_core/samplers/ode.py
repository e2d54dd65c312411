"""The probability flow, solved adaptively (docs/math.md section 7)."""

from collections.abc import Callable

from torch import Tensor

from cld_core.config.sampling import OdeSpec
from cld_core.samplers import AdaptiveSteps, Draws
from cld_core.score import ScoreFunction, at_each, for_rows
from cld_core.sde import Diffusion
from cld_core.solver import Observer, solve

# A time (b,), and the score at it.
_Stage = tuple[Tensor, Callable[[Tensor], Tensor]]


def method(
    score: ScoreFunction, sde: Diffusion, spec: OdeSpec, u: Tensor, draws: Draws
) -> AdaptiveSteps:
    """See `cld_core.samplers`. The state is float64, the score is evaluated in the type of u.

    Its `solve` raises SolverError if the tolerance is out of reach.
    """
    shape = u.shape[1:]
    dtype = u.dtype

    def prepare(times: Tensor) -> list[_Stage]:
        return list(zip(times, at_each(score, times, dtype), strict=True))

    def field(stage: _Stage, y: Tensor, rows: Tensor) -> Tensor:
        t, score_at_t = stage
        u = y.to(dtype).view(-1, *shape)
        score_of_rows = for_rows(score, rows)
        s = score_at_t(u) if score_of_rows is score else score_of_rows(u, t)
        return sde.flow(u, s, t).flatten(1)

    def solved(observe: Observer | None) -> tuple[Tensor, Tensor]:
        solution = solve(
            field,
            u.flatten(1),
            1.0,
            spec.eps,
            rtol=spec.rtol,
            atol=spec.atol,
            prepare=prepare,
            observe=observe,
        )
        return solution.y.to(dtype).view_as(u), solution.nfe

    return AdaptiveSteps(solved)
