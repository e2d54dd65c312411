"""Multistep methods: steps with fixed coefficients that combine the results of earlier evaluations.

The result of an evaluation at u and t, a *field* (`exponential`: alpha; `gddim`: noise), is
interpolated between evaluations; the linear rest of the equation is solved exactly. Both samplers
share the steps and their weights.

Coefficients come from float64 quadrature of small linear equations over the steps of a grid
(docs/math.md section 7.2): du/dt = A(t) u + f(t), with few components n that are the same for every
pixel, from t down to t':

    u(t') = Phi(t', t) u(t) - integral over [t', t] of Phi(t', tau) f(tau) dtau.

Each step is cut into panels whose ends differ by a factor of 2 at most, because A and f vary on the
scale of t. On a panel, Gauss-Legendre collocation with 16 nodes gives Phi, and the integrals are
summed at the same nodes: both are exact to rounding.
"""

import math
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
import torch
from torch import Tensor

from cld_core.config.sampling import ExponentialSpec, GddimSpec
from cld_core.samplers import FixedSteps
from cld_core.sde import Diffusion
from cld_core.sde.matrices import apply, combined

NODES = 16


def _collocation() -> tuple[Tensor, Tensor, Tensor]:
    """Nodes (16,), weights (16,), and integrals from 0 to each node (16, 16), on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    # Column l of the inverse holds the Legendre coefficients of the l-th Lagrange polynomial.
    coefficients = np.linalg.inv(np.polynomial.legendre.legvander(x, NODES - 1))
    antiderivative = np.polynomial.legendre.legint(coefficients, lbnd=-1, axis=0)
    up_to_node = np.polynomial.legendre.legvander(x, NODES) @ antiderivative
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2), torch.from_numpy(up_to_node / 2)


_X, _W, _UP_TO = _collocation()


@dataclass(frozen=True)
class Segment:
    """One step, from t down to t'."""

    times: Tensor  # (K,), the nodes tau
    weights: Tensor  # (K,)
    back: Tensor  # (K, n, n), Phi(t', tau)
    whole: Tensor  # (n, n), Phi(t', t)

    def integral(self, field: Tensor) -> Tensor:
        """The second term of u(t'), (n, k), for k functions f at the nodes, ``field`` (K, n, k)."""
        return -torch.einsum("p,pij,pjk->ik", self.weights, self.back, field)

    def gram(self, field: Tensor) -> Tensor:
        """Integral (n, n) of (Phi f) (Phi f)^T: the covariance that white noise along ``field`` (K,
        n) leaves."""
        carried = torch.einsum("kij,kj->ki", self.back, field)
        return torch.einsum("k,ki,kj->ij", self.weights, carried, carried)


def segments(times: Sequence[float], matrix: Callable[[Tensor], Tensor]) -> list[Segment]:
    """One segment per step of the falling ``times``.

    ``matrix`` maps times (K,) to A (K, n, n), float64.
    """
    edges = [_panel_edges(end, start) for start, end in pairwise(times)]
    panels = [panel for step in edges for panel in pairwise(step)]
    low, high = torch.tensor(panels, dtype=torch.float64).unbind(1)
    width = high - low
    nodes = low[:, None] + width[:, None] * _X
    inside, across = _transport(matrix(nodes.flatten()).unflatten(0, nodes.shape), width)
    result = []
    first = 0
    for step in edges:
        last = first + len(step) - 1
        back = []
        whole = torch.eye(inside.shape[-1], dtype=torch.float64)
        for panel in range(first, last):
            back.append(whole @ inside[panel])
            whole = whole @ across[panel]
        weights = (width[first:last, None] * _W).flatten()
        result.append(Segment(nodes[first:last].flatten(), weights, torch.cat(back), whole))
        first = last
    return result


def with_middles(times: Sequence[float]) -> list[float]:
    """The times of a grid and, between two of them, the middle."""
    halves = [(0.5 * (t + t_next), t_next) for t, t_next in pairwise(times)]
    return [times[0], *chain.from_iterable(halves)]


def _panel_edges(low: float, high: float) -> list[float]:
    """The edges of panels in geometric progression, from ``low`` > 0 to ``high``."""
    panels = max(1, math.ceil(math.log2(high / low)))
    return [low * (high / low) ** (i / panels) for i in range(panels)] + [high]


