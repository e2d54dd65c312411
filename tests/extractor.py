"""Feature extractors for tests: one of microseconds, as a plug-in, and the real Inception with random weights."""

from pathlib import Path
from unittest import mock

import torch

DIMENSIONS = 12

PLUGIN = f"""
import torch
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import register_feature_extractor


class Tiny(FeatureExtractorBase):
    def __init__(self, name, features_list, **settings):
        super().__init__(name, features_list)
        generator = torch.Generator().manual_seed(0)
        self.mix = torch.nn.Parameter(torch.randn(3 * 8 * 8, {DIMENSIONS}, generator=generator) / 14)

    def forward(self, x):
        small = torch.nn.functional.adaptive_avg_pool2d(x.float(), 8)
        found = (small.flatten(1) / 64 - 2) @ self.mix
        layers = {{"all": found, "some": found[:, :5]}}
        return tuple(layers[name] for name in self.features_list)

    @staticmethod
    def get_provided_features_list():
        return ("all", "some")

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "some" if metric == "isc" else "all"


register_feature_extractor("tiny", Tiny)
"""


def tiny(folder: Path) -> tuple[str, ...]:
    """Overrides of a recipe that let it look at 8x8 images with the extractor of microseconds."""
    path = folder / "tiny_extractor.py"
    path.write_text(PLUGIN)
    return ("eval.fid.extractor=tiny", f"eval.fid.plugin={path}")


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
