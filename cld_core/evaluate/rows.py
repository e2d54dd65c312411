"""Rows of an evaluation: what computes them, and all of a kind together, from which metrics make their sections."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cld_core.data.source import labelled
from cld_core.guidance import Conditional
from cld_core.model import Model
from cld_core.samplers import Samples
from cld_core.score import Score
from cld_core.shards import Computer
from cld_core.shards.rows import Arrays

from . import inception, nonfinite, registry, stats_file
from .feature_inputs import FeatureInputs
from .request import EvalRequest


def given_labels(score: Score, model: Model, seed: int, first: int, last: int) -> Score | Conditional:
    """The score of a model given the labels of the test points ``first <= i < last``, if it has classes."""
    if model.classes is None:
        return score
    return Conditional(score, labelled(model.source).test_labels(seed, first, last).to(model.device))


class RowComputer(Computer):
    """Computes rows of one kind for a request."""

    def __init__(self, model: Model, request: EvalRequest) -> None:
        self.model, self.request = model, request


class SampleRows(RowComputer):
    """Rows with ``nfe`` of each sample, (n,), and ``nonfinite``, (n,), bool: whether it is not finite.

    Samples that are not finite are counted while they are drawn.
    """

    def __init__(self, model: Model, request: EvalRequest) -> None:
        super().__init__(model, request)
        self._reviewed = self._nonfinite = 0

    @property
    def total(self) -> int:
        """How many rows there are in all."""
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


@dataclass(frozen=True)
class Table:
    """All rows of a kind, in order, with what they were computed with.

    Raises:
        UnusableSamplesError: more samples are not finite than the request allows.
    """

    model: Model
    request: EvalRequest
    arrays: Arrays

    def __post_init__(self) -> None:
        if "nonfinite" in self.arrays:
            samples, allowed = len(self.arrays["nonfinite"]), self.request.max_nonfinite
            nonfinite.require_few(self._nonfinite, samples, samples=samples, allowed=allowed)

    @property
    def inputs(self) -> FeatureInputs:
        """What features come from."""
        assert self.request.fid is not None, "a request for features says what they come from"
        return self.request.fid

    @functools.cached_property
    def reference(self) -> stats_file.Reference:
        """The statistics of the training set, with features if a metric of the request reads them.

        Raises:
            UsageError: they are gone or have changed.
        """
        assert self.inputs.stats is not None, "looked for when the evaluation was asked for"
        path = Path(str(self.request.files["stats"]))
        stats_file.require_unchanged(path, self.inputs.stats)
        wanted = any(metric.needs_features for metric in registry.metrics(self.request.metrics))
        return stats_file.read(path, features=wanted)

    @property
    def _nonfinite(self) -> int:
        return int(self.arrays["nonfinite"].sum())

    def finite(self) -> np.ndarray:
        """The vectors (m, d) among the samples that are finite."""
        rows: np.ndarray = self.arrays["x"][~self.arrays["nonfinite"]]
        return rows

    def about_drawn(self) -> dict[str, Any]:
        """What a section says about samples."""
        nfe = self.arrays["nfe"]
        return {"samples": len(nfe), "nonfinite": self._nonfinite, "nfe_mean": float(nfe.mean())}

    def about_samples(self) -> dict[str, Any]:
        """What a section says about samples and their features."""
        source, published = self.inputs, inception.is_published(self.inputs.weights)
        return {
            **self.about_drawn(),
            "extractor": source.extractor,
            "layer": source.layer,
            "quantisation": source.quantisation,
            "weights": {"file": self.request.files.get("weights"), "sha256": source.weights, "published": published},
        }

    def about_reference(self) -> dict[str, Any]:
        """What a section says about the statistics that samples are compared with."""
        described = {"images": self.reference.images, "layout": self.reference.layout, "identity": self.inputs.stats}
        return {"stats": {"file": self.request.files["stats"], **described}}
