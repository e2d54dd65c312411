"""Requests of evaluations, made of recipes, and checks that everything they need exists.

Evaluations of images need an extractor, its weights, and statistics of the training set. They are
looked for when an evaluation is requested, not when its job starts, and identified by content.
Loads no torch for Inception with the published weights.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from cld_core import metrics as registry
from cld_core.config import Recipe
from cld_core.config.data import DataSpec, ImageDataSpec, StoredDataSpec
from cld_core.config.eval import INCEPTION, PUBLISHED_SHA256, WEIGHTS_URL, FidSpec
from cld_core.config.network import UnetSpec
from cld_core.config.sampling import SamplingSpec
from cld_core.config.train import EmaSpec
from cld_core.data import store
from cld_core.data.format import DataFormat
from cld_core.digests import digest_of
from cld_core.errors import UsageError
from cld_core.plugins import fingerprint_of, is_shipped
from cld_core.run.evaluations import EvalRequest, Extraction, FeatureInputs, Files
from cld_core.sanitize import one_line

# The layers of Inception and their numbers of features.
LAYERS = {"64": 64, "192": 192, "768": 768, "2048": 2048}

Periodic = Literal["samples", "elbo", "fid"]
# What training computes at intervals, in this order.
PERIODIC: tuple[Periodic, ...] = ("samples", "elbo", "fid")


def request_of(
    recipe: Recipe,
    metrics: Sequence[str],
    checkpoint_step: int,
    shards: int = 1,
    points_key: str = "eval.points",
) -> EvalRequest:
    """The request that a recipe's `eval` and `sampling` sections make for the checkpoint of a step.

    Checks that everything it needs exists, before anything is computed.

    Args:
        points_key: the key in the recipe that ``eval.points`` comes from, for messages.

    Raises:
        UsageError: weights or statistics are missing or do not fit, a metric is not for such data
            or not for this sampler, or there are too many shards.
        RecipeError: the sampler's settings would draw useless samples.
        DataError: there is no test set, or a smaller one.
    """
    spec = recipe.eval
    chosen = registry.metrics(metrics)
    names = tuple(metric.name for metric in chosen)
    rows = [registry.ROWS[metric.rows] for metric in chosen]
    over = {kind.over for kind in rows}
    # What a plug-in may have registered: its fingerprint is part of the request.
    registered: list[tuple[str, str]] = []
    for metric in chosen:
        registered += [("metrics", metric.name), ("rows", metric.rows)]
    if "samples" in over:
        recipe.sampling.require_usable()
        _require_flow(recipe.sampling, chosen)
        registered.append(("sampling", recipe.sampling.method))
    if "loss" in names:
        registered.append(("objective", recipe.objective.name))
    fid, files = feature_inputs(recipe.anchored(Path.cwd()), names)
    points = _points(recipe, points_key) if "points" in over else 0
    test_set = None
    reads_test_set = points or any(kind.of == "vectors" for kind in rows)
    if reads_test_set and isinstance(recipe.data, StoredDataSpec):
        test_set = store.of(recipe.data).split("validation").digest
    eps = max(spec.elbo.eps, recipe.objective.loss_eps)
    resolved = {"fid": fid, "points": points, "elbo": replace(spec.elbo, eps=eps)}
    request = EvalRequest(
        **{**vars(spec), **resolved},
        plugins=fingerprint_of(registered),
        images=_may_be_large(recipe),
        test_set=test_set,
        metrics=names,
        checkpoint_step=checkpoint_step,
        model_digest=recipe.model_digest(),
        # Requests that sample alike are equal.
        sampling=recipe.sampling.canonical(),
        objective=recipe.objective,
        elbo_eps_asked=spec.elbo.eps if spec.elbo.eps < eps else None,
        ema=recipe.ema,
        files=files,
        retries=recipe.train.max_retries,
    )
    return request.in_shards(shards)


def _may_be_large(recipe: Recipe) -> bool:
    """Whether examples may be large: images, or arrays for a U-Net or a plug-in's network."""
    if isinstance(recipe.data, ImageDataSpec) or isinstance(recipe.network, UnetSpec):
        return True
    return isinstance(recipe.data, StoredDataSpec) and not is_shipped(
        "network", recipe.network.name
    )


def is_ever_due(recipe: Recipe, what: Periodic) -> bool:
    """Whether training computes the samples, the bound or the FID after any of its steps."""
    steps = recipe.train.steps
    every: int | None = getattr(recipe.periodic, f"{what}_every")
    if every is None or steps < every:
        return False
    return recipe.periodic.wants(what, steps - steps % every)


