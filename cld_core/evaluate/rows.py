"""Rows of an evaluation: what computes them, and all of a kind together, from which metrics make
their sections.

The job of an evaluation computes them, and then makes the report, TensorBoard's scalars and the
picture.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from cld_core import metrics as registry
from cld_core import pictures
from cld_core.config.eval import PUBLISHED_SHA256
from cld_core.errors import RecipeError, UnusableSamplesError, UsageError
from cld_core.files import write_json
from cld_core.guidance import Conditional
from cld_core.model import Model
from cld_core.registration import is_shipped, resolve, trial
from cld_core.run import RunFolder
from cld_core.run.evaluations import EvalRequest, Evaluation, Number, numbers, remarks
from cld_core.run.shards import Arrays
from cld_core.run.tunings import moved_on
from cld_core.run.work import use_plugins
from cld_core.samplers import Samples
from cld_core.score import Score
from cld_core.tasks import Computer, Task, joined

from . import stats_file


def not_finite(x: Tensor) -> Tensor:
    """Which of the samples x (B, ...) have infinite numbers, or what is not a number: bool,
    (B,)."""
    return ~x.isfinite().flatten(1).all(1)


def remark_on(x: Tensor) -> str | None:
    """In words, how many of the samples x (B, ...) are not finite; None if all are."""
    return registry.remark_on_nonfinite(int(not_finite(x).sum()), len(x))


def require_few_lost(count: int, of: int, *, samples: int, allowed: float) -> None:
    """Pass if ``count`` samples that are not finite, of ``of`` that were looked at, are no more
    than may be.

    Args:
        samples: how many there will be in all.
        allowed: the fraction of all that may be not finite.

    Raises:
        UnusableSamplesError: there are more.
    """
    fraction = count / samples
    if fraction <= allowed:
        return
    share = f"a fraction of {fraction:.3g}" + (
        f" of the {samples:,} asked for" if of < samples else ""
    )
    text = (
        f"{registry.remark_on_nonfinite(count, of)}, {share}, but eval.max_nonfinite allows "
        f"{allowed:g}"
    )
    causes = (
        "sampling settings that diverge, half precision, or a network that has hardly been trained"
    )
    fix = (
        "Change the sampling settings, or set eval.max_nonfinite higher, which draws no sample "
        "again"
    )
    raise UnusableSamplesError(f"{text}. Likely causes: {causes}. {fix}.")


def standard_error(values: np.ndarray) -> float | None:
    """The standard error of the mean of values (n,), in their unit; None for a single value."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None


def given_labels(
    score: Score, model: Model, seed: int, first: int, last: int
) -> Score | Conditional:
    """The score of a model given the labels of the test points ``first <= i < last``, if it has
    classes."""
    if model.classes is None:
        return score
    return Conditional(score, model.source.test_labels(seed, first, last).to(model.device))


class RowComputer(Computer):
    """Computes rows of one kind for a request."""

    def __init__(self, model: Model, request: EvalRequest) -> None:
        self.model, self.request = model, request


class SampleRows(RowComputer):
    """Rows with ``nfe`` of each sample, (n,), and ``nonfinite``, (n,), bool: whether it is not
    finite.

    Samples that are not finite are counted while they are drawn.
    """

    def __init__(self, model: Model, request: EvalRequest) -> None:
        super().__init__(model, request)
        self._reviewed = self._nonfinite = 0

    @property
    def total(self) -> int:
        """How many rows there are in all."""
        return self.request.samples

    def draw(self, first: int, last: int) -> Samples:
        """The samples ``first <= i < last``, as the request says."""
        return self.model.draw(last - first, seed=self.request.seed, first=first)

    @staticmethod
    def about(drawn: Samples) -> Arrays:
        """``nfe`` and ``nonfinite``."""
        return {
            "nfe": drawn.nfe_each.double().cpu().numpy(),
            "nonfinite": not_finite(drawn.x).cpu().numpy(),
        }

    def review(self, rows: Arrays) -> None:
        """Count samples that are not finite.

        Raises:
            UnusableSamplesError: those of this process alone are more than all samples may have.
        """
        self._reviewed += len(rows["nonfinite"])
        self._nonfinite += int(rows["nonfinite"].sum())
        allowed = self.request.max_nonfinite
        require_few_lost(self._nonfinite, self._reviewed, samples=self.total, allowed=allowed)


