"""Metrics of images: features of samples and of training images, compared by torch-fidelity's
formulas.

Features come from the extractors of torch-fidelity: Inception and whatever else is registered with
it. torch-fidelity unpickles the files of weights that it is given, and those that it finds where
torch keeps downloads. It gets tensors alone instead, which were read with ``weights_only=True``, or
a published file that is known by all digits of its SHA-256.
"""

import functools
import io
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cld_core import metrics as registry
from cld_core.config.data import StoredDataSpec
from cld_core.config.eval import WEIGHTS_URL
from cld_core.data.images import to_grey
from cld_core.data.source import form_of, source
from cld_core.digests import digest_of
from cld_core.errors import UsageError
from cld_core.model import Model
from cld_core.nets import execution
from cld_core.registration import fingerprint_of, resolve, table
from cld_core.run.evaluations import EvalRequest, Extraction, Files
from cld_core.run.shards import Arrays
from cld_core.sanitize import printable
from cld_core.tasks import Computer

from . import stats_file
from .rows import SampleRows, Table

_REGISTERED = table("extractors", {})
# Of fewer samples of a class, a Fréchet distance says nothing.
_LEAST = 10
_MEANS = ("fid", "precision", "recall")


def find(name: str) -> Any:
    """The class of the extractor ``name``, of torch-fidelity or of a plug-in.

    Raises:
        UsageError: no extractor has this name; lists those there are.
    """
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    if name in _REGISTERED:
        # torch-fidelity makes them, too, and another version of the plug-in may have registered its
        # own.
        FEATURE_EXTRACTORS_REGISTRY[name] = resolve(_REGISTERED[name])
    if name not in FEATURE_EXTRACTORS_REGISTRY:
        there = ", ".join(sorted(FEATURE_EXTRACTORS_REGISTRY))
        fix = "Name one of them, or the file that registers it in `plugins`"
        raise UsageError(
            f"'eval.fid.extractor' is {name!r}, but torch-fidelity has {there}. {fix}."
        )
    return FEATURE_EXTRACTORS_REGISTRY[name]


def is_built_in(kind: Any) -> bool:
    """Whether an extractor comes with torch-fidelity, and so needs weights."""
    return str(kind.__module__).startswith("torch_fidelity")


def score_layer(name: str) -> str:
    """The layer of class scores that the Inception Score looks at."""
    return str(find(name).get_default_feature_layer_for_metric("isc"))


class Extractor:
    """Features of images, from the layers that metrics look at.

    Args:
        extraction: which extractor, layer and weights.
        files: where weights and plug-ins lie.
        scores: whether class scores are wanted, for the Inception Score.

    Raises:
        UsageError: the weights or the plug-in have changed, or the weights are those of another
            network.
    """

    def __init__(
        self, extraction: Extraction, files: Files, device: str, scores: bool = False
    ) -> None:
        name = extraction.extractor
        if extraction.plugin is not None:
            plugins = [path for place, path in files.items() if place.startswith("plugin") and path]
            if fingerprint_of([("extractors", name)]) != extraction.plugin:
                text = "changed since the evaluation was asked for. Re-run the command"
                raise UsageError(f"{', '.join(plugins)}: {text}.")
        kind = find(name)
        self.layers = {"features": extraction.layer}
        if scores:
            self.layers["scores"] = score_layer(name)
        known = kind.get_provided_features_list()
        for layer in self.layers.values():
            if layer not in known:
                raise UsageError(
                    f"'eval.fid.layer' is {layer!r}, but {name} has {', '.join(known)}."
                )
        made = _made(
            kind, extraction, files.get("weights"), list(dict.fromkeys(self.layers.values()))
        )
        self._net = made.to(device)
        self.device = torch.device(device)

    @execution.using(tf32=False)
    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> dict[str, np.ndarray]:
        """``features`` (B, D), and ``scores`` (B, K) if wanted, float32, of images (B, C, H, W),
        uint8.

        The network gets grey images (B, 1, H, W) with this channel three times.
        """
        coloured = pixels.to(self.device).expand(-1, 3, -1, -1)
        outputs = self._net.convert_features_tuple_to_dict(self._net(coloured))
        return {key: outputs[layer].float().cpu().numpy() for key, layer in self.layers.items()}


