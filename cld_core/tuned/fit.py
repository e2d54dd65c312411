"""The rows of a fit (`stages`). A row follows from those before it, so a fit can go on from any row."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import differences
from .differences import Fitted
from .levenberg import FIRST_DAMPING, Point, advanced
from .linear import Linear, of_exponential, spaced, with_memory
from .stages import BEST, CANDIDATES, EACH, KEPT, PLAIN, ROBUST, SPACINGS, STAGES

_TIME_STEP = 1e-3  # a change of a logarithm of a share of the grid


@dataclass(frozen=True)
class Row:
    """One entry of a stage.

    Attributes:
        which: index of the candidate (of the untuned: candidate, then spacing).
        parameters: logarithms of the shares of the grid, or `differences.packed`; empty for the untuned.
        damping: for the next iteration.
        fit: rms distance per coordinate on the noise that was fitted.
        held: the same on held-out noise; infinite if samples are not finite.
    """

    which: int
    parameters: Tensor
    damping: float
    fit: float
    held: float


@dataclass(frozen=True)
class Ends:
    """Draws of the prior (B, nC, ...) and where the network's own flow takes them, x (B, C, ...); float64."""

    u: Tensor
    x: Tensor


@dataclass(frozen=True)
class Problem:
    """What is fitted to what.

    Attributes:
        nfe: evaluations, that of the denoising step included.
        eps: where the flow ends.
        denoise: whether it is denoised.
    """

    fitted: Fitted
    fit: Ends
    held: Ends
    nfe: int
    eps: float
    denoise: bool

    def row(self, stage: str, rows: dict[str, Sequence[Row]]) -> Row:
        """The next row of a stage, from the rows of this stage and of those before it."""
        number = len(rows[stage])
        if stage == "untuned":
            candidate, spacing = divmod(number, len(SPACINGS))
            times = spaced(self.fitted.sde, self.nfe, self.eps, self.denoise, SPACINGS[spacing])
            return self._judged(number, torch.zeros(0, dtype=torch.float64), FIRST_DAMPING, self._over(times, candidate))
        if stage == "grid":
            return self._grid(number, rows["untuned"], rows["grid"])
        return self._coefficients(rows["grid"], rows["coefficients"])

    def sampler(self, stage: str, rows: dict[str, Sequence[Row]], row: Row) -> Linear:
        """The sampler of a row."""
        if stage == "untuned":
            candidate, spacing = divmod(row.which, len(SPACINGS))
            times = spaced(self.fitted.sde, self.nfe, self.eps, self.denoise, SPACINGS[spacing])
            return self._over(times, candidate)
        if stage == "grid":
            return self._over(self._times(row.parameters), row.which)
        start = with_memory(self.sampler("grid", rows, best(rows["grid"])))
        return differences.unpacked(row.parameters, start, self.denoise, self.eps)

    def _grid(self, number: int, untuned: Sequence[Row], grid: Sequence[Row]) -> Row:
        if number < EACH * len(CANDIDATES):
            candidate = number % len(CANDIDATES)
        else:
            firsts = grid[: EACH * len(CANDIDATES)]
            lasts = sorted(firsts[-len(CANDIDATES) :], key=lambda row: row.fit)
            candidate = lasts[(number - len(firsts)) % KEPT].which
        mine = [row for row in grid if row.which == candidate]
        if mine:
            before = Point(mine[-1].parameters, mine[-1].damping)
        else:
            starts = untuned[candidate * len(SPACINGS) : (candidate + 1) * len(SPACINGS)]
            spacing = SPACINGS[min(starts, key=lambda row: row.fit).which % len(SPACINGS)]
            times = spaced(self.fitted.sde, self.nfe, self.eps, self.denoise, spacing)
            before = Point(self._shares(times))
        if not len(before.parameters):  # A single step has nothing to move.
            return self._judged(candidate, before.parameters, before.damping, self._over(self._times(before.parameters), candidate))

        def errors(shares: Tensor) -> Tensor:
            return self._errors(self.fit, self._over(self._times(shares), candidate))

        def linearised(shares: Tensor) -> tuple[Tensor, Tensor]:
            here = errors(shares)
            moved = (errors(shares + _TIME_STEP * unit) for unit in torch.eye(len(shares), dtype=torch.float64))
            return here, torch.stack([(there - here) / _TIME_STEP for there in moved])

        point = advanced(before, errors, linearised, robust=False)
        return self._judged(candidate, point.parameters, point.damping, self._over(self._times(point.parameters), candidate))

    def _coefficients(self, grid: Sequence[Row], done: Sequence[Row]) -> Row:
        origin = best(grid)
        start = with_memory(self._over(self._times(origin.parameters), origin.which))
        before = (
            Point(done[-1].parameters, done[-1].damping) if done else Point(differences.packed(start, self.denoise))
        )

        def sampler(parameters: Tensor) -> Linear:
            return differences.unpacked(parameters, start, self.denoise, self.eps)

        def linearised(parameters: Tensor) -> tuple[Tensor, Tensor]:
            x, slopes = differences.linearised(self.fitted, sampler(parameters), self.fit.u, self.denoise)
            return (x - self.fit.x).flatten(1), slopes.flatten(2)

        point = advanced(
            before, lambda parameters: self._errors(self.fit, sampler(parameters)), linearised, robust=len(done) >= PLAIN
        )
        return self._judged(origin.which, point.parameters, point.damping, sampler(point.parameters))

    def _over(self, times: Sequence[float], candidate: int) -> Linear:
        return of_exponential(self.fitted.sde, times, CANDIDATES[candidate], self.denoise)

    def _shares(self, times: Sequence[float]) -> Tensor:
        """Logarithms of the steps of a grid in the variable B(t)^(1/6), relative to the last one: one less than steps."""
        places = torch.tensor([self.fitted.sde.schedule.integral(t) ** (1 / 6) for t in times], dtype=torch.float64)
        steps = (places[:-1] - places[1:]).log()
        return steps[:-1] - steps[-1]

    def _times(self, shares: Tensor) -> list[float]:
        """The grid of such shares, which decreases whatever they are."""
        schedule = self.fitted.sde.schedule
        first, last = (schedule.integral(t) ** (1 / 6) for t in (1.0, self.eps))
        passed = torch.softmax(torch.cat([shares, shares.new_zeros(1)]), 0).cumsum(0)[:-1].tolist()
        return [1.0, *(schedule.time((first + (last - first) * share) ** 6) for share in passed), self.eps]

    def _errors(self, ends: Ends, sampler: Linear) -> Tensor:
        """(B, D): differences from the flow."""
        return (differences.samples(self.fitted, sampler, ends.u) - ends.x).flatten(1)

    def _judged(self, which: int, parameters: Tensor, damping: float, sampler: Linear) -> Row:
        fit, held = (_rms(self._errors(ends, sampler)) for ends in (self.fit, self.held))
        return Row(which, parameters, damping, fit, held)


def best(rows: Sequence[Row]) -> Row:
    """The row that is closest on held-out noise, the first of equals."""
    return min(rows, key=lambda row: row.held)


def settings_of(stage: str, row: Row) -> str:
    """In words, what a row starts from."""
    if stage == "untuned":
        candidate, spacing = divmod(row.which, len(SPACINGS))
        return f"{CANDIDATES[candidate]} grid={SPACINGS[spacing]}"
    return str(CANDIDATES[row.which])


def _rms(errors: Tensor) -> float:
    found = math.sqrt(float(errors.square().mean()))
    return found if math.isfinite(found) else math.inf
