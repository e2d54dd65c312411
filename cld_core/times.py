"""How the times of score matching are drawn (docs/math.md section 4): `objective.times`."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Cells of the table of importance sampling, equally wide in log t. Only the variance depends on how fine it is.
CELLS = 1024


class Importance:
    """Times with a density nearly proportional to ``weight``, each with what its loss has to be multiplied by.

    The density is constant in log t on each of `CELLS` cells, as large as the weight is in the middle. Dividing by
    exactly this density, the mean over times is that over uniform ones, whatever the weight is.

    Args:
        weight: of the times (k,), float64; a function that is positive on [eps, 1].
        eps: smallest time.
    """

    def __init__(self, weight: Callable[[Tensor], Tensor], eps: float) -> None:
        self._eps, self._width = eps, -math.log(eps) / CELLS
        middles = eps ** (1.0 - (torch.arange(CELLS, dtype=torch.float64) + 0.5) / CELLS)
        masses = middles * weight(middles)
        masses = masses / masses.sum()
        edges = torch.cat([torch.zeros(1, dtype=torch.float64), masses.cumsum(0)])
        self._tables = {torch.device("cpu"): (masses, edges / edges[-1])}

    def __call__(self, u01: Tensor) -> tuple[Tensor, Tensor]:
        """Times (B,) from uniform numbers (B,) on [0, 1), and the density of uniform times over that of these, (B,)."""
        masses, edges = self._on(u01.device)
        cell = (torch.searchsorted(edges, u01, right=True) - 1).clamp(0, CELLS - 1)
        mass, first = masses[cell], edges[cell]
        within = ((u01 - first) / (edges[cell + 1] - first)).clamp(0.0, 1.0)
        t = self._eps ** (1.0 - (cell + within) / CELLS)
        return t, t * self._width / (mass * (1.0 - self._eps))

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._tables:
            masses, edges = self._tables[torch.device("cpu")]
            self._tables[device] = masses.to(device), edges.to(device)
        return self._tables[device]