def _made(kind: Any, extraction: Extraction, weights: str | None, layers: list[str]) -> Any:
    """The network of an extractor, with its weights."""
    from torch_fidelity.utils import create_feature_extractor

    name, settings = extraction.extractor, {}
    if weights is not None:
        settings["feature_extractor_weights_path"] = _loadable(Path(weights), extraction, kind)
    elif is_built_in(kind):
        # torch-fidelity would unpickle what lies where torch keeps downloads.
        raise UsageError(
            f"'eval.fid.extractor' {name} needs weights. Name their file in eval.fid.weights."
        )
    try:
        return create_feature_extractor(name, layers, cuda=False, verbose=False, **settings)
    except (
        Exception
    ) as error:  # torch and plug-ins may raise anything for a file of another network
        # The second line names the first tensors that are missing.
        lines = [line.strip() for line in str(error).strip().splitlines()]
        raise _no_weights(
            weights or name, name, f"{type(error).__name__}: {' '.join(lines[:2])[:300]}"
        ) from error


def _loadable(path: Path, extraction: Extraction, kind: Any) -> Any:
    """What a class of torch-fidelity may load: the tensors alone, or the file itself where that
    runs nothing of others.

    Raises:
        UsageError: the file is gone or another one, holds more than tensors, or is a program.
    """
    from torch_fidelity.feature_extractor_clip import MODEL_METADATA, FeatureExtractorCLIP
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

    name = extraction.extractor
    try:
        is_same = digest_of(path) == extraction.weights
    except OSError as error:
        text = f"gone since the evaluation was asked for ({error.strerror})"
        raise UsageError(f"{path}: {text}. Put it back, or re-run the command.") from error
    if not is_same:
        raise UsageError(f"{path}: changed since the evaluation was asked for. Re-run the command.")
    if issubclass(kind, FeatureExtractorInceptionV3 | FeatureExtractorVGG16):
        tensors = io.BytesIO()
        torch.save(tensors_of(path, name), tensors)
        tensors.seek(0)
        return tensors
    if issubclass(kind, FeatureExtractorCLIP) and extraction.weights != MODEL_METADATA.get(
        name, {}
    ).get("hash"):
        # TorchScript is a program.
        raise UsageError(f"'eval.fid.weights' is not the published file of {name}. Name that one.")
    if issubclass(kind, FeatureExtractorDinoV2):
        raise UsageError(
            f"'eval.fid.extractor' {name} runs code from the internet. Choose another extractor."
        )
    # A plug-in is the user's own code, and reads files of its own kind.
    return str(path)


