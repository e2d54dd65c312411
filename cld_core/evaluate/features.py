"""Metrics of images: features of samples and of training images, compared as by torch-fidelity.

Features come from the extractors of torch-fidelity: Inception, and others that are registered with
it. torch-fidelity unpickles the files of weights that it is given, and those that it finds where
torch keeps downloads. So it gets only tensors, which are read with ``weights_only=True``, or a
published file with the right SHA-256.
"""

import functools
import io
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cld_core import metrics as registry
from cld_core.computation import Computer
from cld_core.config.data import StoredDataSpec
from cld_core.config.eval import WEIGHTS_URL
from cld_core.data.images import to_grey
from cld_core.data.source import form_of, source
from cld_core.digests import digest_of
from cld_core.errors import UsageError
from cld_core.model import Model
from cld_core.nets import execution
from cld_core.plugins import fingerprint_of, resolve, table
from cld_core.run.evaluations import EvalRequest, Extraction, Files
from cld_core.run.shards import Columns
from cld_core.sanitize import printable

from . import stats_file
from .rows import SampleRows, Table, means_of

_REGISTERED = table("extractors", {})
# With fewer samples of a class, a Fréchet distance has no meaning.
_LEAST = 10
_MEANS = ("fid", "precision", "recall")


def find(name: str) -> Any:
    """The class of the extractor ``name``, of torch-fidelity or of a plug-in.

    Raises:
        UsageError: no extractor has this name; lists the names.
    """
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    if name in _REGISTERED:
        # Replaces the class that another version of the plug-in registered: torch-fidelity creates
        # extractors by name.
        FEATURE_EXTRACTORS_REGISTRY[name] = resolve(_REGISTERED[name])
    if name not in FEATURE_EXTRACTORS_REGISTRY:
        raise UsageError(
            f"'eval.fid.extractor' is {name!r}, but torch-fidelity has "
            f"{', '.join(sorted(FEATURE_EXTRACTORS_REGISTRY))}. "
            "Name one of them, or the file that registers it in `plugins`."
        )
    return FEATURE_EXTRACTORS_REGISTRY[name]


def score_layer(name: str) -> str:
    """The layer of class scores that the Inception Score is computed from."""
    return str(find(name).get_default_feature_layer_for_metric("isc"))


class Extractor:
    """Features of images, from the layers that metrics read.

    Args:
        extraction: the extractor, its layer and its weights.
        files: where weights and plug-ins lie.
        scores: also return class scores, for the Inception Score.

    Raises:
        UsageError: the weights or the plug-in have changed, or the weights are those of another
            network.
    """

    def __init__(
        self, extraction: Extraction, files: Files, device: str, scores: bool = False
    ) -> None:
        name = extraction.extractor
        if extraction.plugin is not None:
            plugins = [path for key, path in files.items() if key.startswith("plugin") and path]
            if fingerprint_of([("extractors", name)]) != extraction.plugin:
                raise UsageError(
                    f"{', '.join(plugins)}: changed since the evaluation was requested. "
                    "Re-run the command."
                )
        kind = find(name)
        self.layers = {"features": extraction.layer}
        if scores:
            self.layers["scores"] = score_layer(name)
        provided = kind.get_provided_features_list()
        layers = list(dict.fromkeys(self.layers.values()))
        for layer in layers:
            if layer not in provided:
                raise UsageError(
                    f"'eval.fid.layer' is {layer!r}, but {name} has {', '.join(provided)}."
                )
        self._net = _network(kind, extraction, files.get("weights"), layers).to(device)
        self.device = torch.device(device)

    @execution.using(tf32=False)
    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> dict[str, np.ndarray]:
        """``features`` (B, D), float32, of images (B, C, H, W), uint8; with scores, also (B, K).

        Grey images (B, 1, H, W) are repeated to three channels.
        """
        coloured = pixels.to(self.device).expand(-1, 3, -1, -1)
        outputs = self._net.convert_features_tuple_to_dict(self._net(coloured))
        return {key: outputs[layer].float().cpu().numpy() for key, layer in self.layers.items()}


def _network(kind: Any, extraction: Extraction, weights: str | None, layers: list[str]) -> Any:
    """The network of an extractor, with its weights."""
    from torch_fidelity.utils import create_feature_extractor

    name = extraction.extractor
    settings = {}
    if weights is not None:
        settings["feature_extractor_weights_path"] = _loadable(Path(weights), extraction, kind)
    elif kind.__module__.startswith("torch_fidelity"):
        # torch-fidelity would unpickle a file from where torch keeps downloads.
        raise UsageError(
            f"'eval.fid.extractor' {name} needs weights. Name their file in eval.fid.weights."
        )
    try:
        return create_feature_extractor(name, layers, cuda=False, verbose=False, **settings)
    except Exception as error:
        # torch and plug-ins may raise anything for a file of another network. The second line names
        # the first tensors that are missing.
        lines = [line.strip() for line in str(error).strip().splitlines()]
        raise _not_weights(
            weights or name, name, f"{type(error).__name__}: {' '.join(lines[:2])[:300]}"
        ) from error


