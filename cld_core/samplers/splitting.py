"""Splitting and conjugate integrators (arXiv 2310.07894; docs/math.md section 7.4).

A step is a sequence of updates of y, which is u, or u in the frame of the end of the step: some halves change, with the
others fixed.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from cld_core.config.sampling import ConjugateSpec, SplittingSpec
from cld_core.errors import RecipeError
from cld_core.samplers import Draws
from cld_core.samplers.grids import grid_of
from cld_core.samplers.multistep import alpha_fields, known_part
from cld_core.samplers.path import UNWATCHED, Watcher
from cld_core.samplers.quadrature import segments
from cld_core.samplers.split import denoised, rest
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion
from cld_core.sde.matrices import add, apply

Group = Literal["drift", "kick"]
Part = Literal["first", "second", "whole"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """The change of variables of a conjugate integrator: B = strength beta(t) J."""

    strength: float  # lambda of the paper
    matrix: Literal["identity", "ones"]  # J

    def shift(self, n: int) -> Tensor:
        """lambda J, (n, n), float64."""
        j = torch.eye(n, dtype=torch.float64) if self.matrix == "identity" else torch.ones(n, n, dtype=torch.float64)
        return self.strength * j


@dataclass(frozen=True, kw_only=True)
class Update:
    """y <- matrix y + weight z + noise, after z, the score or its rest, is evaluated if ``time`` says when."""

    matrix: Tensor  # (n, n)
    weight: Tensor | None = None  # (n, m)
    noise: tuple[float, ...] = ()  # standard deviations of what the scored halves receive
    time: float | None = None
    back: Tensor | None = None  # (n, n), from y to the u at which z is evaluated; None if they are the same


@dataclass(frozen=True)
class Piece:
    """What Euler's method adds to y over a part of a step: linear y + weight z."""

    linear: Tensor  # (n, n)
    weight: Tensor  # (n, m)


@dataclass(frozen=True)
class Parts:
    """A step from times[0] over its middle to its end, and y in the frame of the end."""

    times: tuple[float, float]  # of its start and its middle
    frames: tuple[Tensor, Tensor]  # (n, n), T at these times: y = T u
    pieces: dict[Part, Piece]


# A scheme is a sequence of updates of a group over a part of a step. None is the exact Ornstein-Uhlenbeck part.
Scheme = Sequence[tuple[Group, Part] | None]
SCHEMES: dict[str, Scheme] = {
    "symplectic-euler": (("drift", "whole"), ("kick", "whole")),
    "velocity-verlet": (("drift", "first"), ("kick", "whole"), ("drift", "second")),
    "oba": (None, ("kick", "whole"), ("drift", "whole")),
    "bao": (("kick", "whole"), ("drift", "whole"), None),
    "obab": (None, ("kick", "first"), ("drift", "whole"), ("kick", "second")),
}


def group_of(sde: Diffusion, half: int) -> Group:
    """Neighbouring halves drive each other and are in different groups; the last half, which is noisy, is kicked."""
    return "kick" if (sde.n - 1 - half) % 2 == 0 else "drift"


def evaluating(sde: Diffusion, scheme: str, *, reduced: bool, change: Change | None) -> tuple[bool, ...]:
    """Which updates of a scheme evaluate the score. A group without scored halves needs no evaluation.

    A reduced step has one evaluation: in velocity Verlet at the kick, which is in the middle, otherwise in the first
    update that needs one. Updates before it reuse that of the previous step, and updates after it share it.
    """
    updates = SCHEMES[scheme]
    scored = {group_of(sde, half) for half in range(sde.n - sde.m, sde.n)}
    needed = [entry is not None and (change is not None or entry[0] in scored) for entry in updates]
    if not reduced:
        return tuple(needed)
    first = updates.index(("kick", "whole")) if scheme == "velocity-verlet" else needed.index(True)
    return tuple(index == first for index in range(len(updates)))


@functools.lru_cache(maxsize=64)
def splitting_steps(
    sde: Diffusion, times: tuple[float, ...], scheme: str, reduced: bool, change: Change | None, noise_scale: float
) -> tuple[tuple[Update, ...], ...]:
    """The updates of each step. Without a change of variables z is the score, with one it is the rest of the score."""
    evaluated = evaluating(sde, scheme, reduced=reduced, change=change)
    parts: Iterator[Parts]
    if change is not None:
        parts = _conjugate_parts(sde, times, change)
    else:
        parts = _plain_parts(sde, times, noisy=None in SCHEMES[scheme])
    central = scheme == "velocity-verlet" and reduced
    ends = pairwise(times)
    return tuple(
        tuple(_updates(sde, SCHEMES[scheme], evaluated, part, central, sde.schedule.between(t_next, t), noise_scale))
        for part, (t, t_next) in zip(parts, ends, strict=True)
    )


@functools.lru_cache(maxsize=64)
def conjugate_steps(sde: Diffusion, times: tuple[float, ...], change: Change) -> tuple[tuple[Update, ...], ...]:
    """One Euler step of all halves after the change of variables: lambda-DDIM."""
    steps = []
    for part in _conjugate_parts(sde, times, change):
        whole = part.pieces["whole"]
        matrix = part.frames[0] + whole.linear @ part.frames[0]
        steps.append((Update(matrix=matrix, weight=whole.weight, time=part.times[0]),))
    return tuple(steps)


