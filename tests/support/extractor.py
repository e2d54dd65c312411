"""A feature extractor of microseconds for tests, and random weights for the real one, Inception."""

from pathlib import Path

import torch

from cld_core.config.eval import INCEPTION

# Overrides of a recipe that let it look at images with it.
TINY = ("eval.fid.extractor=tiny", f"plugins={Path(__file__).parent / 'tiny_extractor.py'}")


def random_inception(path):
    """Random weights for torch-fidelity's Inception: signals neither vanish nor explode."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):
        """It keeps its first weights: the class itself cannot be made without a file of others."""

        def load_state_dict(self, *arguments, **options):
            """Load nothing."""

    torch.save({}, path)
    state = Unloaded(INCEPTION, ["2048"], feature_extractor_weights_path=str(path)).state_dict()
    generator = torch.Generator().manual_seed(1)
    torch.save({name: _random(weight, generator) for name, weight in state.items()}, path)
    return path


def _random(weight, generator):
    if weight.ndim <= 1:
        return weight
    return torch.randn(weight.shape, generator=generator) * (2.0 / weight[0].numel()) ** 0.5
