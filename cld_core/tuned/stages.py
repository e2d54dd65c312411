"""The stages of a fit and how many rows each has. Loads no torch, because `status` counts rows.

untuned        every candidate over every spacing: where to start, and what a fit has to beat
grid           times, for each candidate, and then for the best of them
coefficients   times and coefficients, from the best grids, and then from the best of them
"""

import itertools
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """An exponential sampler without noise, apart from its times."""

    order: int
    corrector: bool

    def __str__(self) -> str:
        return f"order={self.order} corrector={str(self.corrector).lower()}"


CANDIDATES = tuple(itertools.starmap(Settings, itertools.product((1, 2, 3), (False, True))))
SPACINGS = ("power 6", "power 3", "quadratic")

# Iterations of each candidate's grid, then of the best grids' alone, and how many of those there are.
EACH, BEST, KEPT = 3, 6, 2
# Iterations of the coefficients: of the mean square, from so many starts; then, from the best of these, of what counts
# the usual example, and of the mean square again.
STARTS, PLAIN, ROBUST, AGAIN = 3, 8, 16, 8
STAGES = {
    "untuned": len(CANDIDATES) * len(SPACINGS),
    "grid": EACH * len(CANDIDATES) + BEST * KEPT,
    "coefficients": STARTS * PLAIN + ROBUST + AGAIN,
}