def _updates(
    sde: Diffusion,
    scheme: Scheme,
    evaluated: Sequence[bool],
    part: Parts,
    central: bool,
    big_d: float,
    noise_scale: float,
) -> Iterator[Update]:
    """The updates of one step over an increment ``big_d`` of B."""
    eye = torch.eye(sde.n, dtype=torch.float64)
    into = part.frames[0]
    if not torch.equal(into, eye):
        yield Update(matrix=into)
    for entry, evaluates in zip(scheme, evaluated, strict=True):
        if entry is None:
            yield _relaxation(sde, big_d, noise_scale)
            continue
        group, portion = entry
        piece, at = part.pieces[portion], int(central or portion == "second")
        mine = torch.tensor([group_of(sde, half) == group for half in range(sde.n)], dtype=torch.float64)[:, None]
        back = None if torch.equal(into, eye) else torch.linalg.inv(part.frames[at])
        yield Update(
            matrix=(eye + mine * piece.linear),
            weight=(mine * piece.weight),
            time=part.times[at] if evaluates else None,
            back=back,
        )


def _relaxation(sde: Diffusion, big_d: float, noise_scale: float) -> Update:
    """The exact Ornstein-Uhlenbeck process of the scored halves, each towards its own prior.

    ``noise_scale``, the paper's lambda_s, applies to all scored halves except the last.
    """
    matrix, noise = torch.eye(sde.n, dtype=torch.float64), []
    for half, rate in enumerate(sde.D, start=sde.n - sde.m):
        relaxed = rate * sde.precision[half] * big_d
        matrix[half, half] = math.exp(-0.5 * relaxed)
        scale = 1.0 if half == sde.n - 1 else noise_scale
        noise.append(math.sqrt(-math.expm1(-scale * relaxed) / sde.precision[half]))
    return Update(matrix=matrix, noise=tuple(noise))


def _plain_parts(sde: Diffusion, times: Sequence[float], *, noisy: bool) -> Iterator[Parts]:
    """In u itself, over increments of B, of the flow or, if ``noisy``, of what relaxation leaves of the reverse SDE."""
    a, eye = torch.tensor(sde.A, dtype=torch.float64), torch.eye(sde.n, dtype=torch.float64)
    weight = torch.zeros(sde.n, sde.m, dtype=torch.float64)
    for j, (half, rate) in enumerate(zip(range(sde.n - sde.m, sde.n), sde.D, strict=True)):
        weight[half, j] = rate if noisy else 0.5 * rate
        if noisy:
            a[half, half] -= 0.5 * rate * sde.precision[half]
    for t, t_next in pairwise(times):
        middle = 0.5 * (t + t_next)
        between: dict[Part, float] = {
            "first": sde.schedule.between(middle, t),
            "second": sde.schedule.between(t_next, middle),
            "whole": sde.schedule.between(t_next, t),
        }
        pieces = {name: Piece(-big_d * a, big_d * weight) for name, big_d in between.items()}
        yield Parts((t, middle), (eye, eye), pieces)


def _conjugate_parts(sde: Diffusion, times: Sequence[float], change: Change) -> Iterator[Parts]:
    """In y = T u, T the transport of A + G K / 2 - B to the end of the step, where T = 1."""
    shift = change.shift(sde.n)

    def matrix(t: Tensor) -> Tensor:
        return known_part(sde, 0.0, t) - (sde.schedule.beta(t) * torch.ones_like(t))[:, None, None] * shift

    steps = [(t, 0.5 * (t + t_next), t_next) for t, t_next in pairwise(times)]
    with_middles = [times[0], *(t for step in steps for t in step[1:])]
    found = segments(with_middles, matrix)
    for (t, middle, t_next), one, two in zip(steps, found[::2], found[1::2], strict=True):
        weights = [segment.integral(alpha_fields(sde, 0.0, segment.times)) for segment in (one, two)]
        weights[0] = two.whole @ weights[0]
        frames = two.whole @ one.whole, two.whole
        rates = [frame @ shift @ torch.linalg.inv(frame) for frame in frames]
        between = sde.schedule.between(middle, t), sde.schedule.between(t_next, middle)
        pieces: dict[Part, Piece] = {
            "first": Piece(-between[0] * rates[0], weights[0]),
            "second": Piece(-between[1] * rates[1], weights[1]),
            "whole": Piece(-(between[0] + between[1]) * rates[0], weights[0] + weights[1]),
        }
        yield Parts((t, middle), frames, pieces)


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
                at = u if update.back is None else apply(update.back, u)
                newest = score(at, update.time) if whole else rest(score, sde, at, update.time)
            u = apply(update.matrix, u)
            if update.weight is not None:
                add(u, update.weight, newest)
            if update.noise:
                for half, e, std in zip(
                    sde.scored_halves(sde.scored(u)), sde.scored_halves(next(noises)), update.noise, strict=True
                ):
                    half.add_(e, alpha=std)
    watcher.visit(times[-1], u, 1.0)
    return u
