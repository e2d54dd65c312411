"""Feature extractors for tests: one of microseconds and the real Inception with random weights."""

from pathlib import Path
from unittest import mock

import torch

# Overrides of a recipe that let it look at images with the extractor of microseconds.
TINY = ("eval.fid.extractor=tiny", f"eval.fid.plugin={Path(__file__).parent / 'tiny_extractor.py'}")


def inception_weights(path: Path) -> Path:
    """Weights of the real Inception, random but such that signals neither vanish nor explode."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    source = "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url"
    with mock.patch(source), mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
        net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    state, generator = net.state_dict(), torch.Generator().manual_seed(1)
    for name, weight in state.items():
        if weight.ndim > 1:
            fan_in = weight[0].numel()
            state[name] = torch.randn(weight.shape, generator=generator) * (2.0 / fan_in) ** 0.5
    torch.save(state, path)
    return path
