"""What features are computed with, by content: the part of a request that decides what they are. Loads no torch."""

from dataclasses import asdict, dataclass
from typing import Any

from cld_core.digests import digest

# Where things lie on this machine ("weights", "stats", "plugin 0", ...), as in `Request.files`.
Files = dict[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """A feature extractor.

    Attributes:
        extractor: its name in torch-fidelity.
        layer: the layer whose output the features are.
        weights: SHA-256 of the file of weights; None if it needs none.
        plugin: fingerprint of the recipe's plug-ins, of an extractor that does not come with torch-fidelity.
    """

    extractor: str
    layer: str
    weights: str | None = None
    plugin: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For digests and descriptions in files, which omit the plug-in if there is none."""
        content = {name: getattr(self, name) for name in ("extractor", "layer", "weights", "plugin")}
        return {name: value for name, value in content.items() if name != "plugin" or value is not None}

    def fingerprint_of_stats(self, data: str) -> str:
        """Of the statistics of a training set with the fingerprint ``data``, whoever computes them."""
        return digest({**self.to_dict(), "data": data})[:16]


@dataclass(frozen=True, kw_only=True)
class FeatureInputs(Extraction):
    """What features of samples come from, and what they are compared with.

    Attributes:
        quantisation: how samples become grey levels.
        stats: fingerprint of the statistics of the training set; None if no metric needs them.
    """

    quantisation: str
    stats: str | None = None

    @classmethod
    def of(cls, extraction: Extraction, quantisation: str, stats: str | None) -> "FeatureInputs":
        return cls(**asdict(extraction), quantisation=quantisation, stats=stats)