def _transport(a: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Phi(low, node), (P, 16, n, n), and Phi(low, high), (P, n, n), of each panel, from A at its
    nodes.

    X(tau) = Phi(low, tau) solves dX/dtau = -X A, X(low) = I: each of its rows x is a column vector
    with x + integral of A^T x = its start, one linear system of 16 n unknowns for all rows.
    """
    n = a.shape[-1]
    identity = torch.eye(n, dtype=torch.float64)
    unknowns = NODES * n
    integrals = torch.einsum("p,kl,plij->pkjli", width, _UP_TO, a).reshape(-1, unknowns, unknowns)
    system = integrals + torch.eye(unknowns, dtype=torch.float64)
    rows = torch.linalg.solve(system, identity.repeat(NODES, 1).expand(len(a), -1, -1))
    inside = rows.unflatten(1, (NODES, n)).transpose(2, 3)
    across = identity - torch.einsum("p,k,pkij,pkjl->pil", width, _W, inside, a)
    return inside, across


@dataclass(frozen=True)
class StepCoefficients:
    """Coefficients of one step, for fields of k parts.

    A matrix has n columns for u, then k for each of the fields, the newest first.

    Attributes:
        predictor: (n, n + jk): Phi, and c_j of the fields at t_i, t_(i-1), ...
        corrector: (n, n + jk): 1, and the weights of the fields at t_(i+1), t_i, ... in the
            correction, which is added once the first of them is computed; None without corrector.
        noise: (n, n), lower Cholesky factor; None without noise.
    """

    predictor: Tensor
    corrector: Tensor | None = None
    noise: Tensor | None = None


def stepped(sde: Diffusion, matrix: Tensor, u: Tensor, fields: Sequence[Tensor]) -> Tensor:
    """The matrix (n, n + jk) times u (B, nC, ...) and the newest j of the ``fields`` (B, kC, ...),
    which come newest first."""
    channels = u.shape[1] // sde.n
    parts = [part for tensor in (u, *fields) for part in tensor.split(channels, dim=1)]
    return combined(matrix, parts[: matrix.shape[1]])


def predictor_corrector(
    sde: Diffusion,
    spec: ExponentialSpec | GddimSpec,
    times: Sequence[float],
    steps: Sequence[StepCoefficients],
    field: Callable[[Tensor, float], Tensor],
    score_of: Callable[[Tensor, Tensor], Tensor],
    noise: Iterator[Tensor],
    *,
    starts: Container[int] = (0,),
    shares: Sequence[float | None] | None = None,
) -> FixedSteps:
    """The method with the coefficients ``steps``. One evaluation of ``field`` per step.

    The corrector uses the evaluation of the next step, or of the denoising step, so it takes none
    itself.

    Args:
        field: maps u and t to the field, (B, kC, ...), by one evaluation of the score.
        score_of: the score (B, mC, ...) at the end, from the field there and the corrected u.
        starts: the steps that use no field of earlier steps.
        shares: the `shares` of the `FixedSteps`.
    """
    history: list[Tensor] = []

    def step(u: Tensor, i: int) -> Tensor:
        if i in starts:
            history[:] = [field(u, times[i])]
        coefficients = steps[i]
        u = stepped(sde, coefficients.predictor, u, history)
        if coefficients.noise is not None:
            u.add_(apply(coefficients.noise, next(noise)))
        is_last = i + 1 == len(steps)
        if spec.denoise if is_last else i + 1 not in starts:
            history.insert(0, field(u, times[i + 1]))
            if coefficients.corrector is not None:
                u = stepped(sde, coefficients.corrector, u, history)
            del history[spec.order + 1 :]
        return u

    def denoise(u: Tensor) -> Tensor:
        return sde.euler_step(u, score_of(history[0], u), spec.eps, spec.eps)

    return FixedSteps(times, step, denoise, shares)


def interpolating(
    sde: Diffusion,
    times: Sequence[float],
    parts: Sequence[Segment],
    fields: Sequence[Tensor],
    order: int,
    corrector: bool,
    eta: float = 0.0,
) -> tuple[StepCoefficients, ...]:
    """The steps over the segments ``parts`` of a grid.

    Step i interpolates with degree min(order, i), which is what the evaluations so far allow. The
    corrector interpolates with degree max(order, 1), the end of the step being one of its points.

    Args:
        fields: for each segment, (K, n, k), the factors of the interpolated field in du/dt at the
            nodes.
        eta: the amount of noise.
    """
    steps = []
    for i, (part, field) in enumerate(zip(parts, fields, strict=True)):
        past = times[i::-1]  # the start of the step and those before, back to 1
        weights = _weights(sde, part, field, past[: order + 1])
        correct = None
        if corrector:
            points = [times[i + 1], *past][: max(order, 1) + 1]
            corrected = _weights(sde, part, field, points)
            correct = _correction(weights, corrected, field.shape[2])
        noise = noise_factor(sde, part, eta) if eta else None
        steps.append(StepCoefficients(torch.cat([part.whole, weights], dim=1), correct, noise))
    return tuple(steps)


def _weights(sde: Diffusion, part: Segment, field: Tensor, points: Sequence[float]) -> Tensor:
    """Weights (n, len(points) k) of a field that is interpolated between points."""
    polynomials = lagrange(sde, points, part.times)
    return torch.cat([part.integral(field * row[:, None, None]) for row in polynomials], dim=1)


def _correction(predicted: Tensor, corrected: Tensor, k: int) -> Tensor:
    """The matrix that turns a step with the weights ``predicted`` into a corrected step.

    The first k of the weights ``corrected`` belong to one more field.
    """
    n = len(predicted)
    change = predicted.new_zeros(n, max(corrected.shape[1], k + predicted.shape[1]))
    change[:, : corrected.shape[1]] += corrected
    change[:, k : k + predicted.shape[1]] -= predicted
    return torch.cat([torch.eye(n, dtype=torch.float64), change], dim=1)


def noise_factor(sde: Diffusion, segment: Segment, eta: float) -> Tensor:
    """Lower factor (n, n) of the covariance of the noise that a step adds."""
    covariance = torch.zeros(sde.n, sde.n, dtype=torch.float64)
    for half, rate in enumerate(sde.diffusion2(segment.times).unbind(1), start=sde.unscored):
        white = torch.zeros(len(segment.times), sde.n, dtype=torch.float64)
        white[:, half] = eta * rate.sqrt()
        covariance += segment.gram(white)
    return torch.linalg.cholesky(covariance)


def pulling(sde: Diffusion, eta: float, t: Tensor, scored: Tensor) -> Tensor:
    """The term in du/dt of -s = ``scored`` (K, m, k) at times t (K,), (K, n, k).

    It is (1 + eta^2)/2 g^2 times that in the scored halves, and 0 in the others.
    """
    strengths = 0.5 * (1.0 + eta * eta) * sde.diffusion2(t)[:, :, None]
    return torch.nn.functional.pad(strengths * scored, (0, 0, sde.unscored, 0))


def known_part(sde: Diffusion, eta: float, t: Tensor) -> Tensor:
    """The linear part that is solved exactly: the drift and what K adds to it, (K, n, n),
    float64."""
    of_scored = torch.nn.functional.pad(sde.known_precision(t), (sde.unscored, 0))
    return drift(sde, t) + pulling(sde, eta, t, of_scored)


def alpha_fields(sde: Diffusion, eta: float, t: Tensor) -> Tensor:
    """The factors of alpha in du/dt, (K, n, m), float64."""
    return pulling(sde, eta, t, sde.target(t))


def drift(sde: Diffusion, t: Tensor) -> Tensor:
    """beta(t) A, (K, n, n), float64."""
    return sde.schedule.beta(t)[:, None, None] * torch.tensor(sde.A, dtype=torch.float64)


def lagrange(sde: Diffusion, points: Sequence[float], t: Tensor) -> Tensor:
    """Lagrange polynomials (len(points), K) of ``points`` at times t (K,), in the variable
    sqrt(B(t)).

    Near the data, alpha is interpolated better in this variable than in others that were tried, and
    steps do not depend on how fast beta varies.
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