def _loadable(path: Path, extraction: Extraction, kind: Any) -> Any:
    """Weights that torch-fidelity can load without running foreign code: tensors, or a path.

    Raises:
        UsageError: the file is missing or has changed, holds more than tensors, or is a program.
    """
    from torch_fidelity.feature_extractor_clip import MODEL_METADATA, FeatureExtractorCLIP
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

    name = extraction.extractor
    try:
        digest = digest_of(path)
    except OSError as error:
        raise UsageError(
            f"{path}: gone since the evaluation was requested ({error.strerror}). "
            "Put it back, or re-run the command."
        ) from error
    if digest != extraction.weights:
        raise UsageError(f"{path}: changed since the evaluation was requested. Re-run the command.")
    if issubclass(kind, FeatureExtractorInceptionV3 | FeatureExtractorVGG16):
        tensors = io.BytesIO()
        try:
            torch.save(torch.load(path, map_location="cpu", weights_only=True), tensors)
        except Exception as error:  # torch may raise anything for a damaged file
            raise _not_weights(
                path, name, "it is damaged, or there is more in it than tensors"
            ) from error
        tensors.seek(0)
        return tensors
    # The weights of CLIP are TorchScript, which is a program.
    published = MODEL_METADATA.get(name, {}).get("hash")
    if issubclass(kind, FeatureExtractorCLIP) and extraction.weights != published:
        raise UsageError(f"'eval.fid.weights' is not the published file of {name}. Name that one.")
    if issubclass(kind, FeatureExtractorDinoV2):
        raise UsageError(
            f"'eval.fid.extractor' {name} runs code from the internet. Choose another extractor."
        )
    # A plug-in is the user's own code, and reads its own kind of file.
    return str(path)


def _not_weights(path: str | Path, name: str, reason: str) -> UsageError:
    return UsageError(
        f"{path}: these are not weights of {name} ({printable(reason, keep='')}). "
        f"The published weights of Inception: {WEIGHTS_URL}"
    )


@functools.lru_cache(maxsize=1)
def _cached(
    extraction: Extraction, files: tuple[tuple[str, str | None], ...], device: str, scores: bool
) -> Extractor:
    return Extractor(extraction, dict(files), device, scores)


def load(
    extraction: Extraction, files: Files, device: torch.device | str, scores: bool = False
) -> Extractor:
    """An `Extractor`. The last one is cached, because a shard needs it for every batch."""
    return _cached(extraction, tuple(files.items()), str(device), scores)


def dimensions(extraction: Extraction, files: Files, shape: tuple[int, ...]) -> int:
    """The number of features of an image (C, H, W).

    The extractor is run on one, which reveals wrong weights, too.
    """
    image = torch.zeros(1, *shape, dtype=torch.uint8)
    return int(load(extraction, files, "cpu")(image)["features"].shape[1])


def download(url: str, path: Path, sha256: str) -> None:
    """Download weights to ``path``, and check their SHA-256.

    Raises:
        UsageError: the weights cannot be downloaded, or have another digest.
    """
    import torch.hub

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256, progress=False)
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"{url} cannot be downloaded ({error}). Put the file at {path} by hand."
        ) from error


class FeatureRows(SampleRows):
    """Rows of samples: ``features`` (last - first, D), ``nfe``, ``nonfinite``, perhaps ``scores``.

    ``scores`` (last - first, K) are there if a metric reads them.

    Raises:
        UsageError: the weights are missing or have changed.
    """

    def __init__(self, model: Model, request: EvalRequest) -> None:
        super().__init__(model, request)
        scores = "scores" in registry.read_of("features", request.metrics)
        self._extractor = load(request.inputs, request.files, model.device, scores)

    def compute(self, first: int, last: int) -> Columns:
        samples = self.draw(first, last)
        floor = self.request.inputs.quantisation == "floor"
        pixels = to_grey(samples.x, self.model.form, floor=floor)
        return {**self.about(samples), **self._extractor(pixels)}


class ImageRows(Computer):
    """Rows of the ``n`` training images: ``features`` (last - first, D).

    Real numbers are rounded to grey levels, as those of samples are.

    Raises:
        DataError: the images are missing.
        UsageError: the weights are missing or have changed.
    """

    def __init__(
        self, data: StoredDataSpec, extraction: Extraction, files: Files, device: torch.device
    ) -> None:
        self._extractor = load(extraction, files, device)
        stored: Any = source(replace(data, cache="disk"))
        self._images = stored.train
        self._form = form_of(stored)
        self.n: int = self._images.n

    def compute(self, first: int, last: int) -> Columns:
        pixels = self._images.batch(torch.arange(first, last))
        if pixels.dtype != torch.uint8:
            pixels = to_grey(self._form.to_data(pixels), self._form)
        return self._extractor(pixels)


