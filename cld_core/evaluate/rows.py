"""Rows of an evaluation: how they are computed, and the tables that metrics make sections of.

The job of an evaluation computes the rows, and then makes the report, TensorBoard's scalars and the
picture.
"""

import functools
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from cld_core import metrics as registry
from cld_core import pictures
from cld_core.computation import Computation, Computer, joined
from cld_core.config.eval import PUBLISHED_SHA256
from cld_core.errors import RecipeError, UnusableSamplesError, UsageError
from cld_core.files import write_json
from cld_core.metrics import Number, Section
from cld_core.model import Model
from cld_core.plugins import is_shipped, resolve, trial
from cld_core.run import RunFolder
from cld_core.run.evaluations import EvalRequest, Evaluation, numbers, remarks
from cld_core.run.shards import Columns
from cld_core.run.tunings import moved_on
from cld_core.run.work import use_plugins
from cld_core.samplers import Samples

if TYPE_CHECKING:
    from . import stats_file


def not_finite(x: Tensor) -> Tensor:
    """Which of the samples x (B, ...) have numbers that are infinite or NaN: bool, (B,)."""
    return ~x.isfinite().flatten(1).all(1)


def remark_on(x: Tensor) -> str | None:
    """A sentence on how many of the samples x (B, ...) are not finite; None if all are."""
    return registry.remark_on_nonfinite(int(not_finite(x).sum()), len(x))


def require_few_lost(count: int, of: int, *, samples: int, allowed: float) -> None:
    """Check that no more than the ``allowed`` fraction of all samples is not finite.

    Args:
        count: the samples that are not finite, among the ``of`` that have been drawn so far.
        samples: the number of all samples.

    Raises:
        UnusableSamplesError: more samples are not finite.
    """
    fraction = count / samples
    if fraction <= allowed:
        return
    raise UnusableSamplesError(
        f"{registry.remark_on_nonfinite(count, of)}, a fraction of {fraction:.3g}"
        f"{f' of the {samples:,} requested' if of < samples else ''}, but "
        f"eval.max_nonfinite allows {allowed:g}. Likely causes: sampling settings that diverge, "
        "half precision, or a network that has hardly been trained. Change the sampling settings, "
        "or set eval.max_nonfinite higher, which draws no sample again."
    )


def standard_error(values: np.ndarray) -> float | None:
    """The standard error of the mean of values (n,), in their unit; None for less than two."""
    if len(values) < 2:
        return None
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def means_of(sections: Iterable[Section], keys: Iterable[str]) -> dict[str, Any]:
    """The means of the numbers that sections, such as those of classes, have under these keys."""
    columns = {key: [section[key] for section in sections] for key in keys}
    return {key: float(np.mean(column)) for key, column in columns.items()}


class RowComputer(Computer):
    """Computes rows of one kind for a request."""

    def __init__(self, model: Model, request: EvalRequest) -> None:
        self.model = model
        self.request = request


class SampleRows(RowComputer):
    """Rows of samples, with ``nfe`` (n,) and ``nonfinite`` (n,), bool.

    Samples that are not finite are counted while they are drawn.
    """

    def __init__(self, model: Model, request: EvalRequest) -> None:
        super().__init__(model, request)
        self._reviewed = 0
        self._nonfinite = 0

    @property
    def total(self) -> int:
        """The number of all rows."""
        return self.request.samples

    def draw(self, first: int, last: int) -> Samples:
        """The samples ``first <= i < last``, as the request says."""
        return self.model.draw(last - first, seed=self.request.seed, first=first)

    @staticmethod
    def about(samples: Samples) -> Columns:
        """``nfe`` and ``nonfinite``."""
        return {
            "nfe": samples.nfe_each.double().cpu().numpy(),
            "nonfinite": not_finite(samples.x).cpu().numpy(),
        }

    def review(self, rows: Columns) -> None:
        """Count samples that are not finite.

        Raises:
            UnusableSamplesError: this process alone has more than are allowed of all samples.
        """
        self._reviewed += len(rows["nonfinite"])
        self._nonfinite += int(rows["nonfinite"].sum())
        require_few_lost(
            self._nonfinite,
            self._reviewed,
            samples=self.total,
            allowed=self.request.max_nonfinite,
        )


@dataclass(frozen=True)
class Table:
    """All rows of a kind, in order, with the model and the request that they were computed for.

    Raises:
        UnusableSamplesError: more samples are not finite than the request allows.
    """

    model: Model
    request: EvalRequest
    arrays: Columns

    def __post_init__(self) -> None:
        if "nonfinite" in self.arrays:
            samples = len(self.arrays["nonfinite"])
            allowed = self.request.max_nonfinite
            require_few_lost(self._nonfinite, samples, samples=samples, allowed=allowed)

    @functools.cached_property
    def reference(self) -> "stats_file.Reference":
        """The statistics of the training set, with features if a metric of the request reads them.

        Raises:
            UsageError: the statistics are gone or have changed.
        """
        from . import stats_file

        features = any(metric.needs_features for metric in registry.metrics(self.request.metrics))
        return stats_file.read(stats_file.checked_stats_file(self.request), features=features)

    @property
    def _nonfinite(self) -> int:
        return int(self.arrays["nonfinite"].sum())

    def finite(self) -> np.ndarray:
        """The vectors (m, d) among the samples that are finite."""
        rows: np.ndarray = self.arrays["x"][~self.arrays["nonfinite"]]
        return rows

    def about_drawn(self) -> Section:
        """The entries of a section about samples."""
        nfe = self.arrays["nfe"]
        return {"samples": len(nfe), "nonfinite": self._nonfinite, "nfe_mean": float(nfe.mean())}

    def about_features(self) -> Section:
        """The entries of a section about samples and their features."""
        inputs = self.request.inputs
        weights = {
            "file": self.request.files.get("weights"),
            "sha256": inputs.weights,
            "published": inputs.weights == PUBLISHED_SHA256,
        }
        return {
            **self.about_drawn(),
            "extractor": inputs.extractor,
            "layer": inputs.layer,
            "quantisation": inputs.quantisation,
            "weights": weights,
        }

    def about_compared(self) -> Section:
        """The entries of a section about samples, their features, and the statistics to compare."""
        outline = self.reference.outline
        stats = {
            "file": self.request.files["stats"],
            "images": outline.images,
            "layout": outline.layout,
            "identity": self.request.inputs.stats,
        }
        return {**self.about_features(), "stats": stats}


