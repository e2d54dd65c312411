"""What rows of samples share: samples that are not finite are counted while they are drawn."""

import numpy as np
from torch import Tensor

from cld_core.evaluate import nonfinite
from cld_core.evaluate.request import EvalRequest
from cld_core.model import Model
from cld_core.samplers import Samples
from cld_core.shards.files import Arrays

from .base import RowComputer


class SampleRows(RowComputer):
    """Rows with ``nfe`` of each sample, (n,), and ``nonfinite``, (n,), bool: whether it is not finite."""

    def __init__(self, model: Model, request: EvalRequest) -> None:
        super().__init__(model, request)
        self._reviewed = self._nonfinite = 0

    @property
    def total(self) -> int:
        """How many rows there are in all shards."""
        return self.request.samples

    def draw(self, first: int, last: int) -> Samples:
        """The samples ``first <= i < last``, as the request says."""
        return self.model.draw(last - first, seed=self.request.seed, first=first)

    @staticmethod
    def about(drawn: Samples) -> Arrays:
        """``nfe`` and ``nonfinite``."""
        columns: dict[str, Tensor] = {"nfe": drawn.nfe_each.double(), "nonfinite": nonfinite.rows(drawn.x)}
        return {name: np.asarray(values.cpu().numpy()) for name, values in columns.items()}

    def review(self, rows: Arrays) -> None:
        """Count samples that are not finite.

        Raises:
            UnusableSamplesError: those of this process alone are more than all samples may have.
        """
        self._reviewed += len(rows["nonfinite"])
        self._nonfinite += int(rows["nonfinite"].sum())
        allowed = self.request.max_nonfinite
        nonfinite.require_few(self._nonfinite, self._reviewed, samples=self.total, allowed=allowed)