def periodic_request(recipe: Recipe, metric: Literal["fid", "elbo"]) -> EvalRequest | None:
    """The request for what training computes after some of its steps; None if it never does.

    Raises:
        DataError: there is no test set.
        UsageError: the test set is too small, or weights or statistics are missing or do not fit.
    """
    if not is_ever_due(recipe, metric):
        return None
    spec = recipe.periodic
    settings = replace(recipe.eval, samples=spec.fid_samples, points=spec.elbo_points)
    recipe = replace(recipe, eval=settings, ema=EmaSpec())
    return request_of(recipe, (metric,), 0, points_key="periodic.elbo_points")


def _require_flow(sampling: SamplingSpec, metrics: Sequence[registry.Metric]) -> None:
    """Refuse metrics that compare samples with the probability flow if the sampler leaves it."""
    flags = [metric.flag for metric in metrics if registry.ROWS[metric.rows].along_flow]
    if flags and not sampling.follows_flow:
        raise UsageError(
            f"{', '.join(flags)} compares samples with the network's probability flow from the "
            f"same noise, but these settings of sampling.method={sampling.method} draw further "
            "noise. Leave it out, or sample without noise."
        )


def _points(recipe: Recipe, key: str) -> int:
    """The number of test points, from the recipe, or all of them."""
    points = recipe.eval.points
    if not isinstance(recipe.data, StoredDataSpec):
        return points or recipe.eval.samples
    available = store.of(recipe.data).split("validation").count
    if points is not None and points > available:
        raise UsageError(
            f"'{key}' is {points}, but {recipe.data.path} has {available} test examples. "
            f"Set {key}={available}"
            f"{', or null for all of them' if key == 'eval.points' else ''}."
        )
    return points or available


def plugin_files(recipe: Recipe) -> Files:
    """The plug-ins that a job imports before it reads its request, by number."""
    return {f"plugin {number}": plugin for number, plugin in enumerate(recipe.plugins)}


def feature_inputs(recipe: Recipe, metrics: Sequence[str]) -> tuple[FeatureInputs | None, Files]:
    """The inputs of metrics that read features, and where their files lie.

    Without such metrics, the inputs are None.

    Raises:
        UsageError: a metric is not for such data, weights or statistics are missing or do not fit,
            or samples are too few.
        DataError: the training set is missing.
    """
    chosen = registry.metrics(metrics)
    _refuse_other_data(recipe, chosen)
    readers = [
        metric
        for metric in chosen
        if any(key.startswith("fid.") for key in registry.ROWS[metric.rows].depends)
    ]
    if not readers:
        _refuse_too_few(recipe, chosen, None)
        return None, plugin_files(recipe)
    extraction, dimensions, files = extractor(recipe)
    stats = None
    references = None
    if any(metric.reference is not None for metric in readers):
        from . import stats_file

        flags = " and ".join(metric.flag for metric in readers if metric.needs_features)
        by_class = any(metric.reference == "classes" for metric in readers)
        path, stats, references = stats_file.find(
            recipe, extraction, dimensions, flags, by_class=by_class
        )
        files["stats"] = str(path)
    _refuse_too_few(recipe, chosen, references)
    inputs = FeatureInputs(
        **asdict(extraction), quantisation=recipe.eval.fid.quantisation, stats=stats
    )
    return inputs, files


def kinds_of(data: DataSpec) -> tuple[registry.Kind, ...]:
    """The kinds of examples that metrics find in a recipe's data.

    Raises:
        DataError: arrays are missing.
    """
    if isinstance(data, ImageDataSpec):
        return ("images",)
    if not isinstance(data, StoredDataSpec):
        return ("vectors", "law")
    if DataFormat(shape=store.of(data).shape).kind == "images":
        return ("vectors", "images")
    return ("vectors",)


def _refuse_other_data(recipe: Recipe, metrics: Sequence[registry.Metric]) -> None:
    """Refuse metrics that the data are not for: of another kind, or without density or classes."""
    name = recipe.data.name
    # Without a metric of a kind of data, the data need not exist.
    kinds: tuple[registry.Kind, ...] = ()
    if any(registry.ROWS[metric.rows].of for metric in metrics):
        kinds = kinds_of(recipe.data)
    fitting = registry.fitting(kinds)
    if others := [metric for metric in metrics if metric not in fitting]:
        flags = ", ".join(metric.flag for metric in others)
        alternatives = " or ".join(metric.flag for metric in fitting)
        kind = registry.ROWS[others[0].rows].of
        if kind in kinds:
            raise UsageError(
                f"{flags} needs the density of the data, and that of data.name={name} is not "
                f"known. Ask for {alternatives}."
            )
        raise UsageError(
            f"{flags} compares {kind}, but the examples of data.name={name} are "
            f"{' and '.join(kinds[:1])}. Ask for {alternatives}."
        )
    by_class = [metric.flag for metric in metrics if metric.needs_labels]
    if by_class and not recipe.data.labels:
        raise UsageError(
            f"{by_class[0]} needs a class-conditional model, but data.labels of "
            f"{one_line(recipe.name)} is false. Leave it out."
        )


