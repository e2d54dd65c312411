"""Splitting and conjugate integrators (arXiv 2310.07894; docs/math.md section 7.4)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cld_core.config.sampling import ConjugateSpec, SplittingSpec
from cld_core.errors import RecipeError
from cld_core.samplers.denoising import denoised
from cld_core.samplers.grids import grid_of
from cld_core.samplers.halves import add, linear, rest
from cld_core.samplers.noise import Draws
from cld_core.samplers.path import UNWATCHED, Watcher
from cld_core.samplers.updates import Change, Update, conjugate_steps, evaluating, splitting_steps
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion


def sample(
    score: ScoreFunction, sde: Diffusion, spec: SplittingSpec, u: Tensor, draws: Draws, watcher: Watcher = UNWATCHED
) -> tuple[Tensor, int]:
    """See `cld_core.samplers`. One evaluation per step if reduced, else one per update that needs a score.

    Raises:
        RecipeError: the diffusion has no velocities, or there are too few evaluations for a step.
    """
    if sde.n == 1:
        raise RecipeError(
            f"sampling.method=splitting moves positions and velocities in turn, and {type(sde).__name__} has no "
            "velocities. Choose sampling.method=em, exponential, gddim or conjugate."
        )
    change = Change(strength=spec.conjugate_lambda, matrix=spec.conjugate_matrix) if spec.conjugate else None
    per_step = sum(evaluating(sde, spec.scheme, reduced=spec.reduced, change=change))
    times = grid_of(spec, sde.schedule, per_step=per_step)
    steps = splitting_steps(sde, tuple(times), spec.scheme, spec.reduced, change, spec.noise_scale)
    u = _follow(score, sde, steps, times, u, draws, watcher, whole=change is None)
    taken = per_step * len(steps)
    if not spec.denoise:
        return u, taken
    return denoised(score, sde, u, spec.eps), taken + 1


def conjugate(
    score: ScoreFunction, sde: Diffusion, spec: ConjugateSpec, u: Tensor, draws: Draws, watcher: Watcher = UNWATCHED
) -> tuple[Tensor, int]:
    """See `cld_core.samplers`. One evaluation per step."""
    times = grid_of(spec, sde.schedule)
    change = Change(strength=spec.conjugate_lambda, matrix=spec.conjugate_matrix)
    u = _follow(score, sde, conjugate_steps(sde, tuple(times), change), times, u, draws, watcher, whole=False)
    if spec.denoise:
        u = denoised(score, sde, u, spec.eps)
    return u, spec.nfe


def _follow(
    score: ScoreFunction,
    sde: Diffusion,
    steps: Sequence[Sequence[Update]],
    times: Sequence[float],
    u: Tensor,
    draws: Draws,
    watcher: Watcher,
    *,
    whole: bool,
) -> Tensor:
    """u (B, nC, ...) at times[-1], from u at times[0]. What is evaluated is the ``whole`` score, or its rest."""
    noises = draws(sum(bool(update.noise) for step in steps for update in step), sde.m)
    # Known at t = 1, where the law is the prior: an update before the first evaluation takes it.
    newest = torch.zeros_like(sde.scored(u))
    if whole:
        for part, half, precision in zip(
            sde.scored_halves(newest), sde.scored_halves(sde.scored(u)), sde.precision[-sde.m :], strict=True
        ):
            part.add_(half, alpha=-precision)
    for number, (step, t) in enumerate(zip(steps, times[:-1], strict=True)):
        watcher.visit(t, u, number / len(steps))
        for update in step:
            if update.time is not None:
                at = u if update.back is None else linear(update.back, u)
                newest = score(at, update.time) if whole else rest(score, sde, at, update.time)
            u = linear(update.matrix, u)
            if update.weight is not None:
                add(u, update.weight, newest)
            if update.noise:
                for half, e, std in zip(
                    sde.scored_halves(sde.scored(u)), sde.scored_halves(next(noises)), update.noise, strict=True
                ):
                    half.add_(e, alpha=std)
    watcher.visit(times[-1], u, 1.0)
    return u
