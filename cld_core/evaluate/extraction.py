"""What evaluations of images need besides a checkpoint: an extractor, its weights, statistics of the training set.

They are looked for when an evaluation is asked for, not when its job starts, and remembered by content. Loads no torch
for Inception with the published weights.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cld_core import metrics as registry
from cld_core.config import Recipe
from cld_core.config.data import ImageDataSpec
from cld_core.config.eval import INCEPTION, WEIGHTS_URL, FidSpec
from cld_core.digests import digest_of
from cld_core.errors import UsageError
from cld_core.registration import fingerprint
from cld_core.run.evaluations import Extraction, FeatureInputs, Files
from cld_core.sanitize import one_line

# Of the published weights of Inception, which published FIDs are computed with.
PUBLISHED_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
# Its layers and their numbers of features.
LAYERS = {"64": 64, "192": 192, "768": 768, "2048": 2048}


def plugin_files(recipe: Recipe) -> Files:
    """Where the plug-ins lie that a job imports before it reads its request: the name of each is its number."""
    return {f"plugin {number}": plugin for number, plugin in enumerate(recipe.plugins)}


def of(recipe: Recipe, metrics: Sequence[str]) -> tuple[FeatureInputs | None, Files]:
    """What the metrics that look at features need, looked for and checked, None if none does; and where files lie.

    Raises:
        UsageError: a metric is not for such data, weights or statistics are missing or do not fit, or samples are too
            few.
        DataError: the training set, whose statistics are meant, is missing.
    """
    chosen = registry.metrics(metrics)
    _refuse_other_data(recipe, chosen)
    readers = [metric for metric in chosen if any(it.startswith("fid.") for it in registry.ROWS[metric.rows].depends)]
    made, files, references = None, plugin_files(recipe), None
    if readers:
        source, dimensions, files = extractor(recipe)
        stats = None
        if any(metric.reference is not None for metric in readers):
            from . import stats_file

            flags = " and ".join(metric.flag for metric in readers if metric.needs_features)
            by_class = any(metric.reference == "classes" for metric in readers)
            path, stats, references = stats_file.find(recipe, source, dimensions, flags, by_class=by_class)
            files |= {"stats": str(path)}
        made = FeatureInputs(**asdict(source), quantisation=recipe.eval.fid.quantisation, stats=stats)
    _refuse_too_few(recipe, chosen, references)
    return made, files


def _refuse_other_data(recipe: Recipe, metrics: Sequence[registry.Metric]) -> None:
    """Refuse metrics of images for vectors, the other way round, and those of classes where there are none."""
    images = isinstance(recipe.data, ImageDataSpec)
    fitting = registry.fitting(images=images)
    if others := [metric for metric in metrics if metric not in fitting]:
        flags, fit = ", ".join(it.flag for it in others), " or ".join(it.flag for it in fitting)
        wanted, found = ("vectors", "images") if images else ("images", "vectors")
        text = f"compares {wanted}, but the examples of data.name={recipe.data.name} are {found}"
        raise UsageError(f"{flags} {text}. Ask for {fit}.")
    by_class = [metric.flag for metric in metrics if metric.needs_labels]
    if by_class and not recipe.data.labels:
        text = f"needs a class-conditional model, but data.labels of {one_line(recipe.name)} is false. Leave it out."
        raise UsageError(f"{by_class[0]} {text}")


def _refuse_too_few(recipe: Recipe, metrics: Sequence[registry.Metric], references: int | None) -> None:
    """Refuse settings that the number of samples, or of features of training images, is too small for."""
    for metric in metrics:
        if metric.least is None:
            continue
        key, spare = metric.least
        value = getattr(getattr(recipe.eval, metric.name), key)
        counts = {"samples": recipe.eval.samples}
        if metric.needs_features and references is not None:
            counts["features of training images"] = references
        for what, count in counts.items():
            if value > count - spare:
                fix = f"Set it to at most {count - spare}, or draw more samples"
                raise UsageError(f"'eval.{metric.name}.{key}' is {value}, too many for {count} {what}. {fix}.")


def extractor(recipe: Recipe) -> tuple[Extraction, int, Files]:
    """The feature extractor that a recipe names, the number of its features, and where its files lie.

    Raises:
        UsageError: it is not registered, or its weights are missing or those of another network.
    """
    assert isinstance(recipe.data, ImageDataSpec), "features are of images"
    spec = recipe.eval.fid
    plugin: str | None = None
    layer = "2048" if spec.layer is None else str(spec.layer)
    weights = _given_weights(spec)
    if spec.extractor == INCEPTION:
        if layer not in LAYERS:
            raise UsageError(f"'eval.fid.layer' cannot be {layer!r}; {INCEPTION} has {', '.join(LAYERS)}.")
        weights = weights or _published_weights(spec)
    else:
        # Registries and plug-ins are code, which needs torch.
        from . import extractors

        kind = extractors.find(spec.extractor)
        plugin = None if extractors.is_built_in(kind) else fingerprint(recipe.plugins)
        layer = layer if spec.layer is not None else kind.get_default_feature_layer_for_metric("fid")
    made = Extraction(
        extractor=spec.extractor,
        layer=layer,
        weights=None if weights is None else digest_of(weights),
        plugin=plugin,
    )
    files: Files = {"weights": None if weights is None else str(weights), **plugin_files(recipe)}
    if spec.extractor == INCEPTION and made.weights == PUBLISHED_SHA256:
        return made, LAYERS[layer], files
    from . import extractors

    return made, extractors.dimensions(made, files, recipe.data.pixels), files


def _given_weights(spec: FidSpec) -> Path | None:
    if spec.weights is None:
        return None
    path = Path(spec.weights)
    if not path.is_file():
        hint = f" Download {WEIGHTS_URL} to there." if spec.extractor == INCEPTION else ""
        raise UsageError(f"'eval.fid.weights' names {path}, but there is no such file. Correct the path.{hint}")
    return path


def _published_weights(spec: FidSpec) -> Path:
    """The published weights of Inception, where torch keeps them."""
    kept = weights_path()
    if not kept.is_file():
        if not spec.download:
            where = f"put it at {kept}, or name it in eval.fid.weights"
            text = f"the weights of {INCEPTION} are not on this machine. Download {WEIGHTS_URL} and {where}"
            raise UsageError(f"{text}; with internet access, eval.fid.download=true does it.")
        from . import extractors

        extractors.download(WEIGHTS_URL, kept, PUBLISHED_SHA256)
    if (found := digest_of(kept)) != PUBLISHED_SHA256:
        # Anybody's program may have put it there, and nobody has named it.
        text = f"not the published weights of {INCEPTION}: its SHA-256 is {found[:16]}..."
        fix = f"Remove it and download {WEIGHTS_URL} to there, or name a file of your own in eval.fid.weights"
        raise UsageError(f"{kept}: {text}. {fix}.")
    return kept


def weights_path() -> Path:
    """Where torch keeps downloaded weights (in `torch.hub.get_dir`), found without loading torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", f"{cache}/torch")
    return Path(home).expanduser() / "hub" / "checkpoints" / WEIGHTS_URL.rsplit("/", 1)[1]
