"""Computing the rows of a tuning, one after another, and its solution from the best of them."""

import dataclasses
import functools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cld_core import guidance, numerics, samplers
from cld_core.config.sampling import OdeSpec
from cld_core.errors import MergeError
from cld_core.files import write_json
from cld_core.model import Model
from cld_core.run import changes
from cld_core.score import ScoreFunction
from cld_core.seeds import SampleNoise
from cld_core.shards import state
from cld_core.shards.compute import Computation
from cld_core.shards.files import Arrays, Sealed
from cld_core.shards.merging import Merged
from cld_core.solutions import FILE, Solution

from . import cost, differences, memory
from .differences import Fitted
from .fit import Ends, Problem, Row, best, kept, settings_of
from .given import Given
from .linear import Linear
from .stages import STAGES
from .work import Tuning, tunings_of

_NOISE = "tune"


class TuneComputation(Computation):
    """The rows of a stage follow from those before it, which are read from the shard after an interruption.

    Raises:
        NotFoundError: the checkpoint is gone.
        CheckpointError: it is damaged.
    """

    def __init__(self, work: Tuning, device: torch.device, model: Model | None = None) -> None:
        self._work, self._request = work, work.request
        # Permission for plug-ins was checked when the work was started.
        self._model = model or Model.from_run(
            work.run.path,
            self._request.checkpoint_step,
            str(device),
            allow_plugin=True,
            ema_length=self._request.ema_length,
        )
        self._evaluated = 0
        self._rows: dict[str, list[Row]] = {stage: [] for stage in STAGES}
        self._spent_s: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._problem: Problem | None = None

    def prepare(self) -> None:
        sde, request = self._model.sde, self._request
        most = cost.most(request, sde, self._model.recipe.network.images)
        limit = "" if request.budget_min is None else f", within {request.budget_min:g} minutes"
        numbers = math.prod(self._model.data_shape)
        needed = memory.least_bytes(sde, request.nfe, request.points, numbers, eps=request.eps, denoise=request.denoise)
        memory.require(needed, request.points, self._model.device)
        print(f"at most {most:,} evaluations of the network for each of {request.points} points{limit}", flush=True)

    @numerics.using(tf32=False)
    @torch.no_grad()
    def rows(self, kind: str, first: int, last: int) -> Arrays:
        started = time.monotonic()
        if kind == "flow":
            blocks = [self._flow(number) for number in range(first, last)]
            seconds = np.full(last - first, (time.monotonic() - started) / (last - first))
            return {"x": np.stack([x for x, _ in blocks]), "nfe": np.array([n for _, n in blocks]), "seconds": seconds}
        assert last == first + 1, "a row of a fit follows from the one before it"
        problem, before, done = self._ready(kind), self._evaluated, self._rows[kind]
        assert len(done) == first, f"row {first} of the {kind} follows from {first} rows, not {len(done)}"
        over = done and kind != "untuned" and self._is_spent
        row = done[-1] if over else self._usable(problem, kind, problem.row(kind, self._rows))
        evaluations = (self._evaluated - before) / self._request.points
        if not over:
            print(f"{kind} {settings_of(kind, row)}: rms {row.fit:.4g}, held out {row.held:.4g}", flush=True)
        return _arrays(row, self._width if kind == "coefficients" else 0, evaluations, time.monotonic() - started)

    def review(self, kind: str, rows: Arrays) -> None:
        if kind in STAGES:
            self._spent_s[kind] += float(rows["seconds"].sum())
            self._rows[kind] += _rows_of(rows)

    def elsewhere(self, kind: str, first: int, last: int) -> Iterable[Sealed]:
        """Rows of other tunings to the same checkpoint: ends of the flow, and rows of a fit with another budget."""
        made_of, request = self._work.made_of(strict=True), self._request
        for other in tunings_of(self._work.run):
            ours, theirs = (one.flow_id if kind == "flow" else one.fit_id for one in (request, other.request))
            if other.name == self._work.name or ours != theirs:
                continue
            content = state.read_state(other.shards, 0)
            if state.is_made_of(content, {**made_of, "request": other.request.id}):
                parts = content.get("work", {})
                yield from _sealed_flow(other, parts) if kind == "flow" else _sealed_rows(other, parts, kind)

    @torch.no_grad()
    def finish(self) -> None:
        """Write the solution: among the best rows of all stages, the one that is closest on held-out noise.

        Raises:
            MergeError: the shard is damaged.
        """
        merged = Merged(self._work)
        sealed = {kind: next(merged.parts(kind)) for kind in self._request.sizes}
        self._rows = {stage: _rows_of(sealed[stage]) for stage in STAGES}
        tops, chosen = {stage: best(self._rows[stage]) for stage in STAGES}, kept(self._rows)
        linear = self._ready(chosen).sampler(chosen, self._rows, tops[chosen])
        about = {
            "settings": {stage: settings_of(stage, row) for stage, row in tops.items()},
            "points": self._request.points,
            "seed": self._request.seed,
            "evaluations": round(sum(float(sealed[stage]["evaluations"].sum()) for stage in STAGES)),
            "flow_evaluations": float(sealed["flow"]["nfe"].mean()),
            "seconds": round(sum(float(sealed[stage]["seconds"].sum()) for stage in STAGES), 3),
            "model": self._request.model_digest,
            "sde": dataclasses.asdict(self._model.recipe.sde),
            "created": time.time(),
        }
        checkpoint = merged.made_of["checkpoint"]
        # JSON has no infinity, and a stage without a usable row has no distance.
        rms = {stage: row.held for stage, row in tops.items() if math.isfinite(row.held)}
        solution = solution_of(
            linear,
            eps=self._request.eps,
            denoise=self._request.denoise,
            labels=self._request.labels,
            **self._request.guidance_keys,
            step=self._request.checkpoint_step,
            checkpoint=checkpoint,
            ema_length=self._request.ema_length,
            kept=chosen,
            rms=rms,
            about=about,
        )
        changes.mark(self._work.run.path)
        write_json(self._work.folder / FILE, solution.content())

    @property
    def _is_spent(self) -> bool:
        limit = self._request.budget_min
        return limit is not None and sum(self._spent_s.values()) >= 60.0 * limit

    @property
    def _spec(self) -> OdeSpec:
        """The solver settings of the flow."""
        request = self._request
        return OdeSpec(
            rtol=request.rtol, atol=request.rtol, eps=request.eps, denoise=request.denoise, **request.guidance_keys
        )

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

    def _flow(self, block: int) -> tuple[np.ndarray, float]:
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
    def _width(self) -> int:
        """The most parameters of a row of coefficients: candidates have unlike numbers of them."""
        request, sde = self._request, self._model.sde
        return sum(differences.most_sizes(sde, request.nfe, request.eps, request.denoise))

    def _usable(self, problem: Problem, stage: str, row: Row) -> Row:
        """The row, with an infinite distance if its times do not decrease, as those of a solution have to."""
        times = problem.sampler(stage, self._rows, row).times
        return row if bool((times.diff() < 0).all()) else dataclasses.replace(row, held=math.inf)

    def _ready(self, stage: str) -> Problem:
        """The problem, with the ends of the flow and the rows of earlier stages in memory."""
        for earlier in STAGES:
            if earlier == stage:
                break
            if not self._rows[earlier]:
                self._rows[earlier] = _rows_of(part := self._sealed(earlier))
                self._spent_s[earlier] = float(part["seconds"].sum())
        if self._problem is None:
            self._problem = self._problem_of(self._sealed("flow")["x"])
        return self._problem

    def _problem_of(self, blocks: np.ndarray) -> Problem:
        request, model = self._request, self._model
        x = torch.from_numpy(blocks).flatten(0, 1).to(model.device, torch.float64)
        channels, *rest = model.data_shape
        noise = SampleNoise(request.seed, _NOISE, first=0, last=2 * request.points, device=model.device)
        u = model.sde.prior(noise.normal((channels * model.sde.n, *rest))).double()
        fit, held = (Ends(u[part], x[part]) for part in (slice(0, request.points), slice(request.points, None)))
        fitted = Fitted(model.score, model.sde, request.at_once, self._count)
        if self._labels is not None:
            score = self._score_of(0, request.points)
            fitted = Given(score, model.sde, request.at_once, self._count, points=request.points)
        return Problem(fitted, fit, held, request.nfe, request.eps, request.denoise)

    def _count(self, examples: int) -> None:
        self._evaluated += examples

    def _sealed(self, kind: str) -> Arrays:
        part = Sealed(self._work.shards, 0, kind, 0, self._request.sizes[kind]).load()
        if part is None:
            text = f"{self._work.folder}: the file of the {kind} is damaged"
            raise MergeError(f"{text}. Re-run the same `{self._work.command}` to compute it again.")
        return part


