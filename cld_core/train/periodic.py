"""Computations at the steps of training that the recipe's `periodic` section names.

All ranks together compute samples, likelihood bounds and FIDs of the averaged weights. Loaded only
by trainings that reach such a step.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from cld_core import metrics as registry
from cld_core import pictures
from cld_core.computation import joined
from cld_core.errors import CldError
from cld_core.evaluate.request import PERIODIC, periodic_request
from cld_core.evaluate.rows import Table, remark_on
from cld_core.model import Model
from cld_core.nets import execution
from cld_core.plugins import resolve
from cld_core.ranks import Consensus
from cld_core.run import RunFolder
from cld_core.run.evaluations import EvalRequest
from cld_core.run.shards import Columns, share
from cld_core.samplers import Samples, concatenated
from cld_core.stop import StopCode, StopFlag

from .loggers import Monitor
from .step import Trainer

T = TypeVar("T")


class Periodic:
    """Computes what the recipe's `periodic` section names; called after every step.

    The results depend on the weights and on `eval.seed`, not on the number of ranks. A failure,
    such as a solver that does not converge, is reported and training continues. A request to stop
    ends the computation between two batches.

    Args:
        heartbeat: called after each batch.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: RunFolder,
        monitor: Monitor,
        stop: StopFlag,
        heartbeat: Callable[[], None],
    ) -> None:
        self._trainer = trainer
        self._folder = folder
        self._monitor = monitor
        self._stop = stop
        self._heartbeat = heartbeat
        self._spec = trainer.recipe.periodic
        # Missing inputs of FID are reported before the first step, not at the step where it is due.
        self._fid_request = periodic_request(trainer.recipe, "fid")

    def __call__(self, step: int) -> None:
        computations = {"samples": self._sample, "elbo": self._bound, "fid": self._fid}
        due = [what for what in PERIODIC if self._spec.wants(what, step)]
        if not due:
            return
        trainer = self._trainer
        model = Model(
            trainer.recipe, trainer.ranks.device, net=trainer.net, data=trainer.source, step=step
        )
        model.path = self._folder.path
        trainer.net.eval()
        try:
            # Without fixed shapes: batch sizes vary here, and kernels would be timed for each.
            with trainer.ema.in_place(), execution.using(tf32=trainer.recipe.train.tf32):
                for what in due:
                    phase = "drawing samples" if what == "samples" else "evaluating"
                    self._monitor.enter(phase, step)
                    computations[what](model)
        finally:
            trainer.net.train()
        self._monitor.resume_clock(step)
        self._monitor.enter("training", step)

    def _sample(self, model: Model) -> None:
        count = self._spec.samples
        monitor = self._monitor
        labels = pictures.in_rows(model, count)

        def draw(first: int, last: int) -> Samples:
            rows = None if labels is None else labels[first:last]
            samples = model.draw(last - first, seed=model.recipe.eval.seed, first=first, label=rows)
            return Samples(samples.x.cpu(), None, samples.nfe_each.cpu())

        parts = self._computed_on_all("samples", count, draw)
        if parts is None:
            return
        samples = concatenated(parts)
        if (remark := remark_on(samples.x)) is not None:
            monitor.say(f"step {model.step}: {remark}")
        how = pictures.how(model, samples)
        file = self._folder.samples / pictures.periodic_name(model.step)

        def show() -> None:
            # Drawing opens fonts, which fails on a broken disk as writing does.
            pixels = pictures.pixels(samples.x, model, labels)
            monitor.tell(lambda logger: logger.picture("periodic/samples", pixels, model.step))
            pictures.write(file, pixels, pictures.title(samples.x, model, how))

        monitor.pictures.attempt(show)
        monitor.plot("periodic", {"nfe": samples.nfe}, model.step)

    def _bound(self, model: Model) -> None:
        try:
            request = periodic_request(model.recipe, "elbo")
        except (CldError, OSError) as error:  # The same on all ranks, which see the same data.
            self._monitor.say(f"no likelihood bound this time: {error}")
            return
        section = self._section("elbo", model, request, "likelihood bound")
        if section is None:
            return
        numbers = {
            name: section[name]
            for name in ("bpd", "nll", "stderr")
            if section.get(name) is not None
        }
        words = " ".join(f"{name} {number:.4f}" for name, number in numbers.items())
        line = f"likelihood bound of {section['n']} test points: {words}"
        self._report(model.step, line, numbers)

    def _fid(self, model: Model) -> None:
        section = self._section("fid", model, self._fid_request, "FID")
        if section is not None:
            line = f"FID {section['value']:.4f} of {section['samples']} samples"
            numbers = {"fid": section["value"], "fid_nfe": section["nfe_mean"]}
            self._report(model.step, line, numbers)

    def _report(self, step: int, line: str, numbers: Mapping[str, float]) -> None:
        self._monitor.plot("periodic", numbers, step)
        self._monitor.say(f"step {step}: {line}")

    def _section(
        self, name: str, model: Model, request: EvalRequest | None, what: str
    ) -> registry.Section | None:
        """Compute a metric's rows on all ranks, and its section of a report on rank 0.

        Returns:
            The section on rank 0; None on the other ranks, and on all ranks if one stops or fails.
        """
        assert request is not None, f"a recipe that wants the {what} has a request for it"
        request = dataclasses.replace(request, checkpoint_step=model.step)
        metric = registry.metric(name)
        computer_of = resolve(registry.ROWS[metric.rows].implementation)

        def compute(first: int, last: int) -> Columns:
            # The computer is made here, because making it fails if what it needs is gone.
            rows: Columns = computer_of(model, request).compute(first, last)
            return rows

        parts = self._computed_on_all(what, request.sizes[metric.rows], compute)
        if parts is None:
            return None
        try:
            table = Table(model, request, joined(parts))
            section: registry.Section = resolve(metric.section)(table)
        except (CldError, OSError) as error:
            self._monitor.say(f"no {what} this time: {error}")
            return None
        if (remark := metric.remark(section)) is not None:
            self._monitor.say(f"step {model.step}: {remark}")
        return section

    def _computed_on_all(
        self, what: str, n: int, compute: Callable[[int, int], T]
    ) -> list[T] | None:
        """Compute parts of [0, n) on all ranks, a contiguous share on each, in batches.

        Args:
            what: the noun of messages: "no WHAT this time".
            compute: returns the part ``first <= i < last``.

        Returns:
            All parts, in order, on rank 0; None on the other ranks, and on all ranks if one stops
            or fails.
        """
        ranks = self._trainer.ranks
        size = self._spec.batch_size
        first, last = share(n, ranks.rank, ranks.world_size)
        # The same number on all ranks, so that they exchange their stop flags equally often.
        rounds = math.ceil(math.ceil(n / ranks.world_size) / size)
        consensus = Consensus(ranks)
        own: list[T] = []
        problem: str | None = None
        for start in range(first, first + rounds * size, size):
            consensus.begin(self._stop.code)
            try:
                if start < last and problem is None:
                    own.append(compute(start, min(start + size, last)))
            except (CldError, OSError, torch.OutOfMemoryError) as error:
                problem = str(error)
            self._heartbeat()
            if consensus.result() is not StopCode.NONE:
                return None
        gathered: list[Any] | None = ranks.gather((own, problem))
        if gathered is None:
            return None
        for _, failure in gathered:
            if failure is not None:
                self._monitor.say(f"no {what} this time: {failure}")
                return None
        return [part for parts, _ in gathered for part in parts]
