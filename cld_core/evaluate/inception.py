"""The weights of Inception that published FIDs are computed with, and where they lie. Loads no torch."""

import os
from pathlib import Path

# Inception of 2015-12-05; the first digits of its SHA-256 are in the name.
WEIGHTS_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
PUBLISHED_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
# Layers and their numbers of features.
LAYERS = {"64": 64, "192": 192, "768": 768, "2048": 2048}


def is_published(sha256: str | None) -> bool:
    """Whether weights are those that published FIDs are computed with."""
    return sha256 == PUBLISHED_SHA256


def weights_path() -> Path:
    """Where torch keeps downloaded weights (in `torch.hub.get_dir`), found without loading torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", f"{cache}/torch")
    return Path(home).expanduser() / "hub" / "checkpoints" / WEIGHTS_URL.rsplit("/", 1)[1]
