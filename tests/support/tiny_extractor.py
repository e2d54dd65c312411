"""A plug-in that registers a feature extractor of microseconds with torch-fidelity. One file: a
name is taken once."""

import torch
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import register_feature_extractor

DIMENSIONS = 12


class Tiny(FeatureExtractorBase):
    """Random linear features of images, shrunk to 8x8 pixels."""

    def __init__(self, name, features_list, **settings):
        super().__init__(name, features_list)
        generator = torch.Generator().manual_seed(0)
        self.mix = torch.nn.Parameter(torch.randn(3 * 8 * 8, DIMENSIONS, generator=generator) / 14)

    def forward(self, x):
        small = torch.nn.functional.adaptive_avg_pool2d(x.float(), 8)
        found = (small.flatten(1) / 64 - 2) @ self.mix
        layers = {"all": found, "some": found[:, :5]}
        return tuple(layers[name] for name in self.features_list)

    @staticmethod
    def get_provided_features_list():
        return ("all", "some")

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "some" if metric == "isc" else "all"


register_feature_extractor("tiny", Tiny)
