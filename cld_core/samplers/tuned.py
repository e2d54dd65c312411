"""Linear samplers: those that `cldctl tune` has fitted to a network, and where its fits start
(docs/math.md 7.5)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from cld_core.config.sampling import TunedSpec
from cld_core.errors import UsageError
from cld_core.run.tunings import SamplerCoefficients, TunedSampler
from cld_core.samplers import Draws, FixedSteps, exponential, rest, score_from_rest
from cld_core.samplers.multistep import stepped
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion, Schedule

# The number of newest alphas that have weights in every fit.
MEMORY = 4
# Times are spread in B(t)^(1/6), in which the recommended grid is uniform.
POWER = 6.0


@dataclass(frozen=True)
class Linear:
    """`cld_core.run.tunings.SamplerCoefficients` as float64 tensors on the CPU."""

    times: Tensor
    matrices: tuple[Tensor, ...]

    @classmethod
    def of(cls, coefficients: SamplerCoefficients) -> Self:
        """These coefficients as tensors."""
        matrices = (torch.tensor(matrix, dtype=torch.float64) for matrix in coefficients.matrices)
        return cls(torch.tensor(coefficients.times, dtype=torch.float64), tuple(matrices))

    @property
    def n(self) -> int:
        """The halves of u."""
        return len(self.matrices[0])

    @property
    def m(self) -> int:
        """The scored halves: the first step has columns for u and for a single alpha."""
        return self.matrices[0].shape[1] - self.n

    @property
    def memory(self) -> int:
        """How many of the newest alphas a step uses at most."""
        return max(matrix.shape[1] - self.n for matrix in self.matrices) // self.m

    @property
    def steps(self) -> list[tuple[float, Tensor]]:
        """The time and the matrix of each step."""
        return list(zip(self.times.tolist(), self.matrices, strict=True))

    def plain(self) -> SamplerCoefficients:
        """The coefficients as plain numbers."""
        matrices = (tuple(map(tuple, matrix.tolist())) for matrix in self.matrices)
        return SamplerCoefficients(tuple(self.times.tolist()), tuple(matrices))


def method(
    score: ScoreFunction,
    sde: Diffusion,
    spec: TunedSpec,
    u: Tensor,
    draws: Draws,
    *,
    solution: TunedSampler | None = None,
) -> FixedSteps:
    """See `cld_core.samplers`. One evaluation per step, the denoising one among them.

    Raises:
        UsageError: there is no solution, or it is one for a diffusion with other halves.
    """
    if solution is None:
        raise UsageError(
            f"sampling.method=tuned follows a solution of {spec.nfe} evaluations, and none was "
            f"given. Load the model of a run, after `cldctl tune RUN --nfe {spec.nfe}`."
        )
    linear = Linear.of(solution.coefficients)
    if (linear.n, linear.m) != (sde.n, sde.m):
        raise UsageError(
            f"the solution is for {linear.n} halves, {linear.m} of them scored; the diffusion has "
            f"{sde.n}, {sde.m}. Tune to this network."
        )
    times = linear.times.tolist()
    memory = linear.memory
    alphas: list[Tensor] = []

    def step(u: Tensor, i: int) -> Tensor:
        alphas.insert(0, rest(score, sde, u, times[i]))
        del alphas[memory:]
        return stepped(sde, linear.matrices[i], u, alphas)

    if not solution.flow.denoise:
        return FixedSteps([*times, solution.flow.eps], step)
    return FixedSteps(times, step, denoise=lambda u: step(u, len(times) - 1))


def follow(
    linear: Linear,
    sde: Diffusion,
    alpha: Callable[[Tensor, float], Tensor],
    u: Tensor,
    first: int = 0,
    alphas: Sequence[Tensor] = (),
) -> Tensor:
    """u (B, nC, ...) at the end, from u before the step ``first``, with the ``alphas`` so far, the
    newest first."""
    for t, matrix in linear.steps[first:]:
        alphas = [alpha(u, t), *alphas][: linear.memory]
        u = stepped(sde, matrix, u, alphas)
    return u


def spaced(sde: Diffusion, nfe: int, eps: float, denoise: bool, spacing: str) -> list[float]:
    """The times of one of `cld_core.run.tunings.SPACINGS`, the end included."""
    name, _, power = spacing.partition(" ")
    return sde.schedule.grid(name, nfe - denoise, eps, float(power or 1.0))


def of_exponential(
    sde: Diffusion, times: Sequence[float], order: int, corrector: bool, denoise: bool
) -> Linear:
    """The exponential sampler over a grid, without noise, in linear form.

    The corrector's change of u becomes part of the next step.

    Args:
        times: the grid, its end included.
    """
    steps = exponential.steps(sde, tuple(times), order, corrector, 0.0)
    matrices = [step.predictor for step in steps]
    if denoise:
        matrices.append(_denoising(sde, times[-1]))
    n = sde.n
    for number, step in enumerate(steps[: len(matrices) - 1]):
        if step.corrector is None:
            continue
        following = matrices[number + 1]
        weights = following[:, :n] @ step.corrector[:, n:]
        more = max(0, n + weights.shape[1] - following.shape[1])
        matrix = torch.nn.functional.pad(following, (0, more))
        matrix[:, n : n + weights.shape[1]] += weights
        matrices[number + 1] = matrix
    evaluated = times if denoise else times[:-1]
    return Linear(torch.tensor(evaluated, dtype=torch.float64), tuple(matrices))


def _denoising(sde: Diffusion, eps: float) -> Tensor:
    """The matrix (n, n + m) of the denoising step, from the images of unit vectors."""
    units = torch.eye(sde.n + sde.m, dtype=torch.float64)
    u, alpha = (part.contiguous() for part in units.split([sde.n, sde.m], dim=1))
    return sde.euler_step(u, score_from_rest(alpha, sde, u, eps), eps, eps).T


def with_memory(linear: Linear) -> Linear:
    """The same sampler with weights for all alphas that every fit uses."""
    padded = []
    for number, matrix in enumerate(linear.matrices, start=1):
        columns = linear.n + linear.m * min(number, MEMORY)
        more = max(0, columns - matrix.shape[1])
        padded.append(torch.nn.functional.pad(matrix, (0, more)))
    return Linear(linear.times, tuple(padded))


def places(schedule: Schedule, times: Sequence[float]) -> Tensor:
    """B(t)^(1/6) at each of the times."""
    return torch.tensor([schedule.integral(t) ** (1.0 / POWER) for t in times], dtype=torch.float64)