def fid(table: Table) -> registry.Section:
    """Fréchet distance between the features of samples and of training images, in float64."""
    value = frechet(table.arrays["features"], table.reference.mu, table.reference.sigma)
    return {"value": value, **table.about_compared()}


def frechet(ours: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> float:
    """The Fréchet distance of features (n, D) from a mean (D,) and covariance (D, D)."""
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    mean, covariance = stats_file.moments([ours])
    statistics = {"mu": mean, "sigma": covariance}
    reference = {"mu": mu, "sigma": sigma}
    result = fid_statistics_to_metric(statistics, reference, verbose=False)
    # For equal sets of few images, rounding makes the formula negative.
    return max(0.0, float(result["frechet_inception_distance"]))


def kid(table: Table) -> registry.Section:
    """Kernel distance between the features of samples and of training images."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    spec = table.request.kid
    ours, theirs = _both_features(table)
    result = kid_features_to_metric(
        ours, theirs, verbose=False, kid_subsets=spec.subsets, kid_subset_size=spec.subset_size
    )
    return {
        "value": result["kernel_inception_distance_mean"],
        "std": result["kernel_inception_distance_std"],
        **asdict(spec),
        **table.about_compared(),
    }


def isc(table: Table) -> registry.Section:
    """Inception Score of samples."""
    from torch_fidelity.metric_isc import isc_features_to_metric

    spec = table.request.isc
    result = isc_features_to_metric(torch.from_numpy(table.arrays["scores"]), splits=spec.splits)
    return {
        "value": result["inception_score_mean"],
        "std": result["inception_score_std"],
        **asdict(spec),
        **table.about_features(),
        "layer": score_layer(table.request.inputs.extractor),
    }


def prc(table: Table) -> registry.Section:
    """Precision and recall of the features of samples against those of training images."""
    spec = table.request.prc
    ours, theirs = _both_features(table)
    return {
        **_precision_and_recall(ours, theirs, spec.neighbours),
        **asdict(spec),
        **table.about_compared(),
    }


def _precision_and_recall(ours: Tensor, theirs: Tensor, neighbours: int) -> dict[str, float]:
    """Precision, recall and F score of features (n, D) of samples and (m, D) of training images."""
    from torch_fidelity.metric_prc import prc_features_to_metric as to_metric

    # Saves memory: all distances at once are 10 GB for 50,000 samples.
    result = to_metric(ours, theirs, prc_neighborhood=neighbours, save_cpu_ram=True, verbose=False)
    return {key: result[key] for key in ("precision", "recall", "f_score")}


def classes(table: Table) -> registry.Section:
    """Fréchet distance, precision and recall of each class, against its training images."""
    classes = table.model.classes
    reference = table.reference
    assert classes is not None, "the metric is for class-conditional models"
    assert reference.labels is not None, "the metric needs statistics with labels"
    if reference.outline.classes != classes.names:
        raise UsageError(
            f"{table.request.files['stats']} has statistics of other classes than those of the "
            "model. Compute them with `cldctl data stats RECIPE|RUN --features`."
        )
    ours, theirs = _both_features(table)
    label = np.array(classes.drawn(0, len(ours)))
    neighbours = table.request.prc.neighbours
    least = max(_LEAST, neighbours + 1)
    by_class: dict[str, registry.Section] = {}
    for number, name in enumerate(classes.names):
        samples = ours[label == number].numpy()
        images = theirs[reference.labels == number].numpy()
        if len(samples) >= least and len(images) > neighbours:
            by_class[name] = _of_class(samples, images, neighbours)
    if not by_class:
        raise UsageError(
            f"--classes: no class has {least} samples and more than {neighbours} images. "
            "Draw more samples."
        )
    return {
        **means_of(by_class.values(), _MEANS),
        "classes": by_class,
        "left_out": len(classes) - len(by_class),
        "neighbours": neighbours,
        **table.about_compared(),
    }


def _of_class(ours: np.ndarray, theirs: np.ndarray, neighbours: int) -> registry.Section:
    of_both = _precision_and_recall(torch.from_numpy(ours), torch.from_numpy(theirs), neighbours)
    return {
        "fid": frechet(ours, *stats_file.moments([theirs])),
        "precision": of_both["precision"],
        "recall": of_both["recall"],
        "samples": len(ours),
        "images": len(theirs),
    }


def _both_features(table: Table) -> tuple[Tensor, Tensor]:
    """Features (n, D) of samples and (m, D) of training images."""
    features = table.reference.features
    assert features is not None, "checked when the evaluation was requested"
    ours = torch.from_numpy(table.arrays["features"])
    theirs = torch.from_numpy(features.astype(np.float32, copy=False))
    return ours, theirs
