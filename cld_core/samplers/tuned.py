"""The sampler that `cldctl tune` has fitted to a network (docs/math.md section 7.5)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from cld_core.config.sampling import TunedSpec
from cld_core.errors import UsageError
from cld_core.run.tunings import Coefficients, Solution
from cld_core.samplers import Draws
from cld_core.samplers.path import UNWATCHED, Watcher, rest
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion
from cld_core.sde.matrices import combined


@dataclass(frozen=True)
class Linear:
    """`cld_core.run.tunings.Coefficients` as float64 tensors on the CPU."""

    times: Tensor
    matrices: tuple[Tensor, ...]

    @classmethod
    def of(cls, coefficients: Coefficients) -> Self:
        """The same coefficients."""
        times, *matrices = (
            torch.tensor(one, dtype=torch.float64) for one in (coefficients.times, *coefficients.matrices)
        )
        return cls(times, tuple(matrices))

    @property
    def memory(self) -> int:
        """How many of the newest alphas a step uses at most."""
        n, first = self.matrices[0].shape
        return max((matrix.shape[1] - n) // (first - n) for matrix in self.matrices)

    def plain(self) -> Coefficients:
        """The same coefficients."""
        matrices = (tuple(map(tuple, matrix.tolist())) for matrix in self.matrices)
        return Coefficients(tuple(self.times.tolist()), tuple(matrices))


def sample(
    score: ScoreFunction,
    sde: Diffusion,
    spec: TunedSpec,
    u: Tensor,
    draws: Draws,
    watcher: Watcher = UNWATCHED,
    *,
    solution: Solution | None = None,
) -> tuple[Tensor, int]:
    """See `cld_core.samplers`. One evaluation per step, the denoising one among them.

    Raises:
        UsageError: there is no solution, or it is one for a diffusion with other halves.
    """
    if solution is None:
        text = f"sampling.method=tuned follows a solution of {spec.nfe} evaluations, and none was given"
        raise UsageError(f"{text}. Load the model of a run, after `cldctl tune RUN --nfe {spec.nfe}`.")
    linear = Linear.of(solution.coefficients)
    n, columns = linear.matrices[0].shape
    if (n, columns - n) != (sde.n, sde.m):
        text = f"the solution is for {n} halves, {columns - n} of them scored; the diffusion has {sde.n}, {sde.m}"
        raise UsageError(f"{text}. Tune to this network.")
    passed = solution.nfe - solution.flow.denoise

    def alpha(u: Tensor, t: float) -> Tensor:
        watcher.visit(t, u, solution.coefficients.times.index(t) / passed)
        return rest(score, sde, u, t)

    u = follow(linear, sde, alpha, u)
    if not solution.flow.denoise:
        watcher.visit(solution.flow.eps, u, 1.0)
    return u, solution.nfe


def follow(
    linear: Linear,
    sde: Diffusion,
    alpha: Callable[[Tensor, float], Tensor],
    u: Tensor,
    first: int = 0,
    alphas: Sequence[Tensor] = (),
) -> Tensor:
    """u (B, nC, ...) at the end, from u before the step ``first``, with the ``alphas`` so far, the newest first."""
    for t, matrix in zip(linear.times.tolist()[first:], linear.matrices[first:], strict=True):
        alphas = [alpha(u, t), *alphas][: linear.memory]
        u = stepped(sde, matrix, u, alphas)
    return u


def stepped(sde: Diffusion, matrix: Tensor, u: Tensor, alphas: Sequence[Tensor]) -> Tensor:
    """u (B, nC, ...) after a step."""
    parts = [*sde.halves(u), *(part for alpha in alphas for part in sde.scored_halves(alpha))]
    return combined(matrix, parts[: matrix.shape[1]])
