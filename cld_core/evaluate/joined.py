"""All rows of one kind, in order, with what they were computed with: what a metric makes its section from."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cld_core.model import Model
from cld_core.shards.files import Arrays

from . import inception, nonfinite, registry, stats_file
from .feature_inputs import FeatureInputs
from .request import EvalRequest


@dataclass(frozen=True)
class Joined:
    """The rows of a kind as `RowComputer.join` leaves them.

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

    def about_samples(self) -> dict[str, Any]:
        """What a section says about samples and their features."""
        inputs, nfe = self.inputs, self.arrays["nfe"]
        published = inception.is_published(inputs.weights)
        return {
            "samples": len(nfe),
            "nonfinite": self._nonfinite,
            "nfe_mean": float(nfe.mean()),
            "extractor": inputs.extractor,
            "layer": inputs.layer,
            "quantisation": inputs.quantisation,
            "weights": {"file": self.request.files.get("weights"), "sha256": inputs.weights, "published": published},
        }

    def about_reference(self) -> dict[str, Any]:
        """What a section says about the statistics that samples are compared with."""
        described = {"images": self.reference.images, "layout": self.reference.layout, "identity": self.inputs.stats}
        return {"stats": {"file": self.request.files["stats"], **described}}
