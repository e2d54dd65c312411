"""Rows of an evaluation: what computes them, and all of a kind together, from which metrics make their sections."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from cld_core import metrics as registry
from cld_core.errors import UnusableSamplesError
from cld_core.guidance import Conditional
from cld_core.model import Model
from cld_core.run.evaluations import EvalRequest
from cld_core.run.shards import Arrays
from cld_core.samplers import Samples
from cld_core.score import Score
from cld_core.tasks import Computer

from . import stats_file
from .extraction import PUBLISHED_SHA256


def not_finite(x: Tensor) -> Tensor:
    """Which of the samples x (B, ...) have infinite numbers, or what is not a number: bool, (B,)."""
    return ~x.isfinite().flatten(1).all(1)


def remark_on(x: Tensor) -> str | None:
    """In words, how many of the samples x (B, ...) are not finite; None if all are."""
    return registry.remark_on_nonfinite(int(not_finite(x).sum()), len(x))


def require_few_lost(count: int, of: int, *, samples: int, allowed: float) -> None:
    """Pass if ``count`` samples that are not finite, of ``of`` that were looked at, are no more than may be.

    Args:
        samples: how many there will be in all.
        allowed: the fraction of all that may be not finite.

    Raises:
        UnusableSamplesError: there are more.
    """
    fraction = count / samples
    if fraction <= allowed:
        return
    share = f"a fraction of {fraction:.3g}" + (f" of the {samples:,} asked for" if of < samples else "")
    text = f"{registry.remark_on_nonfinite(count, of)}, {share}, but eval.max_nonfinite allows {allowed:g}"
    causes = "sampling settings that diverge, half precision, or a network that has hardly been trained"
    fix = "Change the sampling settings, or set eval.max_nonfinite higher, which draws no sample again"
    raise UnusableSamplesError(f"{text}. Likely causes: {causes}. {fix}.")


def standard_error(values: np.ndarray) -> float | None:
    """The standard error of the mean of values (n,), in their unit; None for a single value."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None


def given_labels(score: Score, model: Model, seed: int, first: int, last: int) -> Score | Conditional:
    """The score of a model given the labels of the test points ``first <= i < last``, if it has classes."""
    if model.classes is None:
        return score
    return Conditional(score, model.source.test_labels(seed, first, last).to(model.device))


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
        return {"nfe": drawn.nfe_each.double().cpu().numpy(), "nonfinite": not_finite(drawn.x).cpu().numpy()}

    def review(self, rows: Arrays) -> None:
        """Count samples that are not finite.

        Raises:
            UnusableSamplesError: those of this process alone are more than all samples may have.
        """
        self._reviewed += len(rows["nonfinite"])
        self._nonfinite += int(rows["nonfinite"].sum())
        allowed = self.request.max_nonfinite
        require_few_lost(self._nonfinite, self._reviewed, samples=self.total, allowed=allowed)


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
            require_few_lost(self._nonfinite, samples, samples=samples, allowed=allowed)

    @functools.cached_property
    def reference(self) -> stats_file.Reference:
        """The statistics of the training set, with features if a metric of the request reads them.

        Raises:
            UsageError: they are gone or have changed.
        """
        wanted = any(metric.needs_features for metric in registry.metrics(self.request.metrics))
        return stats_file.read(stats_file.reference_of(self.request), features=wanted)

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
        source = self.request.inputs
        published = source.weights == PUBLISHED_SHA256
        return {
            **self.about_drawn(),
            "extractor": source.extractor,
            "layer": source.layer,
            "quantisation": source.quantisation,
            "weights": {"file": self.request.files.get("weights"), "sha256": source.weights, "published": published},
        }

    def about_reference(self) -> dict[str, Any]:
        """What a section says about the statistics that samples are compared with."""
        file, outline = self.request.files["stats"], self.reference.outline
        described = {"images": outline.images, "layout": outline.layout, "identity": self.request.inputs.stats}
        return {"stats": {"file": file, **described}}
