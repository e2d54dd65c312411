"""Computing the rows of an evaluation, and from complete shards its report, TensorBoard scalars and picture."""

import dataclasses
import time
from collections.abc import Iterable
from typing import Any

import torch

from cld_core import pictures
from cld_core.errors import NotFoundError, RecipeError, UsageError
from cld_core.files import write_json
from cld_core.model import Model
from cld_core.ranges import share
from cld_core.run import changes
from cld_core.shards import state
from cld_core.shards.compute import Computation
from cld_core.shards.files import Arrays, Sealed
from cld_core.shards.merging import Merged
from cld_core.solutions import moved_on

from . import board, registry
from .evaluation import Evaluation
from .joined import Joined
from .report_numbers import remarks
from .rows.base import RowComputer


class EvalComputation(Computation):
    """The model of an evaluation's checkpoint, which samples as the request says, and what computes its rows.

    Raises:
        NotFoundError: the checkpoint is gone.
        CheckpointError: it is damaged.
    """

    def __init__(self, work: Evaluation, device: torch.device, model: Model | None = None) -> None:
        self._work, self._request = work, work.request
        # Whoever started the work was asked.
        step, length = self._request.checkpoint_step, self._request.ema.length
        self._model = model or Model.from_run(work.run.path, step, str(device), allow_plugin=True, ema_length=length)
        self._model.recipe = dataclasses.replace(self._model.recipe, sampling=self._request.sampling)
        self._computers: dict[str, RowComputer] = {
            kind: registry.row_computer(kind)(self._model, self._request) for kind in self._request.sizes
        }

    def prepare(self) -> None:
        for computer in self._computers.values():
            computer.prepare()

    def rows(self, kind: str, first: int, last: int) -> Arrays:
        return self._computers[kind].compute(first, last)

    def condense(self, kind: str, rows: Arrays) -> Arrays:
        return self._computers[kind].condense(rows)

    def review(self, kind: str, rows: Arrays) -> None:
        self._computers[kind].review(rows)

    def keeps_rows(self, kind: str) -> bool:
        return self._computers[kind].keeps_rows

    def elsewhere(self, kind: str, first: int, last: int) -> Iterable[Sealed]:
        """Sealed shards of other evaluations of the run that have some of these rows, of the same checkpoint."""
        weights = {
            name: value for name, value in self._work.made_of(strict=True).items() if name in ("checkpoint", "averages")
        }
        version = registry.row_versions([kind])
        for folder in self._work.folder.parent.iterdir():
            try:
                other = None if folder == self._work.folder else Evaluation(folder)
            except NotFoundError:
                continue  # A sweep's folder, or made by another version.
            if other is None or kind not in other.request.sizes:
                continue
            if other.request.rows_id(kind) != self._request.rows_id(kind):
                continue
            for number in range(other.request.shards):
                begins, ends = share(other.request.sizes[kind], number, other.request.shards)
                if ends <= first or last <= begins:
                    continue
                content = state.read_state(other.shards, number)
                part = content.get("work", {}).get(kind, {})
                origin = {"request": other.request.id, **weights, **version}
                if state.is_made_of(content, origin) and "bytes" in part:
                    yield Sealed(other.shards, number, kind, part["first"], part["last"])

    def finish(self) -> None:
        """Write the report.

        Raises:
            MergeError: the shards do not fit together, or one is damaged.
            UsageError: statistics are gone or have changed.
            UnusableSamplesError: too many samples are not finite.
        """
        merged = Merged(self._work)
        report: dict[str, Any] = {
            "id": self._work.name,
            "run": self._work.run.name,
            "checkpoint_step": self._request.checkpoint_step,
            "checkpoint": merged.made_of["checkpoint"],
            "created": time.time(),
        }
        if self._model.ema_length is not None:
            report["ema"] = {"length": self._model.ema_length, "error": self._model.ema_error}
        if (tuned := self._about_solution()) is not None:
            report["tuned"] = tuned
        for kind, computer in self._computers.items():
            joined = Joined(self._model, self._request, computer.join(merged.parts(kind)))
            readers = [metric for metric in registry.metrics(self._request.metrics) if metric.rows == kind]
            report |= {metric.name: metric.section(joined) for metric in readers}
        for text in remarks(report):
            print(text, flush=True)
        self._draw()
        board.write(self._work.run, self._request, report)
        changes.mark(self._work.run.path)
        # Last: a reader who sees the report sees everything.
        write_json(self._work.folder / "report.json", report)

    def _about_solution(self) -> dict[str, Any] | None:
        """Which tuned sampler has drawn the samples, and what readers should know of it; None if none has."""
        spec, network = self._request.sampling, self._model.network
        if not spec.needs_solution or not registry.draws_samples(self._request.metrics):
            return None
        try:
            solution = self._model.solutions.chosen(spec, network)
        except UsageError:  # It was removed after the samples were drawn.
            return None
        return {"solution": solution.digest, "step": solution.step, "remark": moved_on(solution, network)}

    def _draw(self) -> None:
        """Draw samples, unless it would take longer than the bounds of images did; points of toys cost nothing."""
        if registry.draws_samples(self._request.metrics) or not self._model.is_image:
            print("all shards are complete: drawing samples.png", flush=True)
            at_once = self._request.batch_size if self._model.is_image else None
            path = self._work.folder / "samples.png"
            try:
                pictures.samples(self._model, path, seed=self._request.seed, batch_size=at_once)
            except RecipeError as error:  # Bounds do not depend on how samples are drawn.
                print(f"no samples.png: {error}", flush=True)
