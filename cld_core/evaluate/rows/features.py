"""Features of samples. One pass draws the samples and looks at them for all metrics that are asked for."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from cld_core.data.images import to_pixels
from cld_core.evaluate import extractors, registry, stats_file
from cld_core.evaluate.feature_inputs import FeatureInputs
from cld_core.evaluate.moments import Moments
from cld_core.shards.files import Arrays

from .samples import SampleRows


class FeatureRows(SampleRows):
    """Of the samples ``first <= i < last``: ``nfe``, ``features`` (last - first, D), ``scores`` if a metric reads them.

    ``nonfinite`` (last - first,), bool, says which samples are not finite. Pixels do not show it.

    A shard keeps the features themselves only if a metric reads them, otherwise their moments.
    """

    keeps_rows = False

    def prepare(self) -> None:
        self._extractor()
        if self._inputs.stats is not None:
            stats_file.require_unchanged(Path(str(self.request.files["stats"])), self._inputs.stats)

    def compute(self, first: int, last: int) -> Arrays:
        drawn = self.draw(first, last)
        columns = self._extractor()(to_pixels(drawn.x, floor=self._inputs.quantisation == "floor"))
        if not {"features", "moments"} & self._read:
            del columns["features"]
        return {**self.about(drawn), **columns}

    def condense(self, rows: Arrays) -> Arrays:
        if "features" not in rows or "features" in self._read:
            return rows
        others = {name: values for name, values in rows.items() if name != "features"}
        return {**others, **Moments.of(rows["features"]).arrays()}

    @staticmethod
    def join(parts: Iterable[Arrays]) -> Arrays:
        """Rows one after another, moments merged."""
        kept: list[Arrays] = []

        def moments() -> Iterator[Moments]:
            """Those of the parts that have some, one at a time: each may be 32 MiB."""
            for part in parts:
                kept.append({name: values for name, values in part.items() if name not in Moments.FIELDS})
                if "scatter" in part:
                    yield Moments.from_arrays(part)

        first = list(itertools.islice(stream := moments(), 1))
        merged = Moments.merged(itertools.chain(first, stream)).arrays() if first else {}
        joined = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
        return {**joined, **merged}

    @property
    def _inputs(self) -> FeatureInputs:
        assert self.request.fid is not None, "a request for features says what they come from"
        return self.request.fid

    @property
    def _read(self) -> set[str]:
        """The arrays that the metrics read."""
        metrics = registry.metrics(self.request.metrics)
        return {name for metric in metrics if metric.rows == "features" for name in metric.reads}

    def _extractor(self) -> extractors.Extractor:
        return extractors.load(self._inputs, self.request.files, self.model.device, "scores" in self._read)
