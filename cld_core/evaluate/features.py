"""Metrics of images: features of samples and of training images, compared by torch-fidelity's formulas."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cld_core import metrics as registry
from cld_core.config.data import ImageDataSpec
from cld_core.data.images import open_images, to_pixels
from cld_core.errors import UsageError
from cld_core.model import Model
from cld_core.run.evaluations import EvalRequest, Extraction, Files
from cld_core.run.shards import Arrays
from cld_core.tasks import Computer

from . import extractors, stats_file
from .rows import SampleRows, Table

# Of fewer samples of a class, a Fréchet distance says nothing.
_LEAST = 10
_MEANS = ("fid", "precision", "recall")


class FeatureRows(SampleRows):
    """Of the samples ``first <= i < last``: ``nfe``, ``features`` (last - first, D), ``scores`` if a metric reads them.

    ``nonfinite`` (last - first,), bool, says which samples are not finite. Pixels do not show it.

    Raises:
        UsageError: the weights are gone or have changed.
    """

    def __init__(self, model: Model, request: EvalRequest) -> None:
        super().__init__(model, request)
        scores = "scores" in registry.read_of("features", request.metrics)
        self._extractor = extractors.load(request.inputs, request.files, model.device, scores)

    def compute(self, first: int, last: int) -> Arrays:
        drawn = self.draw(first, last)
        pixels = to_pixels(drawn.x, floor=self.request.inputs.quantisation == "floor")
        return {**self.about(drawn), **self._extractor(pixels)}


class ImageRows(Computer):
    """The features of training images, ``features`` (last - first, D); there are ``n`` images.

    Raises:
        DataError: the images are gone.
        UsageError: the weights are gone or have changed.
    """

    def __init__(self, data: ImageDataSpec, extraction: Extraction, files: Files, device: torch.device) -> None:
        self._extractor = extractors.load(extraction, files, device)
        self._images = open_images(replace(data, cache="disk"), "train")
        self.n = self._images.n

    def compute(self, first: int, last: int) -> Arrays:
        return self._extractor(self._images.batch(torch.arange(first, last)))


def fid(table: Table) -> dict[str, Any]:
    """Fréchet distance between the features of samples and of training images, in float64."""
    value = frechet(table.arrays["features"], table.reference.mu, table.reference.sigma)
    return {"value": value, **table.about_samples(), **table.about_reference()}


def frechet(ours: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> float:
    """The Fréchet distance between features (n, D), and mean (D,) and covariance (D, D) of others."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    mean, covariance = stats_file.moments([ours])
    own, theirs = {"mu": mean, "sigma": covariance}, {"mu": mu, "sigma": sigma}
    value = fid_statistics_to_metric(own, theirs, verbose=False)[KEY_METRIC_FID]
    # For equal sets of few images, rounding makes the formula negative.
    return max(0.0, float(value))


def kid(table: Table) -> dict[str, Any]:
    """Kernel distance between the features of samples and of training images."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    spec = table.request.kid
    settings = {"kid_subsets": spec.subsets, "kid_subset_size": spec.subset_size}
    result = kid_features_to_metric(*_both_features(table), verbose=False, **settings)
    values = {"value": result[KEY_METRIC_KID_MEAN], "std": result[KEY_METRIC_KID_STD], **asdict(spec)}
    return {**values, **table.about_samples(), **table.about_reference()}


def isc(table: Table) -> dict[str, Any]:
    """Inception Score of samples."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    spec = table.request.isc
    result = isc_features_to_metric(torch.from_numpy(table.arrays["scores"]), splits=spec.splits)
    values = {"value": result[KEY_METRIC_ISC_MEAN], "std": result[KEY_METRIC_ISC_STD], **asdict(spec)}
    layer = extractors.score_layer(table.request.inputs.extractor)
    return {**values, **table.about_samples(), "layer": layer}


def prc(table: Table) -> dict[str, Any]:
    """Precision and recall of the features of samples against those of training images."""
    spec = table.request.prc
    results = _precision_and_recall(*_both_features(table), spec.neighbours)
    values = {**dict(zip(("precision", "recall", "f_score"), results, strict=True)), **asdict(spec)}
    return {**values, **table.about_samples(), **table.about_reference()}


def _precision_and_recall(ours: Tensor, theirs: Tensor, neighbours: int) -> tuple[float, float, float]:
    """Precision, recall and F score of features (n, D) of samples and (m, D) of training images."""
    from torch_fidelity.metric_prc import KEY_METRIC_F_SCORE, KEY_METRIC_PRECISION, KEY_METRIC_RECALL
    from torch_fidelity.metric_prc import prc_features_to_metric as to_metric

    # Not the form that holds all distances at once, which are 10 GB for 50,000 samples.
    result = to_metric(ours, theirs, prc_neighborhood=neighbours, save_cpu_ram=True, verbose=False)
    return result[KEY_METRIC_PRECISION], result[KEY_METRIC_RECALL], result[KEY_METRIC_F_SCORE]


def classes(table: Table) -> dict[str, Any]:
    """Fréchet distance, precision and recall within each class, against training images of the same class."""
    model, reference = table.model, table.reference
    assert model.classes is not None, "only class-conditional models are asked"
    assert reference.labels is not None, "only statistics with labels are asked"
    if reference.outline.classes != model.classes.names:
        text = "has statistics of other classes than those of the model. Compute them with"
        raise UsageError(f"{table.request.files['stats']} {text} `cldctl data stats RECIPE|RUN --features`.")
    ours, theirs = _both_features(table)
    label = np.array(model.classes.drawn(0, len(ours)))
    spec = table.request.prc
    by_class: dict[str, Mapping[str, Any]] = {}
    for number, name in enumerate(model.classes.names):
        parts = ours[label == number].numpy(), theirs[reference.labels == number].numpy()
        if min(map(len, parts)) > spec.neighbours and len(parts[0]) >= _LEAST:
            by_class[name] = _of_class(*parts, spec.neighbours)
    if not by_class:
        few = f"no class has {max(_LEAST, spec.neighbours + 1)} samples and more than {spec.neighbours} images"
        raise UsageError(f"--classes: {few}. Draw more samples.")
    means = {name: float(np.mean([values[name] for values in by_class.values()])) for name in _MEANS}
    about = {"neighbours": spec.neighbours, **table.about_samples(), **table.about_reference()}
    return {**means, "classes": by_class, "left_out": len(model.classes.names) - len(by_class), **about}


def _of_class(ours: np.ndarray, theirs: np.ndarray, neighbours: int) -> dict[str, Any]:
    precision, recall, _ = _precision_and_recall(torch.from_numpy(ours), torch.from_numpy(theirs), neighbours)
    value = frechet(ours, *stats_file.moments([theirs]))
    return {"fid": value, "precision": precision, "recall": recall, "samples": len(ours), "images": len(theirs)}


def _both_features(table: Table) -> tuple[Tensor, Tensor]:
    """Features (n, D) of samples and (m, D) of training images."""
    theirs = table.reference.features
    assert theirs is not None, "checked when the evaluation was asked for"
    return torch.from_numpy(table.arrays["features"]), torch.from_numpy(theirs.astype(np.float32, copy=False))
