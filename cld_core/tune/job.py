"""The job of a tuning: the flow's ends, then the rows of the fit, one after another, then the solution."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from cld_core import guidance, npz, numerics, samplers
from cld_core.checkpoint.files import required_digest
from cld_core.codec import RecordError, read_record, to_plain
from cld_core.config.sampling import OdeSpec
from cld_core.digests import digest
from cld_core.files import passes, retried, write_arrays, write_json
from cld_core.model import Model
from cld_core.run import change_marks
from cld_core.score import ScoreFunction
from cld_core.seeds import SampleNoise
from cld_core.solutions import FILE, Solution

from .fit import Ends, Problem, best, kept, most_evaluations, settings_of
from .linear import Fitted, Linear, extended
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

    def __init__(self, work: Tuning, device: torch.device, should_stop: Callable[[], bool]) -> None:
        self._work, self._request, self._should_stop = work, work.request, should_stop
        run, step = work.run, work.request.checkpoint_step
        self._checkpoint = self._patiently(lambda: required_digest(run, step, "Tune to another step."))
        self._weights = self._patiently(work.weights) or self._checkpoint
        # Permission for plug-ins was checked when the work was started.
        length = work.request.ema_length
        self._model = self._patiently(
            lambda: Model.from_run(run.path, step, str(device), allow_plugin=True, ema_length=length)
        )
        self._flow = self._solved()
        self._state = self._begun()
        self._evaluated = 0

    def run(self) -> bool:
        """Do what is missing; False if it was asked to stop before."""
        request = self._request
        most = most_evaluations(request, self._model.sde, self._model.recipe.network.images)
        limit = "" if request.budget_min is None else f", within {request.budget_min:g} minutes"
        print(f"at most {most:,} evaluations of the network for each of {request.points} points{limit}", flush=True)
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
        """Compute the next batch of the flow, or row of a stage."""
        if stage == "flow":
            new = self._batch(len(self._flow["x"]))
            self._flow = {name: np.concatenate([before, new[name]]) for name, before in self._flow.items()}
            self._patiently(lambda: write_arrays(self.flow_file, self._flow))
            self._state = replace(self._state, flow=self._batches())
            found = f"flow {self._state.flow}/{self._request.sizes['flow']}"
        else:
            row = self._next_row(stage)
            rows = (*self._state.rows.get(stage, ()), row)
            self._state = replace(self._state, rows={**self._state.rows, stage: rows})
            settings = settings_of(stage, row)
            found = f"{stage} {len(rows)}/{STAGES[stage]}: {settings}, rms {row.fit:.4g}, held out {row.held:.4g}"
        self._save()
        print(found, flush=True)

    @property
    def flow_file(self) -> Path:
        """Where the ends of the flow are; another network has another one."""
        return self._work.run.tuned / f"flow-{digest([self._request.flow_id, self._weights])[:16]}.npz"

    def _solved(self) -> dict[str, np.ndarray]:
        """Ends of the flow, x (k, C, ...), that this tuning or another one has computed, and their evaluations (k,)."""
        try:
            arrays = self._patiently(lambda: npz.load(self.flow_file))
            return {name: arrays[name][: 2 * self._request.points] for name in ("x", "nfe")}
        except (OSError, KeyError, ValueError) as error:
            if passes(error):
                raise
            return {"x": np.empty((0, *self._model.data_shape), np.float32), "nfe": np.empty(0, np.int64)}

    def _batches(self) -> int:
        """How many batches of the flow are computed."""
        done, request = len(self._flow["x"]), self._request
        return request.sizes["flow"] if done == 2 * request.points else done // request.batch_size

    def _begun(self) -> State:
        """What is done, unless it is that of other weights."""
        state = self._patiently(self._stored)
        if state is None or state.weights != self._weights:
            state = State(self._weights)
        neighbour = state.neighbour
        if neighbour is None and (solution := self._work.neighbour(self._checkpoint)) is not None:
            neighbour = solution.coefficients
        # Rows of later stages followed from what a spent budget had left.
        late = list(itertools.dropwhile(lambda stage: not state.lacks(stage, None), STAGES))[1:]
        rows = {stage: done for stage, done in state.rows.items() if stage not in late}
        return replace(state, neighbour=neighbour, flow=self._batches(), rows=rows)

    def _stored(self) -> State | None:
        """What the folder says is done; None if it says nothing that can be read."""
        try:
            return read_record(State, self._work.folder / STATE)
        except (OSError, RecordError) as error:
            if passes(error):
                raise
            return None

    def _lacks(self, stage: str) -> bool:
        """Whether a further batch of the flow or row of a stage is to be computed."""
        if stage == "flow":
            return len(self._flow["x"]) < 2 * self._request.points
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
            "fewer": None if state.neighbour is None else len(state.neighbour.times),
            "points": request.points,
            "seed": request.seed,
            "evaluations": round(sum(row.evaluations for row in every)),
            "flow_evaluations": float(self._flow["nfe"].mean()),
            "budget_min": request.budget_min,
            "seconds": round(state.seconds, 3),
            "model": request.model_digest,
            "sde": dataclasses.asdict(self._model.recipe.sde),
            "created": time.time(),
        }
        solution = Solution(
            coefficients=tops[chosen].sampler,
            flow=request.flow,
            step=request.checkpoint_step,
            checkpoint=self._checkpoint,
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
        keys = {name: value for name, value in vars(self._request.flow).items() if name != "labels"}
        return OdeSpec(rtol=self._request.rtol, atol=self._request.rtol, **keys)

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

    def _batch(self, first: int) -> dict[str, np.ndarray]:
        """The ends of the flow from the draws from the number ``first`` on, as `_solved`."""
        request, model = self._request, self._model
        last = min(first + request.batch_size, 2 * request.points)
        score = self._score_of(first, last)
        noise = SampleNoise(request.seed, _NOISE, first=first, last=last, device=model.device)
        drawn = samplers.sample(score, model.sde, self._spec, noise, model.data_shape)
        found = guidance.counted(drawn, score)
        return {"x": found.x.cpu().numpy(), "nfe": found.nfe_each.cpu().numpy()}

    @functools.cached_property
    def _problem(self) -> Problem:
        """What is fitted, once the flow is solved."""
        request, model, neighbour = self._request, self._model, self._state.neighbour
        x = torch.from_numpy(self._flow["x"]).to(model.device, torch.float64)
        channels, *rest = model.data_shape
        noise = SampleNoise(request.seed, _NOISE, first=0, last=2 * request.points, device=model.device)
        u = model.sde.prior(noise.normal((channels * model.sde.n, *rest))).double()
        fit, held = (Ends(u[part], x[part]) for part in (slice(0, request.points), slice(request.points, None)))
        score = self._score_of(0, request.points)
        fitted = Fitted(score, model.sde, request.batch_size, self._count, points=request.points)
        flow, start = request.flow, None
        if neighbour is not None:
            start = extended(Linear.of(neighbour), model.sde, request.nfe, flow.eps, flow.denoise)
        return Problem(fitted, fit, held, request.nfe, flow.eps, flow.denoise, start)

    def _count(self, examples: int) -> None:
        self._evaluated += examples
