"""Samples, likelihood bounds and FIDs of the averaged weights during training, computed by all ranks together."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from cld_core import numerics, pictures
from cld_core.errors import CldError
from cld_core.evaluate import registry
from cld_core.evaluate.features import FeatureRows
from cld_core.evaluate.likelihood import ElboRows
from cld_core.evaluate.request import EvalRequest
from cld_core.evaluate.rows import RowComputer, Table, remark_on
from cld_core.model import Model
from cld_core.ranges import share
from cld_core.ranks import Consensus
from cld_core.run import RunFolder
from cld_core.samplers import Samples, concatenated
from cld_core.shards import joined
from cld_core.stop import StopCode, StopFlag

from .monitoring import Monitor
from .step import Trainer

T = TypeVar("T")


class Periodic:
    """Called after every step; computes something at the steps that the recipe's `periodic` section names.

    The results depend on the weights and on `eval.seed`, not on the number of ranks. A failure, such as a solver that
    does not converge, is reported and training continues. A request to stop ends the work between two batches.

    Args:
        heartbeat: called after each batch.
    """

    def __init__(
        self, trainer: Trainer, folder: RunFolder, monitor: Monitor, stop: StopFlag, heartbeat: Callable[[], None]
    ) -> None:
        self._trainer, self._folder, self._monitor = trainer, folder, monitor
        self._stop, self._heartbeat = stop, heartbeat
        self._spec = trainer.recipe.periodic
        # What FID needs is looked for now, not at the step where it is due.
        self._fid_request = EvalRequest.periodic_fid(trainer.recipe)

    def __call__(self, step: int) -> None:
        spec = self._spec
        works = [("drawing samples", self._sample)] * spec.wants_samples(step)
        works += [("evaluating", self._bound)] * spec.wants_elbo(step)
        works += [("evaluating", self._fid)] * spec.wants_fid(step)
        if not works:
            return
        trainer = self._trainer
        model = Model(trainer.recipe, trainer.ranks.device, net=trainer.net, data=trainer.source, step=step)
        model.path = self._folder.path
        trainer.net.eval()
        try:
            # Batch sizes vary here, and each of them would be timed.
            with trainer.ema.in_place(), numerics.using(tf32=trainer.recipe.train.tf32):
                for phase, work in works:
                    self._monitor.enter(phase, step)
                    work(model)
        finally:
            trainer.net.train()
        self._monitor.resume_clock(step)
        self._monitor.enter("training", step)

    def _sample(self, model: Model) -> None:
        seed, labels = model.recipe.eval.seed, pictures.in_rows(model, self._spec.samples)

        def draw(first: int, last: int) -> Samples:
            rows = None if labels is None else labels[first:last]
            drawn = model.draw(last - first, seed=seed, first=first, label=rows)
            v = None if drawn.v is None else drawn.v.cpu()
            return Samples(drawn.x.cpu(), v, drawn.nfe_each.cpu())

        parts = self._shared("samples", self._spec.samples, draw)
        if parts is None:
            return
        drawn = concatenated(parts)
        if (remark := remark_on(drawn.x)) is not None:
            self._monitor.say(f"step {model.step}: {remark}")
        how = pictures.how(model, drawn)
        file, monitor = self._folder.samples / pictures.periodic_name(model.step), self._monitor

        def show() -> None:
            # Drawing opens files, too: fonts, on a disk that may be full.
            pixels = pictures.pixels(drawn.x, model, how)
            monitor.add_picture(model.step, pixels)
            pictures.write(file, pixels, pictures.title(drawn.x, model, how))

        monitor.save_picture(show)
        monitor.add(model.step, {"nfe": drawn.nfe})

    def _bound(self, model: Model) -> None:
        try:
            request = EvalRequest.periodic_bound(model.recipe)
        except (CldError, OSError) as error:  # The same on all ranks, which see the same data.
            self._monitor.say(f"no likelihood bound this time: {error}")
            return
        assert request is not None, "a recipe that wants the bound has a request for it"
        if (section := self._section("elbo", ElboRows(model, request), "likelihood bound")) is None:
            return
        names = [name for name in ("bpd", "nll", "stderr") if section.get(name) is not None]
        self._monitor.add(model.step, {name: section[name] for name in names})
        values = " ".join(f"{name} {section[name]:.4f}" for name in names)
        self._monitor.say(f"step {model.step}: likelihood bound of {request.points} test points: {values}")

    def _fid(self, model: Model) -> None:
        assert self._fid_request is not None, "a recipe that wants FID has a request for it"
        request = dataclasses.replace(self._fid_request, checkpoint_step=model.step)
        if (section := self._section("fid", FeatureRows(model, request), "FID")) is None:
            return
        self._monitor.add(model.step, {"fid": section["value"], "fid_nfe": section["nfe_mean"]})
        self._monitor.say(f"step {model.step}: FID {section['value']:.4f} of {section['samples']} samples")

    def _section(self, metric: str, rows: RowComputer, what: str) -> dict[str, Any] | None:
        """The section of a report that a metric makes of rows that all ranks compute; None if there is none.

        There is none on ranks other than the first, nor anywhere if a rank was asked to stop or failed.
        """
        (n,) = rows.request.sizes.values()
        if (parts := self._shared(what, n, rows.compute)) is None:
            return None
        try:
            section = registry.maker(registry.metric(metric))(Table(rows.model, rows.request, joined(parts)))
        except (CldError, OSError) as error:
            self._monitor.say(f"no {what} this time: {error}")
            return None
        if (remark := registry.metric(metric).remark(section)) is not None:
            self._monitor.say(f"step {rows.model.step}: {remark}")
        return section

    def _shared(self, what: str, n: int, compute: Callable[[int, int], T]) -> list[T] | None:
        """``compute`` over 0..n in batches, each rank a contiguous share; all parts in order on rank 0.

        None on the other ranks, and everywhere if a rank was asked to stop or failed.
        """
        ranks, size = self._trainer.ranks, self._spec.batch_size
        first, last = share(n, ranks.rank, ranks.world_size)
        largest = -(-n // ranks.world_size)
        rounds = -(-largest // size)
        consensus, own = Consensus(ranks), []
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
