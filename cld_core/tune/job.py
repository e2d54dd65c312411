"""The job of a tuning: the flow's ends, then the rows of the fit, one after another, then the solution."""

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch

from cld_core import guidance, npz, numerics, samplers
from cld_core.codec import find_record, to_plain
from cld_core.config.sampling import OdeSpec
from cld_core.files import retried, write_arrays, write_json
from cld_core.model import Model
from cld_core.run import change_marks
from cld_core.score import ScoreFunction
from cld_core.seeds import SampleNoise
from cld_core.solutions import FILE, FLOW

from . import cost
from .derivatives import Fitted
from .fit import Ends, Problem, best, kept, settings_of
from .linear import Linear, extended
from .tuning import FAR, STAGES, STATE, Row, State, Tuning

T = TypeVar("T")
_NOISE = "tune"
# Seconds for which a disk may fail before the job ends, as by a crash, and is started again elsewhere or later.
PATIENCE_S = 120.0


class Job:
    """Saves after every step, and goes on from there after an interruption.

    Raises:
        NotFoundError: the checkpoint is gone.
        CheckpointError: it is damaged.
    """

    def __init__(
        self, work: Tuning, device: torch.device, should_stop: Callable[[], bool], model: Model | None = None
    ) -> None:
        self._work, self._request, self._should_stop = work, work.request, should_stop
        self._made_of = self._patiently(lambda: work.made_of(strict=True))
        # Permission for plug-ins was checked when the work was started.
        self._model = model or self._patiently(
            lambda: Model.from_run(
                work.run.path,
                work.request.checkpoint_step,
                str(device),
                allow_plugin=True,
                ema_length=work.request.ema_length,
            )
        )
        self._evaluated = 0

    def run(self) -> bool:
        """Do what is missing; False if it was asked to stop before.

        Raises:
            UsageError: the fit takes more memory than there is.
        """
        self._say_cost()
        self._flow = self._solved()
        self._state = self._begun()
        try:
            self._save()
            for stage in ("flow", *STAGES):
                while self._lacks(stage):
                    if self._should_stop():
                        return False
                    self.step(stage)
            self._finish()
        except OSError:
            if self._should_stop():
                return False
            raise
        return True

    @numerics.using(tf32=False)
    @torch.no_grad()
    def step(self, stage: str) -> None:
        """Compute the next block of the flow, or row of a stage."""
        if stage == "flow":
            self._flow = [*self._flow, self._block(len(self._flow))]
            x, nfe = (np.stack(column) for column in zip(*self._flow, strict=True))
            self._patiently(lambda: write_arrays(self._work.flow_file, {"x": x, "nfe": nfe}))
            self._state = replace(self._state, flow=len(self._flow))
            found = f"flow {len(self._flow)}/{self._request.sizes['flow']}"
        else:
            row = self._next_row(stage)
            rows = (*self._state.rows.get(stage, ()), row)
            self._state = replace(self._state, rows={**self._state.rows, stage: rows})
            settings = settings_of(stage, row)
            found = f"{stage} {len(rows)}/{STAGES[stage]}: {settings}, rms {row.fit:.4g}, held out {row.held:.4g}"
        self._save()
        print(found, flush=True)

    def _say_cost(self) -> None:
        sde, request = self._model.sde, self._request
        most = cost.most(request, sde, self._model.recipe.network.images)
        limit = "" if request.budget_min is None else f", within {request.budget_min:g} minutes"
        numbers = math.prod(self._model.data_shape)
        needed = cost.least_bytes(sde, request.nfe, request.points, numbers, eps=request.eps, denoise=request.denoise)
        cost.require(needed, request.points, self._model.device)
        print(f"at most {most:,} evaluations of the network for each of {request.points} points{limit}", flush=True)

    def _begun(self) -> State:
        """What is done, unless it was made of something else."""
        state = find_record(State, self._work.folder / STATE)
        if state is None or state.made_of != self._made_of:
            state = State(self._made_of)
        neighbour = state.neighbour or self._work.neighbour(self._made_of["checkpoint"])
        # Rows of later stages followed from what a spent budget had left.
        late = list(itertools.dropwhile(lambda stage: not state.lacks(stage, None), STAGES))[1:]
        rows = {stage: done for stage, done in state.rows.items() if stage not in late}
        return replace(state, neighbour=neighbour, flow=len(self._flow), rows=rows)

    def _solved(self) -> list[tuple[np.ndarray, float]]:
        """The blocks of the flow that this tuning or another one has solved, and their numbers of evaluations."""
        try:
            arrays = npz.load(self._work.flow_file)
            blocks = zip(arrays["x"], arrays["nfe"].tolist(), strict=True)
        except (OSError, KeyError, ValueError):
            return []
        return list(blocks)[: self._request.sizes["flow"]]

    def _lacks(self, stage: str) -> bool:
        """Whether a further block of the flow or row of a stage is to be computed."""
        if stage == "flow":
            return len(self._flow) < self._request.sizes["flow"]
        return self._state.lacks(stage, self._request.budget_min)

    def _save(self) -> None:
        content = to_plain(self._state)
        self._patiently(lambda: write_json(self._work.folder / STATE, content))

    def _patiently(self, work: Callable[[], T]) -> T:
        return retried(work, PATIENCE_S, stop=self._should_stop)

    def _next_row(self, stage: str) -> Row:
        started, before = time.monotonic(), self._evaluated
        rows = {name: self._state.rows.get(name, ()) for name in STAGES}
        row = self._problem.row(stage, rows)
        evaluations = (self._evaluated - before) / self._request.points
        return replace(row, evaluations=evaluations, seconds=time.monotonic() - started)

    @numerics.using(tf32=False)
    @torch.no_grad()
    def _finish(self) -> None:
        """Write the solution: among the best rows of all stages, the one that is closest on held-out noise."""
        request, state = self._request, self._state
        rows = {stage: state.rows.get(stage, ()) for stage in STAGES}
        tops, chosen = {stage: best(done) for stage, done in rows.items() if done}, kept(rows)
        every = [row for done in rows.values() for row in done]
        about = {
            "settings": {stage: settings_of(stage, row) for stage, row in tops.items()},
            "fewer": None if state.neighbour is None else state.neighbour.nfe,
            "points": request.points,
            "seed": request.seed,
            "evaluations": round(sum(row.evaluations for row in every)),
            "flow_evaluations": sum(nfe for _, nfe in self._flow) / len(self._flow),
            "budget_min": request.budget_min,
            "seconds": round(state.seconds, 3),
            "model": request.model_digest,
            "sde": dataclasses.asdict(self._model.recipe.sde),
            "created": time.time(),
        }
        solution = self._problem.sampler(chosen, rows, tops[chosen]).solution(
            **{name: getattr(request, name) for name in FLOW},
            step=request.checkpoint_step,
            checkpoint=self._made_of["checkpoint"],
            ema_length=request.ema_length,
            kept=chosen,
            cut_off=state.is_cut_off(),
            rms={stage: row.held for stage, row in tops.items() if row.held < FAR},
            about=about,
        )
        change_marks.mark(self._work.run.path)
        self._patiently(lambda: write_json(self._work.folder / FILE, solution.content()))

    @property
    def _spec(self) -> OdeSpec:
        """The solver settings of the flow."""
        flow = {name: getattr(self._request, name) for name in FLOW if name != "labels"}
        return OdeSpec(rtol=self._request.rtol, atol=self._request.rtol, **flow)

    @functools.cached_property
    def _labels(self) -> torch.Tensor | None:
        """The labels of the points, (points,); the held-out points have the same. None without labels."""
        labels = self._model.labels(None, self._request.points)
        return None if labels is None else labels.to(self._model.device)

    def _score_of(self, first: int, last: int) -> ScoreFunction:
        """The score of the points ``first <= i < last``, given their labels."""
        given = self._labels
        if given is not None:
            given = given[torch.arange(first, last, device=given.device) % len(given)]
        return guidance.bound(self._model.score, self._spec, given, none=len(self._model.classes or ()))

    def _block(self, block: int) -> tuple[np.ndarray, float]:
        """The ends of the flow from the draws of a block, (block, C, ...), and the mean number of evaluations."""
        request, model = self._request, self._model
        parts, end = [], (block + 1) * request.block
        for first in range(block * request.block, end, request.at_once):
            last = min(first + request.at_once, end)
            score = self._score_of(first, last)
            noise = SampleNoise(request.seed, _NOISE, first=first, last=last, device=model.device)
            drawn = samplers.sample(score, model.sde, self._spec, noise, model.data_shape, model.device)
            parts.append(guidance.counted(drawn, score))
        drawn = samplers.Samples.cat(parts)
        return drawn.x.cpu().numpy(), drawn.nfe

    @functools.cached_property
    def _problem(self) -> Problem:
        """What is fitted, once the flow is solved."""
        request, model, neighbour = self._request, self._model, self._state.neighbour
        x = torch.from_numpy(np.stack([x for x, _ in self._flow])).flatten(0, 1).to(model.device, torch.float64)
        channels, *rest = model.data_shape
        noise = SampleNoise(request.seed, _NOISE, first=0, last=2 * request.points, device=model.device)
        u = model.sde.prior(noise.normal((channels * model.sde.n, *rest))).double()
        fit, held = (Ends(u[part], x[part]) for part in (slice(0, request.points), slice(request.points, None)))
        score = self._score_of(0, request.points)
        fitted = Fitted(score, model.sde, request.at_once, self._count, points=request.points)
        start = None
        if neighbour is not None:
            start = extended(Linear.of_solution(neighbour), model.sde, request.nfe, request.eps, request.denoise)
        return Problem(fitted, fit, held, request.nfe, request.eps, request.denoise, start)

    def _count(self, examples: int) -> None:
        self._evaluated += examples
