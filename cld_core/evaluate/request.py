"""What is asked of a checkpoint. The folder of an evaluation is named after the content of its request."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from cld_core.codec import to_plain
from cld_core.config import Recipe
from cld_core.config.data import ImageDataSpec
from cld_core.config.eval import EvalSpec
from cld_core.config.keys import is_due
from cld_core.config.plugins import fingerprint
from cld_core.config.sampling import SamplingSpec
from cld_core.config.train import EmaSpec, ObjectiveSpec
from cld_core.data import store
from cld_core.digests import digest
from cld_core.errors import UsageError
from cld_core.ranges import POINTS_CHUNK
from cld_core.registration import is_shipped
from cld_core.run import RunFolder
from cld_core.shards import ShardedRequest

from . import extraction, registry
from .extraction import FeatureInputs


@dataclass(frozen=True, kw_only=True)
class EvalRequest(ShardedRequest, EvalSpec):
    """One evaluation of one checkpoint: the `eval` section of a recipe, with what it means for this one.

    More samples that are not finite may be allowed later (``max_nonfinite``): that changes no number and is not part of
    the id, so that the work is completed, and not begun again.

    Attributes:
        metrics: names, in the order of the table.
        model_digest: of the parts of the recipe that the model's tensors depend on.
        points: number of test points; 0 if no metric reads them.
        objective: what the test loss is of.
        fid: what features of samples come from; None if no metric reads them.
        elbo: its ``eps`` is never before `ObjectiveSpec.loss_eps`: the network has seen no smaller t.
        elbo_eps_asked: `eval.elbo.eps` if that is another one.
        ema: which average of the weights.
        images: whether the data are images, not points.
        test_set: what the checksum of the test images is, if a metric reads them.
        plugins: what tells the plug-ins that compute a part of it from others; None if none does.
    """

    kind: ClassVar[str] = "evaluation"
    sections: ClassVar[tuple[str, ...]] = ("sampling", "objective")

    metrics: tuple[str, ...]
    checkpoint_step: int
    model_digest: str
    sampling: SamplingSpec
    objective: ObjectiveSpec
    fid: FeatureInputs | None = None  # type: ignore[assignment] # the section names files, the request what is in them
    elbo_eps_asked: float | None = None
    ema: EmaSpec = field(default_factory=EmaSpec)
    images: bool = False
    test_set: str | None = None
    plugins: str | None = None

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        metrics: Sequence[str],
        checkpoint_step: int,
        shards: int = 1,
        points_key: str = "eval.points",
    ) -> "EvalRequest":
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
        request = cls(
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

    @classmethod
    def periodic(cls, recipe: Recipe, metric: Literal["fid", "elbo"]) -> "EvalRequest | None":
        """What training computes now and then, FID or the likelihood bound; None if it does not before its last step.

        Raises:
            DataError: there is no test set.
            UsageError: it is smaller, or weights or statistics are missing or do not fit.
        """
        spec, steps = recipe.periodic, recipe.train.steps
        every, first = (spec.fid_every, spec.fid_from) if metric == "fid" else (spec.elbo_every, spec.elbo_from)
        if every is None or steps < every or not is_due(steps - steps % every, every, first):
            return None
        asked = replace(recipe.eval, samples=spec.fid_samples, points=spec.elbo_points)
        return cls.of(replace(recipe, eval=asked, ema=EmaSpec()), (metric,), 0, points_key="periodic.elbo_points")

    @property
    def inputs(self) -> FeatureInputs:
        """What features come from."""
        assert self.fid is not None, "a request for features says what they come from"
        return self.fid

    def reference(self) -> Path:
        """The file of statistics of the training set.

        Raises:
            UsageError: they are gone or have changed.
        """
        from . import stats_file

        assert self.inputs.stats is not None, "looked for when the evaluation was asked for"
        path = Path(str(self.files["stats"]))
        if not path.is_file():
            raise UsageError(f"{path}: the statistics are gone since the evaluation was asked for. Put them back.")
        if stats_file.fingerprint_of(path, stats_file.outline(path)) != self.inputs.stats:
            raise UsageError(f"{path}: other statistics than when the evaluation was asked for. Re-run the command.")
        return path

    @property
    def id(self) -> str:
        """Name of the evaluation: metrics, step, and a digest of everything that its numbers depend on."""
        return f"{'-'.join(self.metrics)}-{self.checkpoint_step:08d}-{self._digest(self.metrics, 'checkpoint_step')}"

    @property
    def settings(self) -> str:
        """A digest of everything that is asked of a checkpoint, whichever it is: the same at every step."""
        return self._digest(self.metrics)

    @property
    def sizes(self) -> dict[str, int]:
        """How many rows there are of each kind, in the order of the table of metrics."""
        kinds = {metric.rows: registry.ROWS[metric.rows] for metric in registry.metrics(self.metrics)}
        return {name: min(self.at(place) for place in (kind.over, kind.most) if place) for name, kind in kinds.items()}

    def chunk(self, kind: str) -> int:
        return registry.ROWS[kind].chunk if self.images else POINTS_CHUNK

    def row_settings(self, kind: str) -> dict[str, Any]:
        """All that each single row of a kind depends on besides the weights, but not how many there are."""
        rows = registry.ROWS[kind]
        settings = {name: self.at(name) for name in ("model_digest", "seed", "ema", "plugins", *rows.depends)}
        reads = sorted(registry.read_of(kind, self.metrics))
        return {"rows": kind, "version": rows.version, "chunk": self.chunk(kind), "reads": reads, **settings}

    def at(self, place: str) -> Any:
        """What is at a place such as "kid.subsets"; None if a section of it is missing."""
        value: Any = self
        for name in place.split("."):
            value = None if value is None else getattr(value, name)
        return to_plain(value)

    def save(self, run: RunFolder) -> Path:
        """Write the request into the evaluation's folder in a run, see `Request.store`, and return the folder."""
        return self.store(run.evals / self.id)

    def _digest(self, metrics: Sequence[str], *more: str) -> str:
        names = {"model_digest", "seed", "ema", *(["plugins"] if self.plugins else []), *more}
        for metric in registry.metrics(metrics):
            rows = registry.ROWS[metric.rows]
            names |= {*rows.depends, *metric.same, rows.over, *([rows.most] if rows.most else [])}
        versions = {metric.name: metric.version for metric in registry.metrics(metrics)}
        return digest({"metrics": versions, **{name: self.at(name) for name in names}})[:8]


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