def _sealed_flow(work: Tuning, parts: Mapping[str, Any]) -> Iterator[Sealed]:
    part = parts.get("flow", {})
    if "bytes" in part:
        yield Sealed(work.shards, 0, "flow", part["first"], part["last"])


def _sealed_rows(work: Tuning, parts: Mapping[str, Any], stage: str) -> Iterator[Sealed]:
    """The rows of a stage up to where the budget of another tuning ended; none if it ended before."""
    for name, size in STAGES.items():
        if "bytes" not in parts.get(name, {}):
            return
        arrays = Sealed(work.shards, 0, name, 0, size).load()
        count = 0 if arrays is None else int((arrays["evaluations"] > 0).sum())
        if name == stage and count:
            yield Sealed(work.shards, 0, name, 0, count)
        if name == stage or count < size:
            return


def solution_of(linear: Linear, **others: Any) -> Solution:
    """A solution with the coefficients of a linear sampler."""
    return Solution(
        nfe=len(linear.times),
        times=tuple(linear.times.tolist()),
        transitions=_matrices(linear.transitions),
        weights=tuple(_matrices(step) for step in linear.weights),
        **others,
    )


def _matrices(tensor: torch.Tensor) -> tuple[tuple[tuple[float, ...], ...], ...]:
    return tuple(tuple(tuple(row) for row in matrix) for matrix in tensor.tolist())


def _arrays(row: Row, width: int, evaluations: float, seconds: float) -> Arrays:
    """A row of a stage as arrays of length 1, its parameters continued with NaN up to ``width`` of them."""
    numbers = {"damping": row.damping, "fit": row.fit, "held": row.held}
    numbers |= {"evaluations": evaluations, "seconds": seconds}
    arrays = {name: np.array([value], dtype=np.float64) for name, value in numbers.items()}
    parameters = np.full((1, max(width, len(row.parameters))), np.nan)
    parameters[0, : len(row.parameters)] = row.parameters.cpu().numpy()
    return {"which": np.array([row.which]), "parameters": parameters, **arrays}


def _rows_of(arrays: Arrays) -> list[Row]:
    columns: Sequence[list[float]] = [arrays[name].tolist() for name in ("which", "damping", "fit", "held")]
    parameters = torch.from_numpy(arrays["parameters"])
    return [
        # The last bits of what libraries compute may depend on where in memory numbers lie.
        Row(int(which), values[~values.isnan()].clone(), damping, fit, held)
        for values, which, damping, fit, held in zip(parameters, *columns, strict=True)
    ]
