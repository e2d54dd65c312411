"""The stages of a fit and how many rows each has. Loads no torch, because `status` counts rows.

untuned        every candidate over every spacing: the starting points, and the baseline of a fit
fewer          a solution of fewer evaluations, if there is one, and then times and coefficients from there
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

# Iterations of each candidate's grid, then of only the best grids, and how many of the best there are.
EACH, BEST, KEPT = 3, 6, 2
# Iterations of the coefficients: on the mean square from this many starts; then, from the best of these, on the robust
# sum of squares, and on the mean square again.
STARTS, PLAIN, ROBUST, AGAIN = 3, 8, 16, 8
STAGES = {
    "untuned": len(CANDIDATES) * len(SPACINGS),
    "fewer": PLAIN,
    "grid": EACH * len(CANDIDATES) + BEST * KEPT,
    "coefficients": STARTS * PLAIN + ROBUST + AGAIN,
}