def tensors_of(path: Path, name: str) -> Any:
    """What a file of `torch.save` holds, of the extractor ``name``, which refuses anything but its
    named tensors.

    Raises:
        UsageError: the file is damaged, or there is more in it than tensors.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything for a damaged file
        raise _no_weights(
            path, name, "it is damaged, or there is more in it than tensors"
        ) from error


def _no_weights(path: str | Path, name: str, why: str) -> UsageError:
    fix = f"The published weights of Inception: {WEIGHTS_URL}"
    return UsageError(f"{path}: these are not weights of {name} ({printable(why, keep='')}). {fix}")


@functools.lru_cache(maxsize=1)
def _cached(
    extraction: Extraction, files: tuple[tuple[str, str | None], ...], device: str, scores: bool
) -> Extractor:
    return Extractor(extraction, dict(files), device, scores)


def load(
    extraction: Extraction, files: Files, device: torch.device | str, scores: bool = False
) -> Extractor:
    """As `Extractor`; the last one is kept, because a shard asks for it at every batch."""
    return _cached(extraction, tuple(files.items()), str(device), scores)


def dimensions(extraction: Extraction, files: Files, shape: tuple[int, ...]) -> int:
    """The number of features, found by trying the extractor on an image (C, H, W), which reveals
    wrong weights, too."""
    image = torch.zeros(1, *shape, dtype=torch.uint8)
    return int(load(extraction, files, "cpu")(image)["features"].shape[1])


def download(url: str, path: Path, sha256: str) -> None:
    """Fetch weights with the digest ``sha256`` to ``path``.

    Raises:
        UsageError: they cannot be fetched, or are others.
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
    """Of the samples ``first <= i < last``: ``nfe``, ``features`` (last - first, D), ``scores`` if
    a metric reads them.

    ``nonfinite`` (last - first,), bool, says which samples are not finite. Pixels do not show it.

    Raises:
        UsageError: the weights are gone or have changed.
    """

    def __init__(self, model: Model, request: EvalRequest) -> None:
        super().__init__(model, request)
        scores = "scores" in registry.read_of("features", request.metrics)
        self._extractor = load(request.inputs, request.files, model.device, scores)

    def compute(self, first: int, last: int) -> Arrays:
        drawn = self.draw(first, last)
        pixels = to_grey(
            drawn.x, self.model.form, floor=self.request.inputs.quantisation == "floor"
        )
        return {**self.about(drawn), **self._extractor(pixels)}


class ImageRows(Computer):
    """The features of training images, ``features`` (last - first, D); there are ``n`` images.

    Real numbers are rounded to grey levels, as those of samples are.

    Raises:
        DataError: the images are gone.
        UsageError: the weights are gone or have changed.
    """

    def __init__(
        self, data: StoredDataSpec, extraction: Extraction, files: Files, device: torch.device
    ) -> None:
        self._extractor = load(extraction, files, device)
        stored: Any = source(replace(data, cache="disk"))
        self._images, self._form = stored.train, form_of(stored)
        self.n: int = self._images.n

    def compute(self, first: int, last: int) -> Arrays:
        examples = self._images.batch(torch.arange(first, last))
        is_grey = examples.dtype == torch.uint8
        return self._extractor(
            examples if is_grey else to_grey(self._form.to_data(examples), self._form)
        )


def fid(table: Table) -> dict[str, Any]:
    """Fréchet distance between the features of samples and of training images, in float64."""
    value = frechet(table.arrays["features"], table.reference.mu, table.reference.sigma)
    return {"value": value, **table.about_samples(), **table.about_reference()}


