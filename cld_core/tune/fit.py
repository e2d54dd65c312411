"""The rows of a fit (`tuning`). Each row follows from those before it, so a fit can be continued after any row."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cld_core.samplers.tuned import Linear
from cld_core.sde import Diffusion

from . import linear
from .linear import Fitted
from .tuning import CANDIDATES, EACH, FAR, KEPT, PLAIN, ROBUST, SPACINGS, STAGES, STARTS, Row, TuneRequest

Rows = Mapping[str, Sequence[Row]]
# Of the finite differences in the shares of a grid.
_STEP = 1e-3
FIRST_DAMPING = 1e-2
_LEAST_DAMPING, _EASE, _STIFFEN = 1e-8, 0.2, 8.0
# With more damping than this, an iteration no longer changes anything.
_STUCK = 1e8
# The most changes that an iteration tries, each with more damping.
_TRIALS = 8
# Examples whose errors exceed this many times the median count less and less.
_USUAL = 10.0
# Coordinates of a point, and so backward passes.
_PLANE = 2


@dataclass(frozen=True)
class Ends:
    """Draws u of the prior (B, nC, ...), and the ends x (B, C, ...) of the network's own flow from them; float64."""

    u: Tensor
    x: Tensor


class Iterate(NamedTuple):
    """Parameters (P,), the damping of the next iteration, and errors (B, D)."""

    parameters: Tensor
    damping: float
    errors: Tensor


