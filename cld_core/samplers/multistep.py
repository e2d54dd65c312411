"""Multistep methods: steps with fixed coefficients that combine the results of earlier evaluations.

The result of an evaluation at u and t, a *field* (`exponential`: alpha; `gddim`: noise), is interpolated between
evaluations; the linear rest of the equation is solved exactly. Both samplers share the steps, their weights and the
loop.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cld_core.samplers.quadrature import Segment
from cld_core.sde import Diffusion
from cld_core.sde.matrices import add, apply


@dataclass(frozen=True)
class Step:
    """Coefficients of one step, for fields of k parts. Fields come newest first."""

    transition: Tensor  # (n, n), Phi
    predictor: Tensor  # (up to order + 1, n, k): c_j of the field at t_i, t_(i-1), ...
    correction: Tensor  # (j, n, k): added for the field at t_(i+1), t_i, ... once the first of them is known
    noise: Tensor | None  # (n, n), lower Cholesky factor; None without noise


def follow(
    u: Tensor,
    times: Sequence[float],
    steps: Sequence[Step],
    field: Callable[[Tensor, float], Tensor],
    noise: Iterator[Tensor],
    visit: Callable[[float, Tensor, float], object],
    *,
    order: int,
    evaluate_last: bool,
) -> tuple[Tensor, Tensor]:
    """u (B, nC, ...) at times[-1], from u at times[0], and the newest field, (B, kC, ...).

    One evaluation of ``field`` per step. The corrector uses that of the next step, or of the denoising step, and so
    costs none.

    Args:
        visit: `path.Watcher.visit`.
        evaluate_last: evaluate the field at times[-1], too, as the denoising step needs it.
    """
    history: list[Tensor] = []
    correction: Sequence[Tensor] = ()

    def evaluate(t: float) -> None:
        """Evaluate the field at u and t, and correct u with it."""
        history.insert(0, field(u, t))
        _add_all(u, correction, history)
        del history[order + 1 :]

    for number, (step, t) in enumerate(zip(steps, times[:-1], strict=True)):
        evaluate(t)
        visit(t, u, number / len(steps))
        u = apply(step.transition, u)
        _add_all(u, step.predictor.unbind(), history)
        if step.noise is not None:
            u.add_(apply(step.noise, next(noise)))
        correction = step.correction.unbind()
    if evaluate_last:
        evaluate(times[-1])
    visit(times[-1], u, 1.0)
    return u, history[0]


def interpolating(
    sde: Diffusion,
    times: Sequence[float],
    parts: Sequence[Segment],
    fields: Sequence[Tensor],
    order: int,
    corrector: bool,
    eta: float = 0.0,
) -> tuple[Step, ...]:
    """The steps over the segments ``parts`` of a grid.

    Step i interpolates with degree min(order, i), which is what the evaluations so far allow. The corrector
    interpolates with degree max(order, 1), the end of the step being one of its points.

    Args:
        fields: of each segment, (K, n, k): factors of the interpolated field in du/dt, at its nodes.
        eta: amount of noise.
    """
    steps = []
    for i, (part, field) in enumerate(zip(parts, fields, strict=True)):
        known = times[i::-1]  # the start of the step and those before, back to 1
        predictor = _weights(sde, part, field, known[: order + 1])
        correction = predictor[:0]
        if corrector:
            corrected = _weights(sde, part, field, [times[i + 1], *known][: max(order, 1) + 1])
            correction = predictor.new_zeros(max(len(corrected), len(predictor) + 1), *predictor.shape[1:])
            correction[: len(corrected)] += corrected
            correction[1 : len(predictor) + 1] -= predictor
        steps.append(Step(part.whole, predictor, correction, noise_factor(sde, part, eta) if eta else None))
    return tuple(steps)


def _weights(sde: Diffusion, part: Segment, field: Tensor, points: Sequence[float]) -> Tensor:
    """Weights (len(points), n, k) of a field that is interpolated between points."""
    return torch.stack([part.integral(field * row[:, None, None]) for row in lagrange(sde, points, part.times)])


def noise_factor(sde: Diffusion, segment: Segment, eta: float) -> Tensor:
    """Lower factor (n, n) of the covariance of the noise that the scored halves receive during a step."""
    covariance = torch.zeros(sde.n, sde.n, dtype=torch.float64)
    for half, rate in enumerate(sde.diffusion2(segment.times).unbind(1), start=sde.n - sde.m):
        white = torch.zeros(len(segment.times), sde.n, dtype=torch.float64)
        white[:, half] = eta * rate.sqrt()
        covariance += segment.gram(white)
    return torch.linalg.cholesky(covariance)


def strengths(sde: Diffusion, eta: float, t: Tensor) -> Tensor:
    """Factors (K, m, 1) of -s in du/dt of the scored halves, (1 + eta^2)/2 g^2 at times t (K,)."""
    return 0.5 * (1.0 + eta * eta) * sde.diffusion2(t)[:, :, None]


def known_part(sde: Diffusion, eta: float, t: Tensor) -> Tensor:
    """The linear part that is solved exactly: the drift and what K adds to it, (K, n, n), float64."""
    first = sde.n - sde.m
    out = drift(sde, t)
    out[:, first:, first:] += strengths(sde, eta, t) * sde.known_precision(t)
    return out


def alpha_fields(sde: Diffusion, eta: float, t: Tensor) -> Tensor:
    """The factors of alpha in du/dt, (K, n, m), float64: E times the strengths, in the scored halves."""
    fields = torch.zeros(len(t), sde.n, sde.m, dtype=torch.float64)
    fields[:, sde.n - sde.m :] = strengths(sde, eta, t) * sde.target(t)
    return fields


def drift(sde: Diffusion, t: Tensor) -> Tensor:
    """beta(t) A, (K, n, n), float64."""
    return (sde.schedule.beta(t) * torch.ones_like(t))[:, None, None] * torch.tensor(sde.A, dtype=torch.float64)


def lagrange(sde: Diffusion, points: Sequence[float], t: Tensor) -> Tensor:
    """Lagrange polynomials (len(points), K) of ``points`` at times t (K,), in the variable sqrt(B(t)).

    Of the variables that were tried, alpha is interpolated best in this one near the data, and steps do not depend on
    how fast beta varies.
    """
    root = sde.schedule.integral(t).sqrt()
    nodes = [math.sqrt(sde.schedule.integral(point)) for point in points]
    rows = []
    for j, here in enumerate(nodes):
        row = torch.ones_like(root)
        for m, other in enumerate(nodes):
            if m != j:
                row = row * ((root - other) / (here - other))
        rows.append(row)
    return torch.stack(rows)


def _add_all(u: Tensor, weights: Sequence[Tensor], fields: list[Tensor]) -> None:
    """u += the sum of weights_j fields_j, in place."""
    for weight, found in zip(weights, fields, strict=False):
        add(u, weight, found)