def _refuse_too_few(
    recipe: Recipe, metrics: Sequence[registry.Metric], references: int | None
) -> None:
    """Refuse settings that need more samples, test examples or features of training images."""
    samples = recipe.eval.samples
    sets = recipe.eval.w2.sets
    compares_vectors = any(registry.ROWS[metric.rows].of == "vectors" for metric in metrics)
    if compares_vectors and isinstance(recipe.data, StoredDataSpec):
        test_examples = store.of(recipe.data).split("validation").count
        count, what = min((samples, "samples"), (test_examples, "test examples"))
        if count < 2 * sets:
            raise UsageError(
                f"'eval.w2.sets' is {sets}, too many for {count} {what}. "
                f"Set it to at most {count // 2}, which must be 2 or more."
            )
    for metric in metrics:
        if metric.least is None:
            continue
        key, spare = metric.least
        value = getattr(getattr(recipe.eval, metric.name), key)
        counts = {"samples": samples}
        if metric.needs_features and references is not None:
            counts["features of training images"] = references
        for what, count in counts.items():
            if value > count - spare:
                raise UsageError(
                    f"'eval.{metric.name}.{key}' is {value}, too many for {count} {what}. "
                    f"Set it to at most {count - spare}, or draw more samples."
                )


def extractor(recipe: Recipe) -> tuple[Extraction, int, Files]:
    """The feature extractor of a recipe, the number of its features, and where its files lie.

    Raises:
        UsageError: it is not registered, or its weights are missing or those of another network.
    """
    spec = recipe.eval.fid
    plugin: str | None = None
    layer = "2048" if spec.layer is None else str(spec.layer)
    if spec.extractor == INCEPTION:
        if layer not in LAYERS:
            raise UsageError(
                f"'eval.fid.layer' cannot be {str(spec.layer)!r}; {INCEPTION} has "
                f"{', '.join(LAYERS)}."
            )
    else:
        # Other extractors are code, which needs torch.
        from . import features

        kind = features.find(spec.extractor)
        plugin = fingerprint_of([("extractors", spec.extractor)])
        if spec.layer is None:
            layer = kind.get_default_feature_layer_for_metric("fid")
    weights = _weights(spec)
    extraction = Extraction(
        extractor=spec.extractor,
        layer=layer,
        weights=None if weights is None else digest_of(weights),
        plugin=plugin,
    )
    files: Files = {"weights": None if weights is None else str(weights), **plugin_files(recipe)}
    if spec.extractor == INCEPTION and extraction.weights == PUBLISHED_SHA256:
        return extraction, LAYERS[layer], files
    from . import features

    assert isinstance(recipe.data, StoredDataSpec), "features are of images"
    dimensions = features.dimensions(extraction, files, store.of(recipe.data).shape)
    return extraction, dimensions, files


def _weights(spec: FidSpec) -> Path | None:
    """The file of weights that the recipe names, or else Inception's, where torch keeps it.

    None if another extractor has no file.
    """
    if spec.weights is not None:
        path = Path(spec.weights)
        if not path.is_file():
            raise UsageError(
                f"'eval.fid.weights' names {path}, but there is no such file. Correct the path."
                f"{f' Download {WEIGHTS_URL} to there.' if spec.extractor == INCEPTION else ''}"
            )
        return path
    if spec.extractor != INCEPTION:
        return None
    path = weights_path()
    if not path.is_file():
        if not spec.download:
            raise UsageError(
                f"the weights of {INCEPTION} are not on this machine. Download {WEIGHTS_URL} "
                f"and put it at {path}, or name it in eval.fid.weights; with internet access, "
                "eval.fid.download=true does it."
            )
        from . import features

        features.download(WEIGHTS_URL, path, PUBLISHED_SHA256)
    # Any program may have put the file there.
    if (digest := digest_of(path)) != PUBLISHED_SHA256:
        raise UsageError(
            f"{path}: not the published weights of {INCEPTION}: its SHA-256 is {digest[:16]}.... "
            f"Remove it and download {WEIGHTS_URL} to there, or name a file of your own in "
            "eval.fid.weights."
        )
    return path


def weights_path() -> Path:
    """Where torch keeps the downloaded weights (`torch.hub.get_dir`), without loading torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", f"{cache}/torch")
    return Path(home).expanduser() / "hub" / "checkpoints" / WEIGHTS_URL.rsplit("/", 1)[1]
