"""An evaluation in its folder (`evals/ID` of a run), as a kind of sharded work. Loads no torch or numpy to look at it.

request.json, jobs.jsonl          see `cld_core.shards`
report.json, samples.png          the results; the report names the digests of the chunks of rows that it was made from

evals/rows/ROWS_ID/               rows of all evaluations of the run, by what they are (`Evaluation.rows`)
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cld_core.checkpoint.files import required_digest
from cld_core.digests import digest
from cld_core.errors import NotFoundError, RecipeError, UsageError
from cld_core.files import by_age, write_json
from cld_core.imports import resolve
from cld_core.run import RunFolder
from cld_core.run.work import readable
from cld_core.shards import Computer, Rows, ShardedWork, Task, joined

from . import registry, reports
from .request import EvalRequest

# Rows that no evaluation names are kept for so many seconds: somebody may ask for them again.
UNNAMED_S = 24 * 3600.0


class Evaluation(ShardedWork):
    """One evaluation of one checkpoint of ``run``."""

    command = "cldctl eval"
    request_type = EvalRequest
    called, doing = "evaluation", "evaluating"
    request: EvalRequest

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.folder.parent.parent)

    @property
    def report(self) -> dict[str, Any] | None:
        """The results; None until there are some of the run's present checkpoint."""
        return reports.current_report(self.folder)

    @property
    def is_done(self) -> bool:
        return self.report is not None

    def _weights(self, length: float | None) -> str:
        """What identifies its checkpoint, or the average of a length there, whether that was reconstructed yet."""
        fix = "What was computed is kept; use another step."
        return required_digest(self.run, self.request.checkpoint_step, fix, length)

    def rows(self, kind: str) -> Rows:
        request = self.request
        made_of = digest({"weights": self._weights(request.ema.length), **request.row_settings(kind)})[:16]
        name = f"{kind}-{request.checkpoint_step:08d}-{made_of}"
        return Rows(self.run.evals / "rows" / name, request.chunk(kind))

    def computers(self, device: Any) -> dict[str, Computer]:
        from cld_core.model import Model

        request = self.request
        if request.fid is not None and request.fid.stats is not None:
            request.reference()  # It is read last, and should be missed first.
        # Whoever started the work was asked whether plug-ins may run.
        model = Model.from_run(
            self.run.path, request.checkpoint_step, str(device), allow_plugin=True, ema_length=request.ema.length
        )
        model.recipe = dataclasses.replace(model.recipe, sampling=request.sampling)
        return {kind: resolve(registry.ROWS[kind].implementation)(model, request) for kind in request.sizes}

    def finish(self, task: Task) -> None:
        """Write the report, TensorBoard's scalars and the picture.

        Raises:
            UsageError: statistics are gone or have changed.
            UnusableSamplesError: too many samples are not finite.
        """
        from .rows import RowComputer, Table

        request = self.request
        first = next(iter(task.computers.values()))
        assert isinstance(first, RowComputer), "an evaluation has no others"
        model = first.model
        report: dict[str, Any] = {
            "id": self.name,
            "run": self.run.name,
            "checkpoint_step": request.checkpoint_step,
            "checkpoint": self._weights(None),
            "created": time.time(),
        }
        if model.ema_length is not None:
            report["ema"] = {"length": model.ema_length, "error": model.ema_error}
        if (tuned := self._about_solution(model)) is not None:
            report["tuned"] = tuned
        for kind in request.sizes:
            table = Table(model, request, joined(task.parts(kind)))
            readers = [metric for metric in registry.metrics(request.metrics) if metric.rows == kind]
            report |= {metric.name: resolve(metric.section)(table) for metric in readers}
        report["rows"] = task.made_of
        for remark in reports.remarks(report):
            print(remark, flush=True)
        self._draw(model)
        reports.to_tensorboard(self.run, request, report)
        # Last: a reader who sees the report sees everything.
        write_json(self.folder / "report.json", report)

    def _about_solution(self, model: Any) -> dict[str, Any] | None:
        """Which tuned sampler has drawn the samples, and what readers should know of it; None if none has."""
        from cld_core.solutions import moved_on

        spec, network = self.request.sampling, model.network
        if not spec.needs_solution or not registry.draws_samples(self.request.metrics):
            return None
        try:
            solution = model.solutions.chosen(spec, network)
        except UsageError:  # It was removed after the samples were drawn.
            return None
        return {"solution": solution.digest, "step": solution.step, "remark": moved_on(solution, network)}

    def _draw(self, model: Any) -> None:
        """Draw samples, unless it would take longer than the bounds of images did; points of toys cost nothing."""
        from cld_core import pictures

        if registry.draws_samples(self.request.metrics) or not model.is_image:
            print("all shards are complete: drawing samples.png", flush=True)
            at_once = self.request.batch_size if model.is_image else None
            try:
                pictures.samples(model, self.folder / "samples.png", seed=self.request.seed, batch_size=at_once)
            except (RecipeError, UsageError) as error:  # Bounds do not depend on how samples are drawn.
                print(f"no samples.png: {error}", flush=True)


def evaluations_of(run: RunFolder) -> list[Evaluation]:
    """The evaluations of a run, oldest first; those that are damaged or of another version of cldctl are skipped."""
    requests = by_age(run.evals / name / "request.json" for name in run.evaluation_names())
    return readable(Evaluation, (file.parent for file in requests))


def unnamed_rows(run: RunFolder) -> list[Path]:
    """The folders of rows that no evaluation of the run names, and that nobody has written to for a day."""
    named = {name for work in evaluations_of(run) for name in _named(work)}
    found = []
    for folder in sorted((run.evals / "rows").glob("*-*")):
        with contextlib.suppress(OSError):
            if folder.name not in named and time.time() - folder.lstat().st_mtime > UNNAMED_S:
                found.append(folder)
    return found


def _named(work: Evaluation) -> Iterator[str]:
    """The rows of a work's report, and those that it would read now."""
    yield from (about["id"] for about in reports.read(work.folder).get("rows", {}).values() if "id" in about)
    for kind in work.request.sizes:
        with contextlib.suppress(NotFoundError, OSError):
            yield work.rows(kind).folder.name
