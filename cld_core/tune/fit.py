"""The rows of a fit (`tuning`). Each row follows from those before it, so a fit can be continued after any row."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cld_core.sde import Schedule

from .derivatives import Fitted, linearised, samples
from .linear import POWER, Linear, of_exponential, packed, spaced, unpacked, with_memory
from .tuning import CANDIDATES, EACH, FAR, KEPT, PLAIN, ROBUST, SPACINGS, STAGES, STARTS, Row

Rows = Mapping[str, Sequence[Row]]
# Of the finite differences in the shares of a grid.
_STEP = 1e-3
FIRST_DAMPING = 1e-2
_LEAST_DAMPING, _EASE, _STIFFEN = 1e-8, 0.2, 8.0
# With more damping than this, an iteration no longer changes anything.
_STUCK = 1e8
# The most changes that an iteration tries, each with more damping.
TRIALS = 8
# Examples whose errors exceed this many times the median count less and less.
_USUAL = 10.0


@dataclass(frozen=True)
class Point:
    """Parameters (P,), and the damping of the next iteration."""

    parameters: Tensor
    damping: float = FIRST_DAMPING

    @classmethod
    def of(cls, row: Row) -> "Point":
        """Those of a row."""
        return cls(torch.tensor(row.parameters, dtype=torch.float64), row.damping)


@dataclass(frozen=True)
class Ends:
    """Draws u of the prior (B, nC, ...), and the ends x (B, C, ...) of the network's own flow from them; float64."""

    u: Tensor
    x: Tensor


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
        which, point = ways[stage](rows)
        row = Row(which, tuple(point.parameters.tolist()), point.damping, FAR, FAR)
        sampler = self.sampler(stage, rows, row)
        fit, held = (_rms(self._errors(ends, sampler)) for ends in (self.fit, self.held))
        # The times of a solution have to decrease.
        return replace(row, fit=fit, held=held if bool((sampler.times.diff() < 0).all()) else FAR)

    def sampler(self, stage: str, rows: Rows, row: Row) -> Linear:
        """The sampler of a row."""
        if stage in ("fewer", "coefficients"):
            origin = self._start() if stage == "fewer" else self._origin(rows, row.which)
            return self._with(origin, Point.of(row).parameters)
        times = self._spaced(row.which) if stage == "untuned" else self._times(Point.of(row).parameters)
        return self._over(times, _candidate(stage, row.which))

    def _untuned(self, rows: Rows) -> tuple[int, Point]:
        return len(rows["untuned"]), Point(torch.zeros(0, dtype=torch.float64))

    def _fewer(self, rows: Rows) -> tuple[int, Point]:
        """The neighbour itself, so that more evaluations are never further from the flow than fewer; then a fit."""
        start, done = self._start(), rows["fewer"]
        if not done:
            return 0, Point(packed(start, self.denoise))
        return 0, self._moved(Point.of(done[-1]), start, robust=False)

    def _grid(self, rows: Rows) -> tuple[int, Point]:
        candidate = _next_candidate(rows["grid"])
        mine = [row for row in rows["grid"] if row.which == candidate]
        before = Point.of(mine[-1]) if mine else Point(self._first_shares(candidate, rows["untuned"]))
        if not len(before.parameters) or before.damping >= _STUCK:  # A single step has nothing to move.
            return candidate, before

        def errors(shares: Tensor) -> Tensor:
            return self._errors(self.fit, self._over(self._times(shares), candidate))

        def slopes(shares: Tensor) -> tuple[Tensor, Tensor]:
            here = errors(shares)
            moved = (errors(shares + _STEP * unit) for unit in torch.eye(len(shares), dtype=torch.float64))
            return here, torch.stack([(there - here) / _STEP for there in moved])

        return candidate, advanced(before, errors, slopes, robust=False)

    def _coefficients(self, rows: Rows) -> tuple[int, Point]:
        candidate = _next_start(rows["grid"], rows["coefficients"])
        done, origin = [row for row in rows["coefficients"] if row.which == candidate], self._origin(rows, candidate)
        before = Point.of(done[-1]) if done else Point(packed(origin, self.denoise))
        robust = PLAIN <= len(done) < PLAIN + ROBUST
        if len(done) in (PLAIN, PLAIN + ROBUST):  # From here on, the sum of squares has other weights.
            before = Point(before.parameters)
        return candidate, self._moved(before, origin, robust=robust)

    def _moved(self, before: Point, origin: Linear, *, robust: bool) -> Point:
        """The next point of a fit of times and coefficients."""
        if before.damping >= _STUCK:
            return before

        def errors(parameters: Tensor) -> Tensor:
            return self._errors(self.fit, self._with(origin, parameters))

        def slopes(parameters: Tensor) -> tuple[Tensor, Tensor]:
            x, found = linearised(self.fitted, self._with(origin, parameters), self.fit.u, self.denoise)
            return (x - self.fit.x).flatten(1), found.flatten(2)

        return advanced(before, errors, slopes, robust=robust)

    def _start(self) -> Linear:
        assert self.neighbour is not None, "there is no solution of fewer evaluations to start from"
        return with_memory(self.neighbour)

    def _origin(self, rows: Rows, candidate: int) -> Linear:
        """The sampler that the fit of coefficients starts from: the best grid of a candidate."""
        start = best([row for row in rows["grid"] if row.which == candidate])
        return with_memory(self.sampler("grid", rows, start))

    def _first_shares(self, candidate: int, untuned: Sequence[Row]) -> Tensor:
        """The shares of the best spacing for a candidate."""
        starts = [row for row in untuned if _candidate("untuned", row.which) == candidate]
        return shares_of(self.fitted.sde.schedule, self._spaced(min(starts, key=lambda row: row.fit).which))

    def _spaced(self, pair: int) -> list[float]:
        return spaced(self.fitted.sde, self.nfe, self.eps, self.denoise, SPACINGS[pair % len(SPACINGS)])

    def _times(self, shares: Tensor) -> list[float]:
        return times_of(self.fitted.sde.schedule, shares, self.eps)

    def _over(self, times: Sequence[float], candidate: int) -> Linear:
        return of_exponential(self.fitted.sde, times, CANDIDATES[candidate], self.denoise)

    def _with(self, origin: Linear, parameters: Tensor) -> Linear:
        return unpacked(parameters, origin, self.denoise, self.eps)

    def _errors(self, ends: Ends, sampler: Linear) -> Tensor:
        """(B, D): differences from the flow."""
        return (samples(self.fitted, sampler, ends.u) - ends.x).flatten(1)


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
    spacing = f" grid={SPACINGS[row.which % len(SPACINGS)]}" if stage == "untuned" else ""
    return f"{CANDIDATES[_candidate(stage, row.which)]}{spacing}"


