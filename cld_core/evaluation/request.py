"""What is to be evaluated. The folder of an evaluation is named by its content. Loads no torch."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cld_core.data import presence
from cld_core.errors import NotFoundError, UsageError, did_you_mean
from cld_core.recipe import Recipe
from cld_core.recipe.image_spec import ImageDataSpec
from cld_core.run import RunFolder
from cld_core.run.atomic import read_json, write_json

from . import inputs


@dataclass(frozen=True)
class Metric:
    """``work``: the kind of work that yields it. ``depends``: the fields of a request that its numbers depend on.

    ``version`` is raised when the meaning of its numbers changes, so that old and new never share a folder.
    """

    work: str
    depends: tuple[str, ...]
    version: int = 1


_SAMPLES = ("samples", "sampling", "fid")
BY_NAME = {
    "fid": Metric("features", _SAMPLES),
    "kid": Metric("features", (*_SAMPLES, "kid")),
    "isc": Metric("features", (*_SAMPLES, "isc")),
    "prc": Metric("features", (*_SAMPLES, "prc")),
    "elbo": Metric("elbo", ("points", "elbo")),
    "loss": Metric("loss", ("points", "loss")),
}
METRICS = tuple(BY_NAME)
# How many rows there are, which no row depends on.
_SIZES = ("samples", "points")


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """One evaluation of one checkpoint.

    Everything that the numbers of the asked metrics depend on is in `id`; how the work is cut into shards and batches
    is not, nor where the ``files`` of weights and statistics lie: those are in it by their content (``fid``).
    """

    metrics: tuple[str, ...]
    checkpoint_step: int
    model_digest: str
    seed: int
    samples: int
    points: int
    sampling: dict[str, Any]
    fid: dict[str, Any] = field(default_factory=dict)
    kid: dict[str, Any] = field(default_factory=dict)
    isc: dict[str, Any] = field(default_factory=dict)
    prc: dict[str, Any] = field(default_factory=dict)
    elbo: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str | None] = field(default_factory=dict)
    shards: int = 1
    batch_size: int = 2048

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
            UsageError: weights or statistics are missing or do not fit, or the data are no images.
            DataError: there is no test set, or a smaller one.
        """
        spec = recipe.eval
        found = None
        if draws_samples(metrics):
            if recipe.sampling.method == "ode" and recipe.sampling.solver != "rows":
                text = "makes a sample depend on those that share its batch. Set it to rows for an evaluation"
                raise UsageError(f"'sampling.solver' {recipe.sampling.solver} {text}.")
            found = inputs.of(recipe, metrics)
        tested = any("points" in BY_NAME[name].depends for name in metrics)
        points = _points(recipe, points_key) if tested else 0
        parts = [spec.samples] * (found is not None) + [points] * tested
        return cls(
            metrics=tuple(metrics),
            checkpoint_step=checkpoint_step,
            model_digest=recipe.model_digest(),
            seed=spec.seed,
            samples=spec.samples,
            points=points,
            sampling=asdict(recipe.sampling.in_force()),
            fid=found.identity if found else {},
            kid=asdict(spec.kid),
            isc=asdict(spec.isc),
            prc=asdict(spec.prc),
            elbo=asdict(spec.elbo),
            loss={**asdict(spec.loss), "objective": asdict(recipe.objective)},
            files=found.files if found else {},
            shards=min(shards, max(parts)),
            batch_size=spec.batch_size,
        )

    @classmethod
    def periodic_fid(cls, recipe: Recipe) -> "EvalRequest | None":
        """The FID that training computes now and then, with everything that it needs found; None where it does not.

        Raises:
            UsageError: weights or statistics are missing or do not fit.
        """
        if recipe.periodic.fid_every is None:
            return None
        spec = replace(recipe.eval, samples=recipe.periodic.fid_samples)
        return cls.of(replace(recipe, eval=spec), ("fid",), 0)

    @classmethod
    def periodic_bound(cls, recipe: Recipe) -> "EvalRequest | None":
        """The likelihood bound that training computes now and then; None where it does not before its last step.

        Raises:
            DataError: there is no test set.
            UsageError: it is smaller.
        """
        every, steps = recipe.periodic.elbo_every, recipe.train.steps
        if every is None or steps < every or not recipe.periodic.wants_elbo(steps - steps % every):
            return None
        spec = replace(recipe.eval, points=recipe.periodic.elbo_points)
        return cls.of(replace(recipe, eval=spec), ("elbo",), 0, points_key="periodic.elbo_points")

    @property
    def id(self) -> str:
        """Name of the evaluation: metrics, step, and a digest of everything that its numbers depend on."""
        return f"{'-'.join(self.metrics)}-{self.checkpoint_step:08d}-{self._digest('checkpoint_step')}"

    @property
    def settings(self) -> str:
        """A digest of everything that is asked of a checkpoint, whichever it is: the same at every step."""
        return self._digest()

    def rows_of(self, work: str) -> str:
        """A digest of everything that each single row of a kind of work depends on; how many there are is not in it."""
        metrics = [metric for metric in self.metrics if BY_NAME[metric].work == work]
        return self._digest("checkpoint_step", metrics=metrics, but=_SIZES)

    def _digest(self, *more: str, metrics: Sequence[str] | None = None, but: Sequence[str] = ()) -> str:
        metrics = self.metrics if metrics is None else metrics
        used = {name for metric in metrics for name in BY_NAME[metric].depends}.difference(but)
        content = {name: getattr(self, name) for name in (*more, "model_digest", "seed", *sorted(used))}
        versions = {metric: BY_NAME[metric].version for metric in metrics}
        text = json.dumps({"metrics": versions, **content}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def work(self) -> dict[str, int]:
        """The kinds of work to be done, and how many samples or test data each is over."""
        names = dict.fromkeys(BY_NAME[metric].work for metric in self.metrics)
        return {name: self.samples if name == "features" else self.points for name in names}

    def bounds(self, shard: int, work: str) -> tuple[int, int]:
        """First and last-plus-one index of the samples or data of a shard; equal where it has no share of them."""
        size = self.work[work]
        return shard * size // self.shards, (shard + 1) * size // self.shards

    def save(self, run: RunFolder) -> str:
        """Make the evaluation's folder unless it is there, and return its name.

        An evaluation that was begun keeps its number of shards, and learns where its files are and how many data
        are to be computed at once now.
        """
        folder = run.evals / self.id
        there = read_json(folder / "request.json")
        if there is None:
            (folder / "shards").mkdir(parents=True, exist_ok=True)
            write_json(folder / "request.json", {"id": self.id, **asdict(self)})
        elif (there.get("files"), there.get("batch_size")) != (self.files, self.batch_size):
            write_json(folder / "request.json", {**there, "files": self.files, "batch_size": self.batch_size})
        return self.id

    @classmethod
    def load(cls, folder: Path) -> "EvalRequest":
        """The request of an evaluation's folder.

        Raises:
            NotFoundError: there is none, or one of a version that is not known.
        """
        content = read_json(folder / "request.json")
        if content is None:
            raise NotFoundError(f"{folder}: there is no evaluation here. Start one with `cldctl eval`.")
        content.pop("id")
        try:
            return cls(**{**content, "metrics": tuple(content["metrics"])})
        except TypeError as error:
            raise NotFoundError(f"{folder}: made by another version of cldctl ({error}). Evaluate again.") from error


def _points(recipe: Recipe, key: str) -> int:
    """How many test data there are to be: those that are asked for, by ``key``, or all."""
    wanted = recipe.eval.points
    if not isinstance(recipe.data, ImageDataSpec):
        return wanted or recipe.eval.samples
    there = presence.count(recipe.data, "validation")
    if wanted is not None and wanted > there:
        all_of_them = ", or null for all of them" if key == "eval.points" else ""
        text = f"is {wanted}, but {recipe.data.path} has {there} test images"
        raise UsageError(f"'{key}' {text}. Set {key}={there}{all_of_them}.")
    return wanted or there


def draws_samples(metrics: Sequence[str]) -> bool:
    """Whether a metric looks at samples, rather than at test data alone."""
    return any("samples" in BY_NAME[name].depends for name in metrics)


def parse_metrics(text: str | None) -> tuple[str, ...]:
    """The metrics of a comma-separated list, in their fixed order.

    Raises:
        UsageError: an unknown one; names the nearest.
    """
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    for word in words:
        if word not in METRICS:
            there = ", ".join(METRICS)
            raise UsageError(f"--eval: '{word}' is no metric; there are: {there}.{did_you_mean(word, METRICS)}")
    if text is not None and not words:
        raise UsageError(f"--eval names no metric; there are: {', '.join(METRICS)}. Name some, or leave it out.")
    return tuple(metric for metric in METRICS if metric in words)