@dataclass(frozen=True)
class Table:
    """All rows of a kind, in order, with what they were computed with.

    Raises:
        UnusableSamplesError: more samples are not finite than the request allows.
    """

    model: Model
    request: EvalRequest
    arrays: Arrays

    def __post_init__(self) -> None:
        if "nonfinite" in self.arrays:
            samples, allowed = len(self.arrays["nonfinite"]), self.request.max_nonfinite
            require_few_lost(self._nonfinite, samples, samples=samples, allowed=allowed)

    @functools.cached_property
    def reference(self) -> stats_file.Reference:
        """The statistics of the training set, with features if a metric of the request reads them.

        Raises:
            UsageError: they are gone or have changed.
        """
        wanted = any(metric.needs_features for metric in registry.metrics(self.request.metrics))
        return stats_file.read(stats_file.reference_of(self.request), features=wanted)

    @property
    def _nonfinite(self) -> int:
        return int(self.arrays["nonfinite"].sum())

    def finite(self) -> np.ndarray:
        """The vectors (m, d) among the samples that are finite."""
        rows: np.ndarray = self.arrays["x"][~self.arrays["nonfinite"]]
        return rows

    def about_drawn(self) -> dict[str, Any]:
        """What a section says about samples."""
        nfe = self.arrays["nfe"]
        return {"samples": len(nfe), "nonfinite": self._nonfinite, "nfe_mean": float(nfe.mean())}

    def about_samples(self) -> dict[str, Any]:
        """What a section says about samples and their features."""
        source = self.request.inputs
        published = source.weights == PUBLISHED_SHA256
        return {
            **self.about_drawn(),
            "extractor": source.extractor,
            "layer": source.layer,
            "quantisation": source.quantisation,
            "weights": {
                "file": self.request.files.get("weights"),
                "sha256": source.weights,
                "published": published,
            },
        }

    def about_reference(self) -> dict[str, Any]:
        """What a section says about the statistics that samples are compared with."""
        file, outline = self.request.files["stats"], self.reference.outline
        described = {
            "images": outline.images,
            "layout": outline.layout,
            "identity": self.request.inputs.stats,
        }
        return {"stats": {"file": file, **described}}


