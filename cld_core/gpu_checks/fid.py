"""The features that FIDs are computed from: equal to the CPU's, and how many images a second."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cld_core.config.eval import INCEPTION
from cld_core.digests import digest_of
from cld_core.evaluate.extractors import Extractor
from cld_core.evaluate.feature_inputs import Extraction

from .findings import Context, Finding, judged
from .setups import image_recipe
from .timing import seconds

# As for a network in float32, in `parity`.
_TOLERANCE = 2.0**-13
_COMPARED = 2


def check(context: Context) -> Finding:
    """Inception with random weights, on the pixels of the CIFAR-10 recipe."""
    rows = _COMPARED if context.small else image_recipe(context, "cifar10").eval.batch_size
    with tempfile.TemporaryDirectory(dir=context.work) as folder:
        weights = random_inception(Path(folder) / "inception.pth")
        about = Extraction(extractor=INCEPTION, layer="2048", weights=digest_of(weights))
        on_cpu, on_device = (Extractor(about, {"weights": str(weights)}, name) for name in ("cpu", context.device))
    pixels = torch.randint(0, 256, (rows, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected, found = (extractor(pixels[:_COMPARED])["features"] for extractor in (on_cpu, on_device))
    # Another size of batch loads other kernels.
    on_device(pixels)
    taken = seconds(context, lambda: on_device(pixels))
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    text = f"features differ from the CPU's by {error:.1e} (at most {_TOLERANCE:.1e}); "
    text += f"{rows / taken:.0f} images/s" if taken > 0 else "no time passed"
    return judged(error <= _TOLERANCE, text, "Do not compare FIDs from this card with others: report it.")


def random_inception(path: Path) -> Path:
    """A file of weights for torch-fidelity's Inception, random but such that signals neither vanish nor explode."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):
        """It keeps its first weights: the class itself cannot be made without a file of others."""

        def load_state_dict(self, *arguments: Any, **options: Any) -> None:
            """Load nothing."""

    torch.save({}, path)
    state = Unloaded(INCEPTION, ["2048"], feature_extractor_weights_path=str(path)).state_dict()
    generator = torch.Generator().manual_seed(1)
    torch.save({name: _random(weight, generator) for name, weight in state.items()}, path)
    return path


def _random(weight: Tensor, generator: torch.Generator) -> Tensor:
    if weight.ndim <= 1:
        return weight
    return torch.randn(weight.shape, generator=generator) * (2.0 / weight[0].numel()) ** 0.5
