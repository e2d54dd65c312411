"""The job of an evaluation: its rows, and then the report, TensorBoard's scalars and the picture."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from cld_core import metrics as registry
from cld_core import pictures
from cld_core.errors import RecipeError, UsageError
from cld_core.files import write_json
from cld_core.model import Model
from cld_core.registration import resolve
from cld_core.run import RunFolder
from cld_core.run.evaluations import EvalRequest, Evaluation, Number, numbers, remarks
from cld_core.solutions import moved_on
from cld_core.tasks import Computer, Task, joined

from . import stats_file
from .rows import RowComputer, Table


class EvaluationTask(Task):
    """An evaluation while a process computes it."""

    work: Evaluation

    def computers_on(self, device: Any) -> dict[str, Computer]:
        run, request = self.work.run, self.work.request
        if request.fid is not None and request.fid.stats is not None:
            stats_file.reference_of(request)  # It is read last, and should be missed first.
        # Whoever started the work was asked whether plug-ins may run.
        model = Model.from_run(
            run.path, request.checkpoint_step, str(device), allow_plugin=True, ema_length=request.ema.length
        )
        model.recipe = dataclasses.replace(model.recipe, sampling=request.sampling)
        return {kind: resolve(registry.ROWS[kind].implementation)(model, request) for kind in request.sizes}

    def finish(self) -> None:
        """Write the report, TensorBoard's scalars and the picture.

        Raises:
            UsageError: statistics are gone or have changed.
            UnusableSamplesError: too many samples are not finite.
        """
        work, request = self.work, self.work.request
        first = next(iter(self.computers.values()))
        assert isinstance(first, RowComputer), "an evaluation has no others"
        model = first.model
        report: dict[str, Any] = {
            "id": work.name,
            "run": work.run.name,
            "checkpoint_step": request.checkpoint_step,
            "checkpoint": work.weights(None),
            "created": time.time(),
        }
        if model.ema_length is not None:
            report["ema"] = {"length": model.ema_length, "error": model.ema_error}
        if (tuned := self._about_solution(model)) is not None:
            report["tuned"] = tuned
        for kind in request.sizes:
            table = Table(model, request, joined(self.parts(kind)))
            readers = [metric for metric in registry.metrics(request.metrics) if metric.rows == kind]
            report |= {metric.name: resolve(metric.section)(table) for metric in readers}
        report["rows"] = self.made_of
        for remark in remarks(report):
            print(remark, flush=True)
        self._draw(model)
        to_tensorboard(work.run, request, report)
        # Last: a reader who sees the report sees everything.
        write_json(work.folder / "report.json", report)

    def _about_solution(self, model: Any) -> dict[str, Any] | None:
        """Which tuned sampler has drawn the samples, and what readers should know of it; None if none has."""
        request, network = self.work.request, model.network
        spec = request.sampling
        if not spec.needs_solution or not registry.draws_samples(request.metrics):
            return None
        try:
            solution = model.solutions.chosen(spec, network)
        except UsageError:  # It was removed after the samples were drawn.
            return None
        return {"solution": solution.digest, "step": solution.step, "remark": moved_on(solution, network)}

    def _draw(self, model: Any) -> None:
        """Draw samples, unless it would take longer than the bounds of images did; points of toys cost nothing."""
        request = self.work.request
        if registry.draws_samples(request.metrics) or not model.is_image:
            print("all shards are complete: drawing samples.png", flush=True)
            at_once = request.batch_size if model.is_image else None
            try:
                pictures.samples(model, self.work.folder / "samples.png", seed=request.seed, batch_size=at_once)
            except (RecipeError, UsageError) as error:  # Bounds do not depend on how samples are drawn.
                print(f"no samples.png: {error}", flush=True)


def to_tensorboard(run: RunFolder, request: EvalRequest, report: Mapping[str, Any]) -> None:
    """Show results in TensorBoard, in a file of their own: for the same settings, one curve over the steps."""
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
            error, took = (f"{known[what]:.3g}" if what in known else "" for what in (" standard error", " NFE"))
            rows.append(f"| {quantity.label} | {number.value:.6g} | {error} | {number.n or ''} | {took} |")
        table = "\n".join(["| result | value | standard error | n | NFE |", "| -- | -- | -- | -- | -- |", *rows])
        writer.add_text("evaluation/results", f"{request.id}\n\n{table}", step)


def _how(request: EvalRequest, metric: registry.Metric, number: Number) -> str:
    """In brackets, what sets a result apart from others of its kind: how it was sampled, and over how many examples."""
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
