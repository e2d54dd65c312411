"""Feature extractors of torch-fidelity: Inception and whatever else is registered with it.

torch-fidelity unpickles the files of weights that it is given, and those that it finds where torch keeps downloads. It
gets tensors alone instead, which were read with ``weights_only=True``, or a published file that is known by all digits
of its SHA-256.
"""

import functools
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cld_core import numerics
from cld_core.config.eval import WEIGHTS_URL
from cld_core.digests import digest_of
from cld_core.errors import UsageError
from cld_core.registration import fingerprint, resolve, table
from cld_core.sanitize import printable

if TYPE_CHECKING:
    from cld_core.run.evaluations import Extraction, Files

_REGISTERED = table("extractors", {})


def find(name: str) -> Any:
    """The class of the extractor ``name``, of torch-fidelity or of a plug-in.

    Raises:
        UsageError: no extractor has this name; lists those there are.
    """
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    if name in _REGISTERED:
        # torch-fidelity makes them, too, and another version of the plug-in may have registered its own.
        FEATURE_EXTRACTORS_REGISTRY[name] = resolve(_REGISTERED[name])
    if name not in FEATURE_EXTRACTORS_REGISTRY:
        there = ", ".join(sorted(FEATURE_EXTRACTORS_REGISTRY))
        fix = "Name one of them, or the file that registers it in `plugins`"
        raise UsageError(f"'eval.fid.extractor' is {name!r}, but torch-fidelity has {there}. {fix}.")
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
        UsageError: the weights or the plug-in have changed, or the weights are those of another network.
    """

    def __init__(self, extraction: "Extraction", files: "Files", device: str, scores: bool = False) -> None:
        name = extraction.extractor
        if extraction.plugin is not None:
            plugins = [path for place, path in files.items() if place.startswith("plugin") and path]
            if fingerprint(plugins) != extraction.plugin:
                text = "changed since the evaluation was asked for. Re-run the command"
                raise UsageError(f"{', '.join(plugins)}: {text}.")
        kind = find(name)
        self.layers = {"features": extraction.layer}
        if scores:
            self.layers["scores"] = score_layer(name)
        known = kind.get_provided_features_list()
        for layer in self.layers.values():
            if layer not in known:
                raise UsageError(f"'eval.fid.layer' is {layer!r}, but {name} has {', '.join(known)}.")
        made = _made(kind, extraction, files.get("weights"), list(dict.fromkeys(self.layers.values())))
        self._net = made.to(device)
        self.device = torch.device(device)

    @numerics.using(tf32=False)
    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> dict[str, np.ndarray]:
        """``features`` (B, D), and ``scores`` (B, K) if wanted, float32, of images (B, 3, H, W), uint8."""
        outputs = self._net.convert_features_tuple_to_dict(self._net(pixels.to(self.device)))
        return {key: outputs[layer].float().cpu().numpy() for key, layer in self.layers.items()}


def _made(kind: Any, extraction: "Extraction", weights: str | None, layers: list[str]) -> Any:
    """The network of an extractor, with its weights."""
    from torch_fidelity.utils import create_feature_extractor

    name, settings = extraction.extractor, {}
    if weights is not None:
        settings["feature_extractor_weights_path"] = _loadable(Path(weights), extraction, kind)
    elif is_built_in(kind):
        # torch-fidelity would unpickle what lies where torch keeps downloads.
        raise UsageError(f"'eval.fid.extractor' {name} needs weights. Name their file in eval.fid.weights.")
    try:
        return create_feature_extractor(name, layers, cuda=False, verbose=False, **settings)
    except Exception as error:  # torch and plug-ins may raise anything for a file of another network
        # The second line names the first tensors that are missing.
        lines = [line.strip() for line in str(error).strip().splitlines()]
        raise _no_weights(weights or name, name, f"{type(error).__name__}: {' '.join(lines[:2])[:300]}") from error


def _loadable(path: Path, extraction: "Extraction", kind: Any) -> Any:
    """What a class of torch-fidelity may load: the tensors alone, or the file itself where that runs nothing of others.

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
    if issubclass(kind, FeatureExtractorCLIP) and extraction.weights != MODEL_METADATA.get(name, {}).get("hash"):
        # TorchScript is a program.
        raise UsageError(f"'eval.fid.weights' is not the published file of {name}. Name that one.")
    if issubclass(kind, FeatureExtractorDinoV2):
        raise UsageError(f"'eval.fid.extractor' {name} runs code from the internet. Choose another extractor.")
    # A plug-in is the user's own code, and reads files of its own kind.
    return str(path)


def tensors_of(path: Path, name: str) -> Any:
    """What a file of `torch.save` holds, of the extractor ``name``, which refuses anything but its named tensors.

    Raises:
        UsageError: the file is damaged, or there is more in it than tensors.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything for a damaged file
        raise _no_weights(path, name, "it is damaged, or there is more in it than tensors") from error


def _no_weights(path: str | Path, name: str, why: str) -> UsageError:
    fix = f"The published weights of Inception: {WEIGHTS_URL}"
    return UsageError(f"{path}: these are not weights of {name} ({printable(why, keep='')}). {fix}")


@functools.lru_cache(maxsize=1)
def _cached(
    extraction: "Extraction", files: tuple[tuple[str, str | None], ...], device: str, scores: bool
) -> Extractor:
    return Extractor(extraction, dict(files), device, scores)


def load(extraction: "Extraction", files: "Files", device: torch.device | str, scores: bool = False) -> Extractor:
    """As `Extractor`; the last one is kept, because a shard asks for it at every batch."""
    return _cached(extraction, tuple(files.items()), str(device), scores)


def dimensions(extraction: "Extraction", files: "Files", pixels: int) -> int:
    """The number of features, found by trying the extractor, which reveals wrong weights, too."""
    image = torch.zeros(1, 3, pixels, pixels, dtype=torch.uint8)
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
        raise UsageError(f"{url} cannot be downloaded ({error}). Put the file at {path} by hand.") from error
