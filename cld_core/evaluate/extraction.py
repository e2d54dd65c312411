"""What features are computed with, by content, and the weights of Inception that published FIDs have.

Loads no torch.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cld_core.digests import digest

# Inception of 2015-12-05, which published FIDs are computed with; the first digits of its SHA-256 are in the name.
WEIGHTS_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
PUBLISHED_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
# Its layers and their numbers of features.
LAYERS = {"64": 64, "192": 192, "768": 768, "2048": 2048}

# Where things lie on this machine ("weights", "stats", "plugin 0", ...), as in `ShardedRequest.files`.
Files = dict[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """A feature extractor, by content.

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


def weights_path() -> Path:
    """Where torch keeps downloaded weights (in `torch.hub.get_dir`), found without loading torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", f"{cache}/torch")
    return Path(home).expanduser() / "hub" / "checkpoints" / WEIGHTS_URL.rsplit("/", 1)[1]
