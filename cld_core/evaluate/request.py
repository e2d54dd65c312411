"""What is asked of a checkpoint, made of a recipe: everything that it will need is looked for
before it is asked.

Evaluations of images need an extractor, its weights, and statistics of the training set. They are
looked for when an evaluation is asked for, not when its job starts, and remembered by content.
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
from cld_core.data.form import Form
from cld_core.digests import digest_of
from cld_core.errors import UsageError
from cld_core.registration import fingerprint_of, is_shipped
from cld_core.run.evaluations import EvalRequest, Extraction, FeatureInputs, Files
from cld_core.sanitize import one_line

# The layers of Inception and their numbers of features.
LAYERS = {"64": 64, "192": 192, "768": 768, "2048": 2048}


def request_of(
    recipe: Recipe,
    metrics: Sequence[str],
    checkpoint_step: int,
    shards: int = 1,
    points_key: str = "eval.points",
) -> EvalRequest:
    """The request that a recipe's `eval` and `sampling` sections make for the checkpoint of a step.

    Everything that it will need is looked for now, before anything is computed.

    Args:
        points_key: the key that `eval.points` was taken from, for messages.

    Raises:
        UsageError: weights or statistics are missing or do not fit, a metric is not for such data
            or not for this sampler, or there are too many shards.
        RecipeError: samples drawn as the recipe says would be useless.
        DataError: there is no test set, or a smaller one.
    """
    spec = recipe.eval
    names = tuple(metric.name for metric in registry.metrics(metrics))
    over = {registry.ROWS[metric.rows].over for metric in registry.metrics(names)}
    if "samples" in over:
        recipe.sampling.require_usable()
        _require_flow(recipe.sampling, names)
    fid, files = feature_inputs(recipe.anchored(Path.cwd()), names)
    points = _points(recipe, points_key) if "points" in over else 0
    stored = recipe.data if isinstance(recipe.data, StoredDataSpec) else None
    reads_test = points or any(
        registry.ROWS[metric.rows].of == "vectors" for metric in registry.metrics(names)
    )
    eps = max(spec.elbo.eps, recipe.objective.loss_eps)
    named = [
        it
        for metric in registry.metrics(names)
        for it in (("metrics", metric.name), ("rows", metric.rows))
    ]
    named += [("sampling", recipe.sampling.method)] if "samples" in over else []
    named += [("objective", recipe.objective.name)] if "loss" in names else []
    has_own_network = stored is not None and not is_shipped("network", recipe.network.name)
    resolved = {"fid": fid, "points": points, "elbo": replace(spec.elbo, eps=eps)}
    request = EvalRequest(
        **{**vars(spec), **resolved},
        plugins=fingerprint_of(named),
        images=isinstance(stored, ImageDataSpec)
        or isinstance(recipe.network, UnetSpec)
        or has_own_network,
        test_set=store.of(stored).split("validation").digest
        if stored is not None and reads_test
        else None,
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


def periodic_request(recipe: Recipe, metric: Literal["fid", "elbo"]) -> EvalRequest | None:
    """What training computes now and then, FID or the likelihood bound; None if it does not before
    its last step.

    Raises:
        DataError: there is no test set.
        UsageError: it is smaller, or weights or statistics are missing or do not fit.
    """
    spec, steps = recipe.periodic, recipe.train.steps
    every: int | None = getattr(spec, f"{metric}_every")
    if every is None or steps < every or not spec.wants(metric, steps - steps % every):
        return None
    asked = replace(recipe.eval, samples=spec.fid_samples, points=spec.elbo_points)
    return request_of(
        replace(recipe, eval=asked, ema=EmaSpec()), (metric,), 0, points_key="periodic.elbo_points"
    )


def _require_flow(sampling: SamplingSpec, metrics: Sequence[str]) -> None:
    """Refuse metrics that compare samples with the probability flow, if the sampler does not follow
    it."""
    readers = [
        metric.flag for metric in registry.metrics(metrics) if registry.ROWS[metric.rows].along_flow
    ]
    if readers and not sampling.follows_flow:
        text = "compares samples with the network's probability flow from the same noise"
        why = f"these settings of sampling.method={sampling.method} draw further noise"
        raise UsageError(
            f"{', '.join(readers)} {text}, but {why}. Leave it out, or sample without noise."
        )


def _points(recipe: Recipe, key: str) -> int:
    """How many test points there are to be: as many as ``key`` asks for, or all."""
    wanted = recipe.eval.points
    if not isinstance(recipe.data, StoredDataSpec):
        return wanted or recipe.eval.samples
    present = store.of(recipe.data).split("validation").count
    if wanted is not None and wanted > present:
        all_of_them = ", or null for all of them" if key == "eval.points" else ""
        text = f"is {wanted}, but {recipe.data.path} has {present} test examples"
        raise UsageError(f"'{key}' {text}. Set {key}={present}{all_of_them}.")
    return wanted or present


def plugin_files(recipe: Recipe) -> Files:
    """Where the plug-ins lie that a job imports before it reads its request: the name of each is
    its number."""
    return {f"plugin {number}": plugin for number, plugin in enumerate(recipe.plugins)}


def feature_inputs(recipe: Recipe, metrics: Sequence[str]) -> tuple[FeatureInputs | None, Files]:
    """What the metrics that look at features need, looked for and checked, None if none does; and
    where files lie.

    Raises:
        UsageError: a metric is not for such data, weights or statistics are missing or do not fit,
            or samples are too few.
        DataError: the training set, whose statistics are meant, is missing.
    """
    chosen = registry.metrics(metrics)
    _refuse_other_data(recipe, chosen)
    readers = [
        metric
        for metric in chosen
        if any(it.startswith("fid.") for it in registry.ROWS[metric.rows].depends)
    ]
    made, files, references = None, plugin_files(recipe), None
    if readers:
        source, dimensions, files = extractor(recipe)
        stats = None
        if any(metric.reference is not None for metric in readers):
            from . import stats_file

            flags = " and ".join(metric.flag for metric in readers if metric.needs_features)
            by_class = any(metric.reference == "classes" for metric in readers)
            path, stats, references = stats_file.find(
                recipe, source, dimensions, flags, by_class=by_class
            )
            files |= {"stats": str(path)}
        made = FeatureInputs(
            **asdict(source), quantisation=recipe.eval.fid.quantisation, stats=stats
        )
    _refuse_too_few(recipe, chosen, references)
    return made, files


def kinds_of(data: DataSpec) -> tuple[registry.Kind, ...]:
    """What the examples of a recipe's data are to metrics.

    Raises:
        DataError: arrays are missing.
    """
    if isinstance(data, ImageDataSpec):
        return ("images",)
    if not isinstance(data, StoredDataSpec):
        return ("vectors", "law")
    return (
        ("vectors", "images") if Form(shape=store.of(data).shape).kind == "images" else ("vectors",)
    )


def _refuse_other_data(recipe: Recipe, metrics: Sequence[registry.Metric]) -> None:
    """Refuse metrics for other kinds of data, those of a law that nobody knows, and those of
    classes without any."""
    name, limited = recipe.data.name, any(registry.ROWS[metric.rows].of for metric in metrics)
    # Others need no look at the data.
    kinds = kinds_of(recipe.data) if limited else ()
    fitting = registry.fitting(kinds)
    if others := [metric for metric in metrics if metric not in fitting]:
        flags, fit = ", ".join(it.flag for it in others), " or ".join(it.flag for it in fitting)
        wanted = registry.ROWS[others[0].rows].of
        text = (
            f"compares {wanted}, but the examples of data.name={name} are {' and '.join(kinds[:1])}"
        )
        if wanted in kinds:
            text = f"needs the density of the data, and that of data.name={name} is not known"
        raise UsageError(f"{flags} {text}. Ask for {fit}.")
    by_class = [metric.flag for metric in metrics if metric.needs_labels]
    if by_class and not recipe.data.labels:
        text = (
            f"needs a class-conditional model, but data.labels of {one_line(recipe.name)} is "
            f"false. Leave it out."
        )
        raise UsageError(f"{by_class[0]} {text}")


def _refuse_too_few(
    recipe: Recipe, metrics: Sequence[registry.Metric], references: int | None
) -> None:
    """Refuse settings that the number of samples, or of features of training images, is too small
    for."""
    sets, data = recipe.eval.w2.sets, recipe.data
    if isinstance(data, StoredDataSpec) and any(
        registry.ROWS[metric.rows].of == "vectors" for metric in metrics
    ):
        count, what = min(
            (recipe.eval.samples, "samples"),
            (store.of(data).split("validation").count, "test examples"),
        )
        if count < 2 * sets:
            fix = f"Set it to at most {count // 2}, which must be 2 or more"
            raise UsageError(f"'eval.w2.sets' is {sets}, too many for {count} {what}. {fix}.")
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
                raise UsageError(
                    f"'eval.{metric.name}.{key}' is {value}, too many for {count} {what}. {fix}."
                )


def extractor(recipe: Recipe) -> tuple[Extraction, int, Files]:
    """The feature extractor that a recipe names, the number of its features, and where its files
    lie.

    Raises:
        UsageError: it is not registered, or its weights are missing or those of another network.
    """
    spec = recipe.eval.fid
    plugin: str | None = None
    layer = "2048" if spec.layer is None else str(spec.layer)
    weights = _given_weights(spec)
    if spec.extractor == INCEPTION:
        if layer not in LAYERS:
            raise UsageError(
                f"'eval.fid.layer' cannot be {layer!r}; {INCEPTION} has {', '.join(LAYERS)}."
            )
        weights = weights or _published_weights(spec)
    else:
        # Registries and plug-ins are code, which needs torch.
        from . import features

        kind = features.find(spec.extractor)
        plugin = fingerprint_of([("extractors", spec.extractor)])
        layer = (
            layer if spec.layer is not None else kind.get_default_feature_layer_for_metric("fid")
        )
    made = Extraction(
        extractor=spec.extractor,
        layer=layer,
        weights=None if weights is None else digest_of(weights),
        plugin=plugin,
    )
    files: Files = {"weights": None if weights is None else str(weights), **plugin_files(recipe)}
    if spec.extractor == INCEPTION and made.weights == PUBLISHED_SHA256:
        return made, LAYERS[layer], files
    from . import features

    assert isinstance(recipe.data, StoredDataSpec), "features are of images"
    return made, features.dimensions(made, files, store.of(recipe.data).shape), files


def _given_weights(spec: FidSpec) -> Path | None:
    if spec.weights is None:
        return None
    path = Path(spec.weights)
    if not path.is_file():
        hint = f" Download {WEIGHTS_URL} to there." if spec.extractor == INCEPTION else ""
        raise UsageError(
            f"'eval.fid.weights' names {path}, but there is no such file. Correct the path.{hint}"
        )
    return path


def _published_weights(spec: FidSpec) -> Path:
    """The published weights of Inception, where torch keeps them."""
    kept = weights_path()
    if not kept.is_file():
        if not spec.download:
            where = f"put it at {kept}, or name it in eval.fid.weights"
            text = (
                f"the weights of {INCEPTION} are not on this machine. Download {WEIGHTS_URL} "
                f"and {where}"
            )
            raise UsageError(f"{text}; with internet access, eval.fid.download=true does it.")
        from . import features

        features.download(WEIGHTS_URL, kept, PUBLISHED_SHA256)
    if (found := digest_of(kept)) != PUBLISHED_SHA256:
        # Anybody's program may have put it there, and nobody has named it.
        text = f"not the published weights of {INCEPTION}: its SHA-256 is {found[:16]}..."
        fix = (
            f"Remove it and download {WEIGHTS_URL} to there, or name a file of your own in "
            f"eval.fid.weights"
        )
        raise UsageError(f"{kept}: {text}. {fix}.")
    return kept


def weights_path() -> Path:
    """Where torch keeps downloaded weights (in `torch.hub.get_dir`), found without loading
    torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", f"{cache}/torch")
    return Path(home).expanduser() / "hub" / "checkpoints" / WEIGHTS_URL.rsplit("/", 1)[1]
