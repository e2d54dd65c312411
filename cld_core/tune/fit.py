"""The rows of a fit (`stages`). Each row follows from those before it, so a fit can be continued after any row."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import backwards, differences, grid
from .differences import Fitted
from .levenberg import FIRST_DAMPING, Point, advanced
from .linear import Linear, of_exponential, spaced, with_memory
from .stages import CANDIDATES, EACH, KEPT, PLAIN, ROBUST, SPACINGS, STAGES, STARTS

# With more damping than this, an iteration no longer changes anything.
_STUCK = 1e8


@dataclass(frozen=True)
class Row:
    """One entry of a stage.

    Attributes:
        which: index of the candidate; in the stage "untuned", of the pair of candidate and spacing.
        parameters: those of the grid (`grid.shares`) or all (`differences.packed`); empty in the stage "untuned".
        damping: for the next iteration.
        fit: rms distance per coordinate on the noise of the fit.
        held: the same on held-out noise; infinite if samples are not finite.
    """

    which: int
    parameters: Tensor
    damping: float
    fit: float
    held: float

    @property
    def point(self) -> Point:
        return Point(self.parameters, self.damping)


Rows = Mapping[str, Sequence[Row]]


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
        return ways[stage](rows)

    def sampler(self, stage: str, rows: Rows, row: Row) -> Linear:
        """The sampler of a row."""
        if stage == "fewer":
            return self._with(self._start(), row.parameters)
        if stage == "coefficients":
            return self._with(self._origin(rows, row.which), row.parameters)
        return self._over(
            self._spaced(row.which) if stage == "untuned" else self._times(row.parameters), row.which, stage
        )

    def _untuned(self, rows: Rows) -> Row:
        pair = len(rows["untuned"])
        return self._judged(
            pair, Point(torch.zeros(0, dtype=torch.float64)), self._over(self._spaced(pair), pair, "untuned")
        )

    def _fewer(self, rows: Rows) -> Row:
        """The neighbour itself, so that no tuning is further from the flow than one of fewer evaluations; then a fit.

        Without a neighbour, nothing.
        """
        done = rows["fewer"]
        if self.neighbour is None:
            return Row(0, torch.zeros(0, dtype=torch.float64), FIRST_DAMPING, math.inf, math.inf)
        start = self._start()
        after = done[-1].point if done else Point(differences.packed(start, self.denoise))
        if done:
            after = self._moved(after, start, robust=False)
        return self._judged(0, after, self._with(start, after.parameters))

    def _start(self) -> Linear:
        assert self.neighbour is not None, "there is no solution of fewer evaluations to start from"
        return with_memory(self.neighbour)

    def _grid(self, rows: Rows) -> Row:
        candidate = _next_candidate(rows["grid"])
        mine = [row for row in rows["grid"] if row.which == candidate]
        before = mine[-1].point if mine else Point(self._first_shares(candidate, rows["untuned"]))

        def errors(shares: Tensor) -> Tensor:
            return self._errors(self.fit, self._over(self._times(shares), candidate, "grid"))

        after = before
        if len(before.parameters) and before.damping < _STUCK:  # A single step has nothing to move.
            after = advanced(before, errors, lambda shares: grid.linearised(errors, shares), robust=False)
        return self._judged(candidate, after, self._over(self._times(after.parameters), candidate, "grid"))

    def _coefficients(self, rows: Rows) -> Row:
        candidate = _next_start(rows["grid"], rows["coefficients"])
        done, origin = [row for row in rows["coefficients"] if row.which == candidate], self._origin(rows, candidate)
        before = done[-1].point if done else Point(differences.packed(origin, self.denoise))
        robust = PLAIN <= len(done) < PLAIN + ROBUST
        if len(done) in (PLAIN, PLAIN + ROBUST):  # From here on, the sum of squares has other weights.
            before = Point(before.parameters, FIRST_DAMPING)
        after = self._moved(before, origin, robust=robust)
        return self._judged(candidate, after, self._with(origin, after.parameters))

    def _moved(self, before: Point, origin: Linear, *, robust: bool) -> Point:
        """The next point of a fit of times and coefficients."""

        def errors(parameters: Tensor) -> Tensor:
            return self._errors(self.fit, self._with(origin, parameters))

        def linearised(parameters: Tensor) -> tuple[Tensor, Tensor]:
            way = backwards if backwards.suits(self.fit.x[0].numel()) else differences
            x, slopes = way.linearised(self.fitted, self._with(origin, parameters), self.fit.u, self.denoise)
            return (x - self.fit.x).flatten(1), slopes.flatten(2)

        return advanced(before, errors, linearised, robust=robust) if before.damping < _STUCK else before

    def _origin(self, rows: Rows, candidate: int) -> Linear:
        """The sampler that the fit of coefficients starts from: the best grid of a candidate."""
        start = best([row for row in rows["grid"] if row.which == candidate])
        return with_memory(self.sampler("grid", rows, start))

    def _first_shares(self, candidate: int, untuned: Sequence[Row]) -> Tensor:
        """The shares of the best spacing for a candidate."""
        starts = [row for row in untuned if row.which // len(SPACINGS) == candidate]
        return grid.shares(self.fitted.sde.schedule, self._spaced(min(starts, key=lambda row: row.fit).which))

    def _spaced(self, pair: int) -> list[float]:
        return spaced(self.fitted.sde, self.nfe, self.eps, self.denoise, SPACINGS[pair % len(SPACINGS)])

    def _times(self, shares: Tensor) -> list[float]:
        return grid.times(self.fitted.sde.schedule, shares, self.eps)

    def _over(self, times: Sequence[float], which: int, stage: str) -> Linear:
        return of_exponential(self.fitted.sde, times, CANDIDATES[_candidate(stage, which)], self.denoise)

    def _with(self, origin: Linear, parameters: Tensor) -> Linear:
        return differences.unpacked(parameters, origin, self.denoise, self.eps)

    def _errors(self, ends: Ends, sampler: Linear) -> Tensor:
        """(B, D): differences from the flow."""
        return (differences.samples(self.fitted, sampler, ends.u) - ends.x).flatten(1)

    def _judged(self, which: int, point: Point, sampler: Linear) -> Row:
        fit, held = (_rms(self._errors(ends, sampler)) for ends in (self.fit, self.held))
        return Row(which, point.parameters, point.damping, fit, held)


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
    return found if math.isfinite(found) else math.inf