class EvaluationComputation(Computation):
    """An evaluation, in a process that computes it."""

    work: Evaluation

    def computers_on(self, device: Any) -> dict[str, Computer]:
        request = self.work.request
        if request.fid is not None and request.fid.stats is not None:
            # Statistics are read last. Missing ones are reported before anything is computed.
            from . import stats_file

            stats_file.checked_stats_file(request)
        # The command that started the work has checked that plug-ins may run.
        self.model = Model.from_run(
            self.work.run.path,
            request.checkpoint_step,
            str(device),
            allow_plugin=True,
            ema_length=request.ema.length,
        )
        # The model uses the run's copies of plug-ins, samplers and metrics those of the request.
        use_plugins(self.work.folder)
        self.model.recipe = replace(self.model.recipe, sampling=request.sampling)
        return {
            kind: resolve(registry.ROWS[kind].implementation)(self.model, request)
            for kind in request.sizes
        }

    def finish(self) -> None:
        """Write the report, TensorBoard's scalars and the picture.

        Raises:
            UsageError: statistics are gone or have changed.
            UnusableSamplesError: too many samples are not finite.
        """
        work = self.work
        request = work.request
        model = self.model
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
            for metric in registry.metrics(request.metrics):
                if metric.rows == kind:
                    report[metric.name] = _section(metric, table)
        report["rows"] = self.made_of
        for remark in remarks(report):
            print(remark, flush=True)
        self._draw()
        to_tensorboard(work.run, request, report)
        # Last, so that everything else exists once the report does.
        write_json(work.folder / "report.json", report)

    def _about_solution(self) -> Section | None:
        """The tuned sampler of the samples, with a remark on its network; None if none was used."""
        request = self.work.request
        network = self.model.network
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
        """Draw samples.png, always for vectors, and for images only if a metric draws samples.

        Otherwise, drawing images would take longer than the bounds took.
        """
        request = self.work.request
        model = self.model
        are_vectors = len(model.data_shape) == 1
        if not are_vectors and not registry.draws_samples(request.metrics):
            return
        print("all shards are complete: drawing samples.png", flush=True)
        try:
            pictures.samples(
                model,
                self.work.folder / "samples.png",
                seed=request.seed,
                batch_size=None if are_vectors else request.batch_size,
            )
        except (RecipeError, UsageError) as error:
            # Bounds are valid even if the recipe's sampler cannot draw samples.
            print(f"no samples.png: {error}", flush=True)


def _section(metric: registry.Metric, table: Table) -> Section:
    """The section of a report that a metric makes of a table.

    Raises:
        RecipeError: the metric is a plug-in's, and its section lacks its numbers.
    """
    section: Section = resolve(metric.section)(table)
    fields = [quantity.field for quantity in metric.quantities]
    has_number = any(section.get(field) is not None for field in fields)
    if fields and not has_number and not is_shipped("metrics", metric.name):
        with trial("metrics", metric.name):
            raise ValueError(
                f"its section has {', '.join(section)}, but no number in {' or '.join(fields)}"
            )
    return section


def to_tensorboard(run: RunFolder, request: EvalRequest, report: Mapping[str, Any]) -> None:
    """Show results in TensorBoard, in a file for all evaluations of these settings.

    Each result is a curve over the steps.
    """
    from torch.utils.tensorboard import SummaryWriter

    step = request.checkpoint_step
    results = numbers(report)
    lines = ["| result | value | standard error | n | NFE |", "| -- | -- | -- | -- | -- |"]
    with SummaryWriter(str(run.tensorboard / f"eval-{request.settings}")) as writer:
        for metric, quantity in registry.quantities():
            number = results.get(quantity.key)
            if number is None:
                continue
            how = _how(request, metric, number)
            name = f"evaluation/{quantity.key}"
            writer.add_scalar(f"{name}{how}", number.value, step)
            stderr = ""
            nfe = ""
            if number.stderr is not None:
                writer.add_scalar(f"{name} standard error{how}", number.stderr, step)
                stderr = f"{number.stderr:.3g}"
            if number.nfe is not None:
                writer.add_scalar(f"{name} NFE{how}", number.nfe, step)
                nfe = f"{number.nfe:.3g}"
            lines.append(
                f"| {quantity.label} | {number.value:.6g} | {stderr} | {number.n or ''} | {nfe} |"
            )
        table = "\n".join(lines)
        writer.add_text("evaluation/results", f"{request.id}\n\n{table}", step)


def _how(request: EvalRequest, metric: registry.Metric, number: Number) -> str:
    """How the samples were drawn, and the number of examples, in brackets; empty if neither."""
    parts = [request.ema.words] if request.ema.words else []
    if registry.ROWS[metric.rows].over == "samples":
        sampling = request.sampling
        parts.append(sampling.method)
        # The evaluations of an adaptive solver differ from step to step: they are no setting.
        if (nfe := getattr(sampling, "nfe", None)) is not None:
            parts.append(f"{nfe} NFE")
    if number.n is not None:
        parts.append(f"n={number.n}")
    return f" ({', '.join(parts)})" if parts else ""
