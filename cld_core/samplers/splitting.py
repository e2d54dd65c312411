"""Splitting and conjugate integrators (arXiv 2310.07894; docs/math.md section 7.4).

A step is a sequence of updates of y, which is u, or u in the frame of the end of the step: some
halves change, with the others fixed.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Literal

import torch
from torch import Tensor

from cld_core.config.sampling import ConjugateSpec, SplittingSpec
from cld_core.samplers import Draws, FixedSteps, grid_of, rest
from cld_core.samplers.multistep import alpha_fields, known_part, segments, with_middles
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion
from cld_core.sde.matrices import add, apply

Spec = SplittingSpec | ConjugateSpec
Group = Literal["drift", "kick", "all"]
Part = Literal["first", "second", "whole"]


@dataclass(frozen=True, kw_only=True)
class Update:
    """y <- matrix y + weight z + noise, where z is the score or its rest.

    If ``time`` is set, z is evaluated at that time first.
    """

    matrix: Tensor  # (n, n)
    weight: Tensor | None = None  # (n, m)
    noise: Tensor | None = None  # (n, m), factors of white noise
    time: float | None = None
    # (n, n), from y to the u at which z is evaluated; None if they are the same
    back: Tensor | None = None


@dataclass(frozen=True)
class Parts:
    """A step from times[0] over its middle to its end, and y in the frame of the end.

    Attributes:
        times: the times of its start and its middle.
        frames: T at these times, (n, n) each: y = T u.
        pieces: for each part, the matrices of y (n, n) and of z (n, m) in the change of y by
            Euler's method.
    """

    times: tuple[float, float]
    frames: tuple[Tensor, Tensor]
    pieces: dict[Part, tuple[Tensor, Tensor]]


# A scheme is a sequence of updates of a group over a part of a step. None is the exact
# Ornstein-Uhlenbeck part.
Scheme = Sequence[tuple[Group, Part] | None]
SCHEMES: dict[str, Scheme] = {
    "euler": (("all", "whole"),),
    "symplectic-euler": (("drift", "whole"), ("kick", "whole")),
    "velocity-verlet": (("drift", "first"), ("kick", "whole"), ("drift", "second")),
    "oba": (None, ("kick", "whole"), ("drift", "whole")),
    "bao": (("kick", "whole"), ("drift", "whole"), None),
    "obab": (None, ("kick", "first"), ("drift", "whole"), ("kick", "second")),
}


def group_of(sde: Diffusion, half: int) -> Group:
    """The group of a half.

    Neighbouring halves drive each other and are in different groups; the last half, which is noisy,
    is kicked.
    """
    return "kick" if (sde.n - 1 - half) % 2 == 0 else "drift"


def evaluating(sde: Diffusion, spec: Spec) -> tuple[bool, ...]:
    """Which updates of a scheme evaluate the score. A group without scored halves needs no
    evaluation.

    A reduced step has one evaluation: in velocity Verlet at the kick, which is in the middle,
    otherwise in the first update that needs one. Updates before it reuse that of the previous step,
    and updates after it share it.
    """
    updates = SCHEMES[spec.scheme]
    scored = {group_of(sde, half) for half in range(sde.unscored, sde.n)}
    needed = [entry is not None and (spec.conjugate or entry[0] in scored) for entry in updates]
    if not spec.reduced:
        return tuple(needed)
    first = needed.index(True)
    if spec.scheme == "velocity-verlet":
        first = updates.index(("kick", "whole"))
    return tuple(index == first for index in range(len(updates)))


@functools.lru_cache(maxsize=64)
def steps(sde: Diffusion, times: tuple[float, ...], spec: Spec) -> tuple[tuple[Update, ...], ...]:
    """The updates of each step.

    Without a change of variables z is the score, with one it is the rest of the score.
    """
    parts_of = _conjugate_parts if spec.conjugate else _plain_parts
    parts = zip(parts_of(sde, times, spec), pairwise(times), strict=True)
    return tuple(
        tuple(_updates(sde, spec, part, sde.schedule.between(t_next, t)))
        for part, (t, t_next) in parts
    )


def _updates(sde: Diffusion, spec: Spec, part: Parts, big_d: float) -> Iterator[Update]:
    """The updates of one step over an increment ``big_d`` of B. The first also changes u to y."""
    eye = torch.eye(sde.n, dtype=torch.float64)
    is_central = spec.scheme == "velocity-verlet" and spec.reduced
    into = part.frames[0]
    for entry, evaluates in zip(SCHEMES[spec.scheme], evaluating(sde, spec), strict=True):
        if entry is None:
            yield _relaxation(sde, big_d, spec.noise_scale)
            continue
        group, portion = entry
        linear, weight = part.pieces[portion]
        at = int(is_central or portion == "second")
        frame = part.frames[at]
        back = None if torch.equal(frame, into) else torch.linalg.inv(frame) @ into
        changes = [group in ("all", group_of(sde, half)) for half in range(sde.n)]
        changed = torch.tensor(changes)[:, None]
        matrix = (eye + changed * linear) @ into
        time = part.times[at] if evaluates else None
        yield Update(matrix=matrix, weight=changed * weight, time=time, back=back)
        into = eye


def _relaxation(sde: Diffusion, big_d: float, noise_scale: float) -> Update:
    """The exact Ornstein-Uhlenbeck process of the scored halves, each towards its own prior.

    ``noise_scale``, the paper's lambda_s, applies to all scored halves except the last.
    """
    matrix = torch.eye(sde.n, dtype=torch.float64)
    noise = torch.zeros(sde.n, sde.m, dtype=torch.float64)
    for j, rate in enumerate(sde.D):
        half = sde.unscored + j
        relaxed = rate * sde.precision[half] * big_d
        matrix[half, half] = math.exp(-0.5 * relaxed)
        scale = 1.0 if half == sde.n - 1 else noise_scale
        noise[half, j] = math.sqrt(-math.expm1(-scale * relaxed) / sde.precision[half])
    return Update(matrix=matrix, noise=noise)


def _plain_parts(sde: Diffusion, times: Sequence[float], spec: Spec) -> Iterator[Parts]:
    """Parts without a change of variables, y = u.

    They are those of the flow or, if there is noise, of the reverse SDE without its relaxation.
    """
    is_noisy = None in SCHEMES[spec.scheme]
    first = sde.unscored
    a = torch.tensor(sde.A, dtype=torch.float64)
    if is_noisy:
        a[first:, first:] -= 0.5 * torch.tensor(sde.D) * sde.scored_precision

    def nothing(t: Tensor) -> Tensor:
        return torch.zeros(len(t), sde.n, sde.n, dtype=torch.float64)

    def of_score(t: Tensor) -> Tensor:
        diagonal = torch.diag_embed((-1.0 if is_noisy else -0.5) * sde.diffusion2(t))
        return torch.nn.functional.pad(diagonal, (0, 0, first, 0))

    return _parts(sde, times, nothing, a, of_score)


def _conjugate_parts(sde: Diffusion, times: Sequence[float], spec: Spec) -> Iterator[Parts]:
    """Parts in y = T u, with the transport T of A + G K / 2 - B to the end of the step (T = 1)."""
    matrix = torch.eye(sde.n, dtype=torch.float64)
    if spec.conjugate_matrix == "ones":
        matrix = torch.ones_like(matrix)
    shift = spec.conjugate_lambda * matrix

    def exact(t: Tensor) -> Tensor:
        return known_part(sde, 0.0, t) - sde.schedule.beta(t)[:, None, None] * shift

    return _parts(sde, times, exact, shift, functools.partial(alpha_fields, sde, 0.0))


def _parts(
    sde: Diffusion,
    times: Sequence[float],
    exact: Callable[[Tensor], Tensor],
    shift: Tensor,
    fields: Callable[[Tensor], Tensor],
) -> Iterator[Parts]:
    """The parts of each step for du/dt = (exact + beta shift) u + fields z, as functions of times
    (K,)."""
    halved = with_middles(times)
    half_steps = segments(halved, exact)
    for i, (first, second) in enumerate(zip(half_steps[::2], half_steps[1::2], strict=True)):
        t, middle, t_next = halved[2 * i : 2 * i + 3]
        frames = (second.whole @ first.whole, second.whole)
        rate, middle_rate = (frame @ shift @ torch.linalg.inv(frame) for frame in frames)
        first_d = sde.schedule.between(middle, t)
        second_d = sde.schedule.between(t_next, middle)
        of_first = second.whole @ first.integral(fields(first.times))
        of_second = second.integral(fields(second.times))
        pieces: dict[Part, tuple[Tensor, Tensor]] = {}
        pieces["first"] = (-first_d * rate, of_first)
        pieces["second"] = (-second_d * middle_rate, of_second)
        pieces["whole"] = (-(first_d + second_d) * rate, of_first + of_second)
        yield Parts((t, middle), frames, pieces)


def method(score: ScoreFunction, sde: Diffusion, spec: Spec, u: Tensor, draws: Draws) -> FixedSteps:
    """See `cld_core.samplers`. One evaluation per step if reduced, else one per update that needs a
    score.

    A step of the conjugate method is Euler's after the change of variables, lambda-DDIM.

    Raises:
        RecipeError: there are too few evaluations for a step.
    """
    times = grid_of(spec, sde.schedule, per_step=sum(evaluating(sde, spec)))
    updates = steps(sde, tuple(times), spec)
    draws_of_noise = [update.noise is not None for update in chain.from_iterable(updates)]
    noises = draws(sum(draws_of_noise), sde.m)
    # Updates before the first evaluation use that at t = 1, which is known: the law is the prior.
    newest = torch.zeros_like(sde.scored(u))
    if not spec.conjugate:
        newest = apply(-sde.scored_precision, sde.scored(u))

    def evaluate(u: Tensor, t: float) -> Tensor:
        return rest(score, sde, u, t) if spec.conjugate else score(u, t)

    def step(u: Tensor, i: int) -> Tensor:
        nonlocal newest
        for update in updates[i]:
            if update.time is not None:
                at = u if update.back is None else apply(update.back, u)
                newest = evaluate(at, update.time)
            u = apply(update.matrix, u)
            if update.weight is not None:
                add(u, update.weight, newest)
            if update.noise is not None:
                add(u, update.noise, next(noises))
        return u

    return FixedSteps(times, step)