def frechet(ours: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> float:
    """The Fréchet distance between features (n, D), and mean (D,) and covariance (D, D) of
    others."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    mean, covariance = stats_file.moments([ours])
    own, theirs = {"mu": mean, "sigma": covariance}, {"mu": mu, "sigma": sigma}
    value = fid_statistics_to_metric(own, theirs, verbose=False)[KEY_METRIC_FID]
    # For equal sets of few images, rounding makes the formula negative.
    return max(0.0, float(value))


def kid(table: Table) -> dict[str, Any]:
    """Kernel distance between the features of samples and of training images."""
    from torch_fidelity.metric_kid import (
        KEY_METRIC_KID_MEAN,
        KEY_METRIC_KID_STD,
        kid_features_to_metric,
    )

    spec = table.request.kid
    settings = {"kid_subsets": spec.subsets, "kid_subset_size": spec.subset_size}
    result = kid_features_to_metric(*_both_features(table), verbose=False, **settings)
    values = {
        "value": result[KEY_METRIC_KID_MEAN],
        "std": result[KEY_METRIC_KID_STD],
        **asdict(spec),
    }
    return {**values, **table.about_samples(), **table.about_reference()}


def isc(table: Table) -> dict[str, Any]:
    """Inception Score of samples."""
    from torch_fidelity.metric_isc import (
        KEY_METRIC_ISC_MEAN,
        KEY_METRIC_ISC_STD,
        isc_features_to_metric,
    )

    spec = table.request.isc
    result = isc_features_to_metric(torch.from_numpy(table.arrays["scores"]), splits=spec.splits)
    values = {
        "value": result[KEY_METRIC_ISC_MEAN],
        "std": result[KEY_METRIC_ISC_STD],
        **asdict(spec),
    }
    layer = score_layer(table.request.inputs.extractor)
    return {**values, **table.about_samples(), "layer": layer}


def prc(table: Table) -> dict[str, Any]:
    """Precision and recall of the features of samples against those of training images."""
    spec = table.request.prc
    results = _precision_and_recall(*_both_features(table), spec.neighbours)
    values = {**dict(zip(("precision", "recall", "f_score"), results, strict=True)), **asdict(spec)}
    return {**values, **table.about_samples(), **table.about_reference()}


def _precision_and_recall(
    ours: Tensor, theirs: Tensor, neighbours: int
) -> tuple[float, float, float]:
    """Precision, recall and F score of features (n, D) of samples and (m, D) of training images."""
    from torch_fidelity.metric_prc import (
        KEY_METRIC_F_SCORE,
        KEY_METRIC_PRECISION,
        KEY_METRIC_RECALL,
    )
    from torch_fidelity.metric_prc import prc_features_to_metric as to_metric

    # Not the form that holds all distances at once, which are 10 GB for 50,000 samples.
    result = to_metric(ours, theirs, prc_neighborhood=neighbours, save_cpu_ram=True, verbose=False)
    return result[KEY_METRIC_PRECISION], result[KEY_METRIC_RECALL], result[KEY_METRIC_F_SCORE]


def classes(table: Table) -> dict[str, Any]:
    """Fréchet distance, precision and recall within each class, against training images of the same
    class."""
    model, reference = table.model, table.reference
    assert model.classes is not None, "only class-conditional models are asked"
    assert reference.labels is not None, "only statistics with labels are asked"
    if reference.outline.classes != model.classes.names:
        text = "has statistics of other classes than those of the model. Compute them with"
        raise UsageError(
            f"{table.request.files['stats']} {text} `cldctl data stats RECIPE|RUN --features`."
        )
    ours, theirs = _both_features(table)
    label = np.array(model.classes.drawn(0, len(ours)))
    spec = table.request.prc
    by_class: dict[str, Mapping[str, Any]] = {}
    for number, name in enumerate(model.classes.names):
        parts = ours[label == number].numpy(), theirs[reference.labels == number].numpy()
        if min(map(len, parts)) > spec.neighbours and len(parts[0]) >= _LEAST:
            by_class[name] = _of_class(*parts, spec.neighbours)
    if not by_class:
        few = (
            f"no class has {max(_LEAST, spec.neighbours + 1)} samples and more than "
            f"{spec.neighbours} images"
        )
        raise UsageError(f"--classes: {few}. Draw more samples.")
    means = {
        name: float(np.mean([values[name] for values in by_class.values()])) for name in _MEANS
    }
    about = {"neighbours": spec.neighbours, **table.about_samples(), **table.about_reference()}
    return {
        **means,
        "classes": by_class,
        "left_out": len(model.classes.names) - len(by_class),
        **about,
    }


def _of_class(ours: np.ndarray, theirs: np.ndarray, neighbours: int) -> dict[str, Any]:
    precision, recall, _ = _precision_and_recall(
        torch.from_numpy(ours), torch.from_numpy(theirs), neighbours
    )
    value = frechet(ours, *stats_file.moments([theirs]))
    return {
        "fid": value,
        "precision": precision,
        "recall": recall,
        "samples": len(ours),
        "images": len(theirs),
    }


def _both_features(table: Table) -> tuple[Tensor, Tensor]:
    """Features (n, D) of samples and (m, D) of training images."""
    theirs = table.reference.features
    assert theirs is not None, "checked when the evaluation was asked for"
    return torch.from_numpy(table.arrays["features"]), torch.from_numpy(
        theirs.astype(np.float32, copy=False)
    )
