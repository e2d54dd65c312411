"""Samples, likelihood bounds and FIDs of the averaged weights during training, computed by all ranks together."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

from cld_core.consensus import Consensus
from cld_core.errors import CldError
from cld_core.evaluation import elbo, features, grids, pictures
from cld_core.evaluation.request import EvalRequest
from cld_core.evaluation.shard_files import Arrays
from cld_core.model import Model
from cld_core.run import RunFolder
from cld_core.sampling import Samples
from cld_core.stop import StopCode, StopFlag

from .monitoring import Monitor
from .step import Trainer

T = TypeVar("T")
Heartbeat = Callable[[], None]


class Periodic:
    """Called after every step; works at those that the recipe's `periodic` section names.

    What it finds depends on the weights and on `eval.seed`, not on the number of ranks. A failure, such as a solver
    that does not get there, is told and training goes on. A request to stop ends the work between two batches.
    """

    def __init__(self, trainer: Trainer, folder: RunFolder, monitor: Monitor | None, stop: StopFlag) -> None:
        self._trainer, self._folder, self._monitor, self._stop = trainer, folder, monitor, stop
        self._spec = trainer.recipe.periodic
        # What it needs is looked for now, not at the step where it is due.
        self._fid_request = EvalRequest.periodic_fid(trainer.recipe)

    def __call__(self, step: int, heartbeat: Heartbeat) -> None:
        spec = self._spec
        works = [self._sample] * spec.wants_samples(step)
        works += [self._bound] * spec.wants_elbo(step) + [self._fid] * spec.wants_fid(step)
        if not works:
            return
        trainer = self._trainer
        model = Model(trainer.recipe, trainer.ranks.device, net=trainer.net, data=trainer.source, step=step)
        trainer.net.eval()
        try:
            with trainer.ema.in_place():
                for work in works:
                    work(model, heartbeat)
        finally:
            trainer.net.train()
        if self._monitor is not None:
            self._monitor.resume_clock(step)

    def _sample(self, model: Model, heartbeat: Heartbeat) -> None:
        seed = model.recipe.eval.seed

        def draw(first: int, last: int) -> Samples:
            drawn = model.draw(last - first, seed=seed, first=first)
            v = None if drawn.v is None else drawn.v.cpu()
            return Samples(drawn.x.cpu(), v, drawn.nfe_each.cpu())

        parts = self._shared("samples", self._spec.samples, draw, heartbeat)
        if parts is None or self._monitor is None:
            return
        drawn = Samples.cat(parts)
        how = f"{model.recipe.sampling.method}, {drawn.nfe:.0f} NFE"
        pictures.show(self._folder.samples / f"step_{model.step:08d}.png", drawn.x, model, how)
        self._monitor.add(model.step, {"nfe": drawn.nfe})
        if model.is_image:
            self._monitor.add_picture(model.step, grids.tile(grids.to_pixels(drawn.x)))

    def _bound(self, model: Model, heartbeat: Heartbeat) -> None:
        try:
            request = EvalRequest.periodic_bound(model.recipe)
        except CldError as error:  # The same on all ranks, which see the same data.
            if self._monitor is not None:
                print(f"no likelihood bound this time: {error}", flush=True)
            return
        assert request is not None, "a recipe that wants the bound has a request for it"

        def compute(first: int, last: int) -> dict[str, np.ndarray]:
            return elbo.compute(model, request, first, last)

        parts = self._shared("likelihood bound", self._spec.elbo_points, compute, heartbeat)
        if parts is None or self._monitor is None:
            return
        found = elbo.summary(
            model, request, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        )
        names = [name for name in ("bpd", "nll", "stderr") if found.get(name) is not None]
        self._monitor.add(model.step, {name: found[name] for name in names})
        told = " ".join(f"{name} {found[name]:.4f}" for name in names)
        print(f"step {model.step}: likelihood bound of {self._spec.elbo_points} test data: {told}", flush=True)

    def _fid(self, model: Model, heartbeat: Heartbeat) -> None:
        assert self._fid_request is not None, "a recipe that wants FID has a request for it"
        request = dataclasses.replace(self._fid_request, checkpoint_step=model.step)

        def compute(first: int, last: int) -> Arrays:
            return features.compute(model, request, first, last)

        def condense(parts: list[Arrays]) -> list[Arrays]:
            return [features.condense(request, features.join(parts))] if parts else []

        parts = self._shared("FID", request.samples, compute, heartbeat, condense)
        if parts is None or self._monitor is None:
            return
        try:
            found = features.summary(request, features.join(parts))["fid"]
        except CldError as error:
            print(f"no FID this time: {error}", flush=True)
            return
        self._monitor.add(model.step, {"fid": found["value"], "fid_nfe": found["nfe_mean"]})
        print(f"step {model.step}: FID {found['value']:.4f} of {found['samples']} samples", flush=True)

    def _shared(
        self,
        what: str,
        n: int,
        compute: Callable[[int, int], T],
        heartbeat: Heartbeat,
        condense: Callable[[list[T]], list[T]] = list,
    ) -> list[T] | None:
        """``compute`` over 0..n in batches, each rank a contiguous share; all parts in order on rank 0.

        None on the other ranks, and on all where somebody was asked to stop or failed. ``condense`` is what a rank does
        to its parts before it hands them over.
        """
        ranks, size = self._trainer.ranks, self._spec.batch_size
        bounds = [n * rank // ranks.world_size for rank in range(ranks.world_size + 1)]
        first, last = bounds[ranks.rank], bounds[ranks.rank + 1]
        rounds = -(-max(b - a for a, b in itertools.pairwise(bounds)) // size)
        consensus, found = Consensus(ranks), []
        problem: str | None = None
        for start in range(first, first + rounds * size, size):
            consensus.begin(self._stop.code)
            try:
                if start < last and problem is None:
                    found.append(compute(start, min(start + size, last)))
            except (CldError, torch.OutOfMemoryError) as error:
                problem = str(error)
            heartbeat()
            if consensus.result() is not StopCode.NONE:
                return None
        gathered: list[Any] | None = ranks.gather((condense(found), problem))
        if gathered is None:
            return None
        for _, trouble in gathered:
            if trouble is not None:
                print(f"no {what} this time: {trouble}", flush=True)
                return None
        return [part for parts, _ in gathered for part in parts]
