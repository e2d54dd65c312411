"""What an evaluation of images needs beside the checkpoint: weights of the extractor, statistics of the training set.

Found and checked when the evaluation is asked for, not when its job starts. Loads no torch for the published weights.
"""

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cld_core.errors import UsageError
from cld_core.recipe import Recipe
from cld_core.recipe.eval_spec import INCEPTION, FidSpec
from cld_core.recipe.image_spec import ImageDataSpec

# Inception of 2015-12-05, which published FIDs are computed with; the hash is in the name.
WEIGHTS_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
PUBLISHED_SHA256 = "6726825d"
INCEPTION_LAYERS = {"64": 64, "192": 192, "768": 768, "2048": 2048}


@dataclass(frozen=True)
class Inputs:
    """``identity`` is what numbers depend on; ``files`` is where things lie on this machine."""

    identity: dict[str, Any]
    files: dict[str, str | None]


def of(recipe: Recipe, metrics: Sequence[str]) -> Inputs:
    """What the metrics that look at features need, found and checked.

    Raises:
        UsageError: the data are no images, or weights or statistics are missing or do not fit.
        DataError: the training set, whose statistics are meant, is not there.
    """
    asked = ", ".join(f"--{name}" for name in metrics if name in ("fid", "kid", "isc", "prc"))
    if not isinstance(recipe.data, ImageDataSpec):
        text = f"compares images, but data.name={recipe.data.name} are vectors. Ask for --elbo or --loss."
        raise UsageError(f"{asked} {text}")
    found, dimensions = extractor(recipe)
    stats: dict[str, Any] | None = None
    path = None
    if any(name in metrics for name in ("fid", "kid", "prc")):
        from . import statistics

        path, stats = statistics.find(recipe, found.identity, dimensions, features={"kid", "prc"} & {*metrics})
    _fits(recipe, metrics, (stats or {}).get("features"))
    identity = {**found.identity, "quantisation": recipe.eval.fid.quantisation, "stats": (stats or {}).get("identity")}
    return Inputs(identity, {**found.files, "stats": None if path is None else str(path)})


def extractor(recipe: Recipe) -> tuple[Inputs, int]:
    """The feature extractor that a recipe names, with its weights, and the dimensions of its features.

    Raises:
        UsageError: it is not registered, or its weights are missing or belong to another.
    """
    assert isinstance(recipe.data, ImageDataSpec), "features are of images"
    spec = recipe.eval.fid
    plugin = None if spec.plugin is None else _plugin(spec.plugin)
    layer = "2048" if spec.layer is None else str(spec.layer)
    weights: Path | None
    if spec.extractor == INCEPTION:
        if layer not in INCEPTION_LAYERS:
            raise UsageError(f"'eval.fid.layer' cannot be {layer!r}; {INCEPTION} has {', '.join(INCEPTION_LAYERS)}.")
        weights = _inception_weights(spec)
    else:
        # Registries and plug-ins are code, which needs torch.
        from . import extractors

        kind = extractors.find(spec.extractor, plugin)
        layer = layer if spec.layer is not None else kind.get_default_feature_layer_for_metric("fid")
        weights = _given_weights(spec)
        if weights is None and extractors.is_built_in(kind) and not spec.download:
            text = "needs weights. Name their file in eval.fid.weights, or set eval.fid.download=true"
            raise UsageError(f"'eval.fid.extractor' {spec.extractor} {text}.")
    sha256 = None if weights is None else digest_of(weights)
    identity: dict[str, Any] = {"extractor": spec.extractor, "layer": layer, "weights": sha256}
    if plugin is not None:
        identity["plugin"] = digest_of(Path(plugin)) if plugin.endswith(".py") else plugin
    files = {"weights": None if weights is None else str(weights), "plugin": plugin}
    found = Inputs(identity, files)
    if spec.extractor == INCEPTION and is_published(sha256):
        return found, INCEPTION_LAYERS[layer]
    from . import extractors

    return found, extractors.dimensions(found.identity, found.files, recipe.data.pixels)


def is_published(sha256: str | None) -> bool:
    """Whether weights are those that published FIDs are computed with."""
    return sha256 is not None and sha256.startswith(PUBLISHED_SHA256)


def _inception_weights(spec: FidSpec) -> Path:
    given = _given_weights(spec)
    if given is not None:
        return given
    kept = weights_path()
    if not kept.is_file():
        if not spec.download:
            where = f"put it at {kept}, or name it in eval.fid.weights"
            text = f"the weights of {INCEPTION} are not on this machine. Download {WEIGHTS_URL} and {where}"
            raise UsageError(f"{text}; eval.fid.download=true does it where there is internet.")
        from . import extractors

        extractors.download(WEIGHTS_URL, kept, PUBLISHED_SHA256)
    return kept


def _given_weights(spec: FidSpec) -> Path | None:
    if spec.weights is None:
        return None
    path = Path(spec.weights).expanduser().absolute()
    if not path.is_file():
        hint = f" Download {WEIGHTS_URL} to there." if spec.extractor == INCEPTION else ""
        raise UsageError(f"'eval.fid.weights' names {path}, but there is no such file. Correct the path.{hint}")
    return path


def weights_path() -> Path:
    """Where torch keeps Inception's weights once they are downloaded (in `torch.hub.get_dir`), found without it."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", f"{cache}/torch")
    return Path(home).expanduser() / "hub" / "checkpoints" / WEIGHTS_URL.rsplit("/", 1)[1]


def _plugin(plugin: str) -> str:
    if not plugin.endswith(".py"):
        return plugin
    path = Path(plugin).expanduser().absolute()
    if not path.is_file():
        raise UsageError(f"'eval.fid.plugin' names {path}, but there is no such file. Correct the path.")
    return str(path)


def _fits(recipe: Recipe, metrics: Sequence[str], references: int | None) -> None:
    """Refuse settings that the number of samples or of reference images is too small for."""
    spec = recipe.eval
    for count, what in ((spec.samples, "samples"), (references, "features of training images")):
        if count is None:
            continue
        needs = {
            "kid": ("subset_size", spec.kid.subset_size, count),
            "prc": ("neighbours", spec.prc.neighbours, count - 1),
            "isc": ("splits", spec.isc.splits, count),
        }
        for name, (key, value, most) in needs.items():
            if name in metrics and value > most:
                text = f"is {value}, too many for {count} {what}. Set it to at most {most}, or draw more samples."
                raise UsageError(f"'eval.{name}.{key}' {text}")


def digest(content: Any) -> str:
    """SHA-256 of plain content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def digest_of(path: Path) -> str:
    """SHA-256 of a file; kept while its size and time stay, since sweeps ask often."""
    found = path.stat()
    return _digest_of(path, found.st_size, found.st_mtime_ns)


@functools.cache
def _digest_of(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