class EvaluationTask(Task):
    """An evaluation while a process computes it."""

    work: Evaluation

    def computers_on(self, device: Any) -> dict[str, Computer]:
        run, request = self.work.run, self.work.request
        if request.fid is not None and request.fid.stats is not None:
            stats_file.reference_of(request)  # It is read last, and should be missed first.
        # Whoever started the work was asked whether plug-ins may run.
        step, length = request.checkpoint_step, request.ema.length
        model = self.model = Model.from_run(
            run.path, step, str(device), allow_plugin=True, ema_length=length
        )
        # Sampler and metrics may be of other versions than the copies of the run, which its model
        # was made with.
        use_plugins(self.work.folder)
        model.recipe = dataclasses.replace(model.recipe, sampling=request.sampling)
        return {
            kind: resolve(registry.ROWS[kind].implementation)(model, request)
            for kind in request.sizes
        }

    def finish(self) -> None:
        """Write the report, TensorBoard's scalars and the picture.

        Raises:
            UsageError: statistics are gone or have changed.
            UnusableSamplesError: too many samples are not finite.
        """
        work, request, model = self.work, self.work.request, self.model
        report: dict[str, Any] = {
            "id": work.name,
            "run": work.run.name,
            "checkpoint_step": request.checkpoint_step,
            "checkpoint": work.weights(None),
            "created": time.time(),
        }
        if model.ema_length is not None:
            report["ema"] = {"length": model.ema_length, "error": model.ema_error}
        if (tuned := self._about_solution()) is not None:
            report["tuned"] = tuned
        for kind in request.sizes:
            table = Table(model, request, joined(self.parts(kind)))
            readers = [
                metric for metric in registry.metrics(request.metrics) if metric.rows == kind
            ]
            for metric in readers:
                report[metric.name] = section = resolve(metric.section)(table)
                names = (
                    []
                    if is_shipped("metrics", metric.name)
                    else [it.field for it in metric.quantities]
                )
                if names and all(section.get(name) is None for name in names):
                    with trial("metrics", metric.name):
                        raise ValueError(
                            f"its section has {', '.join(section)}, but no number in "
                            f"{' or '.join(names)}"
                        )
        report["rows"] = self.made_of
        for remark in remarks(report):
            print(remark, flush=True)
        self._draw()
        to_tensorboard(work.run, request, report)
        # Last: a reader who sees the report sees everything.
        write_json(work.folder / "report.json", report)

    def _about_solution(self) -> dict[str, Any] | None:
        """Which tuned sampler has drawn the samples, and what readers should know of it; None if
        none has."""
        request, network = self.work.request, self.model.network
        spec = request.sampling
        if not spec.needs_solution or not registry.draws_samples(request.metrics):
            return None
        try:
            solution = self.model.solutions.chosen(spec, network)
        except UsageError:  # It was removed after the samples were drawn.
            return None
        return {
            "solution": solution.digest,
            "step": solution.step,
            "remark": moved_on(solution, network),
        }

    def _draw(self) -> None:
        """Draw samples, unless it would take longer than the bounds of images did; vectors cost
        nothing."""
        request, model = self.work.request, self.model
        are_vectors = len(model.data_shape) == 1
        if registry.draws_samples(request.metrics) or are_vectors:
            print("all shards are complete: drawing samples.png", flush=True)
            at_once = None if are_vectors else request.batch_size
            try:
                pictures.samples(
                    model, self.work.folder / "samples.png", seed=request.seed, batch_size=at_once
                )
            except (
                RecipeError,
                UsageError,
            ) as error:  # Bounds do not depend on how samples are drawn.
                print(f"no samples.png: {error}", flush=True)


def to_tensorboard(run: RunFolder, request: EvalRequest, report: Mapping[str, Any]) -> None:
    """Show results in TensorBoard, in a file of their own: for the same settings, one curve over
    the steps."""
    from torch.utils.tensorboard import SummaryWriter

    step, rows = request.checkpoint_step, []
    found = numbers(report)
    with SummaryWriter(str(run.tensorboard / f"eval-{request.settings}")) as writer:
        for metric, quantity in registry.quantities():
            if (number := found.get(quantity.key)) is None:
                continue
            how = _how(request, metric, number)
            values = {"": number.value, " standard error": number.stderr, " NFE": number.nfe}
            known = {what: value for what, value in values.items() if value is not None}
            for what, value in known.items():
                writer.add_scalar(f"evaluation/{quantity.key}{what}{how}", value, step)
            error, took = (
                f"{known[what]:.3g}" if what in known else ""
                for what in (" standard error", " NFE")
            )
            rows.append(
                f"| {quantity.label} | {number.value:.6g} | {error} | {number.n or ''} | {took} |"
            )
        table = "\n".join(
            ["| result | value | standard error | n | NFE |", "| -- | -- | -- | -- | -- |", *rows]
        )
        writer.add_text("evaluation/results", f"{request.id}\n\n{table}", step)


def _how(request: EvalRequest, metric: registry.Metric, number: Number) -> str:
    """In brackets, what sets a result apart from others of its kind: how it was sampled, and over
    how many examples."""
    parts = [request.ema.words] if request.ema.words else []
    if registry.ROWS[metric.rows].over == "samples":
        sampling = request.sampling
        parts.append(sampling.method)
        # An adaptive solver takes as many as it needs, and at each step others.
        if (nfe := getattr(sampling, "nfe", None)) is not None:
            parts.append(f"{nfe} NFE")
    if number.n is not None:
        parts.append(f"n={number.n}")
    return f" ({', '.join(parts)})" if parts else ""