@dataclass(frozen=True)
class Problem:
    """A score, the draws for the fit and the held-out ones, and the kind of sampler.

    Attributes:
        nfe: evaluations, that of the denoising step included.
        eps: time at which the flow ends.
        denoise: whether its end is denoised.
        neighbour: a solution of fewer evaluations, with idle ones up to ``nfe`` (`linear.extended`).
    """

    fitted: Fitted
    fit: Ends
    held: Ends
    nfe: int
    eps: float
    denoise: bool
    neighbour: Linear | None = None

    def row(self, stage: str, rows: Rows) -> Row:
        """The next row of a stage, from the rows of this stage and of those before it."""
        ways = {
            "untuned": self._untuned,
            "fewer": self._fewer,
            "grid": self._grid,
            "coefficients": self._coefficients,
        }
        which, sampler, damping, errors = ways[stage](rows)
        # The times of a solution have to decrease.
        falls = bool((sampler.times.diff() < 0).all())
        held = _rms(self._errors(self.held, sampler)) if falls else FAR
        return Row(which, sampler.plain(), damping, _rms(errors), held)

    def _untuned(self, rows: Rows) -> tuple[int, Linear, float, Tensor]:
        pair = len(rows["untuned"])
        times = linear.spaced(self.fitted.sde, self.nfe, self.eps, self.denoise, SPACINGS[pair % len(SPACINGS)])
        sampler = self._over(times, pair // len(SPACINGS))
        return pair, sampler, FIRST_DAMPING, self._errors(self.fit, sampler)

    def _fewer(self, rows: Rows) -> tuple[int, Linear, float, Tensor]:
        """The neighbour itself, so that more evaluations are never further from the flow than fewer; then a fit."""
        if rows["fewer"]:
            before = rows["fewer"][-1]
            return 0, *self._fitted(Linear.of(before.sampler), before.damping, robust=False)
        assert self.neighbour is not None, "there is no solution of fewer evaluations to start from"
        return 0, self.neighbour, FIRST_DAMPING, self._errors(self.fit, self.neighbour)

    def _grid(self, rows: Rows) -> tuple[int, Linear, float, Tensor]:
        which, schedule = _next_candidate(rows["grid"]), self.fitted.sde.schedule
        done = [row for row in rows["grid"] if row.which == which]
        starts = [row for row in rows["untuned"] if row.which // len(SPACINGS) == which]
        before = done[-1] if done else min(starts, key=lambda row: row.fit)

        def sampler(shares: Tensor) -> Linear:
            return self._over(linear.times_of(schedule, shares, self.eps), which)

        def slopes(shares: Tensor, errors: Tensor) -> Iterator[Tensor]:
            moved = (shares + _STEP * unit for unit in torch.eye(len(shares), dtype=torch.float64))
            yield torch.stack([(self._errors(self.fit, sampler(there)) - errors) / _STEP for there in moved])

        times = before.sampler.times if self.denoise else (*before.sampler.times, self.eps)
        return which, *self._moved(linear.shares_of(schedule, times), before.damping, sampler, slopes, robust=False)

    def _coefficients(self, rows: Rows) -> tuple[int, Linear, float, Tensor]:
        which = _next_start(rows["grid"], rows["coefficients"])
        done = [row for row in rows["coefficients"] if row.which == which]
        start = done[-1] if done else best([row for row in rows["grid"] if row.which == which])
        # From these numbers on, the sum of squares has other weights.
        fresh = not done or len(done) in (PLAIN, PLAIN + ROBUST)
        damping = FIRST_DAMPING if fresh else start.damping
        robust = PLAIN <= len(done) < PLAIN + ROBUST
        return which, *self._fitted(Linear.of(start.sampler), damping, robust=robust)

    def _fitted(self, start: Linear, damping: float, *, robust: bool) -> tuple[Linear, float, Tensor]:
        """After an iteration of times and coefficients: the sampler, the damping of the next one, and errors."""
        start = linear.with_memory(start)

        def sampler(parameters: Tensor) -> Linear:
            return linear.unpacked(parameters, start, self.denoise, self.eps)

        def slopes(parameters: Tensor, errors: Tensor) -> Iterator[Tensor]:
            for part in self.fitted.slopes(sampler(parameters), self.fit.u, self.denoise):
                yield part.flatten(2)

        return self._moved(linear.packed(start, self.denoise), damping, sampler, slopes, robust=robust)

    def _moved(
        self,
        parameters: Tensor,
        damping: float,
        sampler: Callable[[Tensor], Linear],
        slopes: Callable[[Tensor, Tensor], Iterable[Tensor]],
        *,
        robust: bool,
    ) -> tuple[Linear, float, Tensor]:
        def errors(parameters: Tensor) -> Tensor:
            return self._errors(self.fit, sampler(parameters))

        found = Iterate(parameters, damping, errors(parameters))
        if len(parameters) and damping < _STUCK:  # A grid of a single step has nothing to move.
            found = advanced(found, errors, slopes, robust=robust)
        return sampler(found.parameters), found.damping, found.errors

    def _over(self, times: Sequence[float], candidate: int) -> Linear:
        return linear.of_exponential(self.fitted.sde, times, CANDIDATES[candidate], self.denoise)

    def _errors(self, ends: Ends, sampler: Linear) -> Tensor:
        """(B, D): differences from the flow."""
        return (self.fitted.samples(sampler, ends.u) - ends.x).flatten(1)


def best(rows: Sequence[Row]) -> Row:
    """The row that is closest on held-out noise; the first one if several are equal."""
    return min(rows, key=lambda row: row.held)


def kept(rows: Rows) -> str:
    """The stage whose best row is closest on held-out noise; the simplest one if several are equal."""
    return min((stage for stage in STAGES if rows[stage]), key=lambda stage: best(rows[stage]).held)


def settings_of(stage: str, row: Row) -> str:
    """The settings that a row starts from, for messages."""
    if stage == "fewer":
        return "the solution of fewer evaluations"
    if stage == "untuned":
        candidate, spacing = divmod(row.which, len(SPACINGS))
        return f"{CANDIDATES[candidate]} grid={SPACINGS[spacing]}"
    return str(CANDIDATES[row.which])


def _next_candidate(grids: Sequence[Row]) -> int:
    """Every candidate in turn, and after that the best ones."""
    first = EACH * len(CANDIDATES)
    if len(grids) < first:
        return len(grids) % len(CANDIDATES)
    leading = sorted(grids[first - len(CANDIDATES) : first], key=lambda row: row.fit)
    return leading[(len(grids) - first) % KEPT].which


def _next_start(grids: Sequence[Row], done: Sequence[Row]) -> int:
    """The candidates with the best grids in turn, and after that the closest one."""
    bests: dict[int, float] = {}
    for row in grids:
        bests[row.which] = min(row.fit, bests.get(row.which, math.inf))
    starts = sorted(bests, key=lambda which: bests[which])[:STARTS]
    first = len(starts) * PLAIN
    return starts[len(done) % len(starts)] if len(done) < first else min(done[:first], key=lambda row: row.fit).which


def _rms(errors: Tensor) -> float:
    found = math.sqrt(float(errors.square().mean()))
    return min(found, FAR) if math.isfinite(found) else FAR


def advanced(
    before: Iterate,
    residual: Callable[[Tensor], Tensor],
    linearised: Callable[[Tensor, Tensor], Iterable[Tensor]],
    *,
    robust: bool,
) -> Iterate:
    """The next iterate by the method of Levenberg and Marquardt: a smaller sum of squares, or more damping.

    Args:
        residual: errors (B, D) for parameters (P,).
        linearised: from parameters and their errors the derivatives of these (P, b, D), for some rows after others.
        robust: give less weight to outliers, such as examples that end in another mode.
    """
    parameters, damping, errors = before
    weights = weights_of(errors) if robust else errors.new_ones(len(errors))
    gradient = errors.new_zeros(len(parameters))
    curvature, first = torch.diag(gradient), 0
    for slopes in linearised(parameters, errors):
        rows = slice(first, first + slopes.shape[1])
        first = rows.stop
        root = weights[rows].sqrt()[:, None]
        flat = (slopes * root).flatten(1)
        gradient, curvature = gradient + flat @ (errors[rows] * root).flatten(), curvature + flat @ flat.T
    if not (torch.isfinite(gradient).all() and torch.isfinite(curvature).all()):
        return before._replace(damping=damping * _STIFFEN)
    diagonal = curvature.diagonal()
    scale = diagonal + 1e-10 * diagonal.max()
    cost = _cost(errors, weights)
    for _ in range(_TRIALS):
        # A singular system gives numbers that are not finite.
        change, _ = torch.linalg.solve_ex(curvature + damping * torch.diag(scale), gradient)
        moved = parameters - change.to(parameters)
        if torch.isfinite(moved).all() and _cost(found := residual(moved), weights) < cost:
            return Iterate(moved, max(damping * _EASE, _LEAST_DAMPING), found)
        damping *= _STIFFEN
    return before._replace(damping=damping)


def weights_of(errors: Tensor) -> Tensor:
    """(B,): near 1 for examples with usual errors (B, D), and small for those far from the median."""
    square = errors.square().mean(1)
    return 1.0 / (1.0 + square / (_USUAL**2 * square.median()).clamp(min=torch.finfo(square.dtype).tiny))


def _cost(errors: Tensor, weights: Tensor) -> float:
    """Infinite where an error is not finite."""
    cost = float((weights * errors.square().mean(1)).mean())
    return cost if cost == cost else float("inf")


def most_evaluations(request: TuneRequest, sde: Diffusion, images: bool) -> int:
    """The most evaluations for each fitted point, without those of its flow. A fit usually takes half as many.

    A backward pass through the network counts as an evaluation; with guidance, each counts twice.

    Args:
        images: whether examples are images, and not points in the plane.
    """
    nfe, denoise = request.nfe, request.flow.denoise
    largest = linear.of_exponential(sde, linear.spaced(sde, nfe, 1e-3, denoise, SPACINGS[0]), CANDIDATES[-1], denoise)
    largest = linear.with_memory(largest)
    # By copies, each parameter of a step takes the steps after it.
    each = [
        block.numel() + (number in linear.free(largest, denoise)) for number, block in enumerate(linear.blocks(largest))
    ]
    copies = sum(count * (nfe - 1 - number) for number, count in enumerate(each))
    slopes = nfe + copies + nfe if images else nfe * (1 + _PLANE + linear.PER_TIME)
    judged, tried = 2 * nfe, _TRIALS * nfe
    grid = (nfe - 1) * nfe + tried + judged
    coefficients = STAGES["fewer"] + STAGES["coefficients"]
    each_row = STAGES["untuned"] * judged + STAGES["grid"] * grid + coefficients * (slopes + tried + judged)
    return request.networks * each_row