def _candidate(stage: str, which: int) -> int:
    return which // len(SPACINGS) if stage == "untuned" else which


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


def shares_of(schedule: Schedule, times: Sequence[float]) -> Tensor:
    """Parameters of a grid: logarithms of its steps relative to the last one, which is left out: (steps - 1,)."""
    places = torch.tensor([schedule.integral(t) ** (1.0 / POWER) for t in times], dtype=torch.float64)
    steps = (places[:-1] - places[1:]).log()
    return steps[:-1] - steps[-1]


def times_of(schedule: Schedule, shares: Tensor, eps: float) -> list[float]:
    """The grid of such shares from 1 to ``eps``: the times decrease whatever the shares are."""
    first, last = (schedule.integral(t) ** (1.0 / POWER) for t in (1.0, eps))
    passed = torch.softmax(torch.cat([shares, shares.new_zeros(1)]), 0).cumsum(0)[:-1].tolist()
    return [1.0, *(schedule.time((first + (last - first) * share) ** POWER) for share in passed), eps]


def advanced(
    point: Point,
    residual: Callable[[Tensor], Tensor],
    linearised: Callable[[Tensor], tuple[Tensor, Tensor]],
    *,
    robust: bool,
) -> Point:
    """The next point by the method of Levenberg and Marquardt: a smaller sum of squares, or more damping.

    Args:
        residual: errors (B, D) for parameters (P,).
        linearised: the same, and their derivatives (P, B, D).
        robust: give less weight to outliers, such as examples that end in another mode.
    """
    errors, slopes = linearised(point.parameters)
    if not (torch.isfinite(errors).all() and torch.isfinite(slopes).all()):
        return Point(point.parameters, point.damping * _STIFFEN)
    weights = weights_of(errors) if robust else torch.ones(len(errors), dtype=errors.dtype, device=errors.device)
    root = weights.sqrt()[:, None]
    flat = (slopes * root).flatten(1)
    gradient, curvature = flat @ (errors * root).flatten(), flat @ flat.T
    diagonal = curvature.diagonal()
    scale = diagonal + 1e-10 * diagonal.max()
    cost, damping = _cost(errors, weights), point.damping
    for _ in range(TRIALS):
        # A singular system gives numbers that are not finite.
        change, _ = torch.linalg.solve_ex(curvature + damping * torch.diag(scale), gradient)
        moved = point.parameters - change.to(point.parameters)
        if torch.isfinite(moved).all() and _cost(residual(moved), weights) < cost:
            return Point(moved, max(damping * _EASE, _LEAST_DAMPING))
        damping *= _STIFFEN
    return Point(point.parameters, damping)


def weights_of(errors: Tensor) -> Tensor:
    """(B,): near 1 for examples with usual errors (B, D), and small for those far from the median."""
    square = errors.square().mean(1)
    return 1.0 / (1.0 + square / (_USUAL**2 * square.median()).clamp(min=torch.finfo(square.dtype).tiny))


def _cost(errors: Tensor, weights: Tensor) -> float:
    """Infinite where an error is not finite."""
    cost = float((weights * errors.square().mean(1)).mean())
    return cost if cost == cost else float("inf")
