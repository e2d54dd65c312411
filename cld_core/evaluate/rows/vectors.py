"""Samples of toy data themselves: a few numbers each."""

from cld_core.shards.files import Arrays

from .samples import SampleRows


class VectorRows(SampleRows):
    """Of the samples ``first <= i < last``: ``x`` (last - first, d), float32, ``nfe`` and ``nonfinite``."""

    def compute(self, first: int, last: int) -> Arrays:
        drawn = self.draw(first, last)
        return {"x": drawn.x.flatten(1).float().cpu().numpy(), **self.about(drawn)}
