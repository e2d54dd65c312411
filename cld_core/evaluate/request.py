"""What is asked of a checkpoint, made of a recipe: everything that it will need is looked for before it is asked."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from cld_core import metrics as registry
from cld_core.config import Recipe
from cld_core.config.data import ImageDataSpec
from cld_core.config.sampling import SamplingSpec
from cld_core.config.train import EmaSpec
from cld_core.data import store
from cld_core.errors import UsageError
from cld_core.registration import fingerprint, is_shipped
from cld_core.run.evaluations import EvalRequest

from . import extraction


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
        UsageError: weights or statistics are missing or do not fit, a metric is not for such data or not for this
            sampler, or there are too many shards.
        RecipeError: samples drawn as the recipe says would be useless.
        DataError: there is no test set, or a smaller one.
    """
    spec = recipe.eval
    names = tuple(metric.name for metric in registry.metrics(metrics))
    over = {registry.ROWS[metric.rows].over for metric in registry.metrics(names)}
    if "samples" in over:
        recipe.sampling.require_usable()
        _require_flow(recipe.sampling, names)
    fid, files = extraction.of(recipe.anchored(Path.cwd()), names)
    points = _points(recipe, points_key) if "points" in over else 0
    images = recipe.data if isinstance(recipe.data, ImageDataSpec) else None
    eps = max(spec.elbo.eps, recipe.objective.loss_eps)
    named = [("metrics", name) for name in names]
    named += [("sampling", recipe.sampling.method)] if "samples" in over else []
    named += [("objective", recipe.objective.name)] if "loss" in names else []
    resolved = {"fid": fid, "points": points, "elbo": replace(spec.elbo, eps=eps)}
    request = EvalRequest(
        **{**vars(spec), **resolved},
        plugins=None if all(is_shipped(*one) for one in named) else fingerprint(recipe.plugins),
        images=images is not None,
        test_set=store.split_of(images, "validation").digest if images is not None and points else None,
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
    """What training computes now and then, FID or the likelihood bound; None if it does not before its last step.

    Raises:
        DataError: there is no test set.
        UsageError: it is smaller, or weights or statistics are missing or do not fit.
    """
    spec, steps = recipe.periodic, recipe.train.steps
    every: int | None = getattr(spec, f"{metric}_every")
    if every is None or steps < every or not spec.wants(metric, steps - steps % every):
        return None
    asked = replace(recipe.eval, samples=spec.fid_samples, points=spec.elbo_points)
    return request_of(replace(recipe, eval=asked, ema=EmaSpec()), (metric,), 0, points_key="periodic.elbo_points")


def _require_flow(sampling: SamplingSpec, metrics: Sequence[str]) -> None:
    """Refuse metrics that compare samples with the probability flow, if the sampler does not follow it."""
    readers = [metric.flag for metric in registry.metrics(metrics) if registry.ROWS[metric.rows].along_flow]
    if readers and not sampling.follows_flow:
        text = "compares samples with the network's probability flow from the same noise"
        why = f"these settings of sampling.method={sampling.method} draw further noise"
        raise UsageError(f"{', '.join(readers)} {text}, but {why}. Leave it out, or sample without noise.")


def _points(recipe: Recipe, key: str) -> int:
    """How many test points there are to be: as many as ``key`` asks for, or all."""
    wanted = recipe.eval.points
    if not isinstance(recipe.data, ImageDataSpec):
        return wanted or recipe.eval.samples
    present = store.split_of(recipe.data, "validation").count
    if wanted is not None and wanted > present:
        all_of_them = ", or null for all of them" if key == "eval.points" else ""
        text = f"is {wanted}, but {recipe.data.path} has {present} test images"
        raise UsageError(f"'{key}' {text}. Set {key}={present}{all_of_them}.")
    return wanted or present
