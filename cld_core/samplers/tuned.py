"""The sampler that `cldctl tune` has fitted to a network (docs/math.md section 7.5)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cld_core.config.sampling import TunedSpec
from cld_core.errors import UsageError
from cld_core.samplers import Draws
from cld_core.samplers.path import UNWATCHED, Watcher
from cld_core.samplers.split import rest
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion
from cld_core.sde.matrices import add, apply
from cld_core.solutions import Solution


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
    halves = len(solution.transitions[0]), len(solution.weights[0][0][0])
    if halves != (sde.n, sde.m):
        text = f"the solution is for {halves[0]} halves, {halves[1]} of them scored; the diffusion has {sde.n}, {sde.m}"
        raise UsageError(f"{text}. Tune to this network.")
    return follow(score, sde, solution, u, watcher), solution.nfe


def follow(score: ScoreFunction, sde: Diffusion, solution: Solution, u: Tensor, watcher: Watcher = UNWATCHED) -> Tensor:
    """The samples (B, nC, ...) that a solution makes of the prior's draw u."""
    history: list[Tensor] = []
    steps = zip(solution.times, solution.transitions, solution.weights, strict=True)
    passed = solution.nfe - 1 if solution.denoise else solution.nfe
    for number, (t, transition, weights) in enumerate(steps):
        watcher.visit(t, u, number / passed)
        history.insert(0, rest(score, sde, u, t))
        del history[max(map(len, solution.weights)) :]
        u = apply(_tensor(transition), u)
        for weight, alpha in zip(weights, history, strict=False):
            add(u, _tensor(weight), alpha)
    if not solution.denoise:
        watcher.visit(solution.eps, u, 1.0)
    return u


def _tensor(matrix: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(matrix, dtype=torch.float64)
