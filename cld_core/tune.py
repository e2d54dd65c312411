"""Tuning: fitting the times and coefficients of a sampler to one network.

See docs/math.md section 7.5. The job of a tuning solves the flow's ends, then computes the rows of
the fit, one after another, and then the solution. Each row follows from those before it, so a fit
can be continued after any row.

The derivatives of samples are computed in one of two ways, because the cheaper one depends on the
number of coordinates of an example (docs/math.md section 7.5 has measurements). `by_copies`: for
each parameter of a step, a copy of the samples is changed by a small amount and taken to the end;
the copies of a step are evaluated together. `by_backpropagation`: one backward pass for each
coordinate of x gives an example's derivatives with respect to a change of u after each step. The
derivatives with respect to the coefficients are products of these and the terms that the
coefficients multiply. So a point in the plane takes two passes, whatever the number of parameters,
and, except for the times, no finite differences of a float32 network.
"""

import functools
import itertools
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cld_core import npz, samplers
from cld_core.computation import joined, patiently
from cld_core.config.sampling import OdeSpec
from cld_core.digests import digest
from cld_core.files import write_arrays, write_json
from cld_core.model import Model, Progress
from cld_core.nets import execution
from cld_core.ranks import Ranks
from cld_core.records import RecordError, read_record, to_plain
from cld_core.run import tunings
from cld_core.run.checkpoints import required_digest
from cld_core.run.shards import Columns
from cld_core.run.tunings import (
    CANDIDATES,
    PLAIN,
    ROBUST,
    SPACINGS,
    STAGES,
    StageRow,
    TunedSampler,
    Tuning,
    TuningState,
)
from cld_core.run.work import Outcome, Start
from cld_core.samplers import rest, tuned
from cld_core.samplers.multistep import stepped
from cld_core.samplers.tuned import Linear, follow
from cld_core.score import Guided, ScoreFunction, for_rows, labelled
from cld_core.sde import Diffusion, Schedule
from cld_core.seeds import SampleNoise
from cld_core.stop import StopFlag

Rows = Mapping[str, Sequence[StageRow]]
# The number of newest alphas with weights in a fit from order 3 with the corrector; it is
# `tuned.MEMORY` in all other fits.
MOST_MEMORY = 5
# The most coordinates of an example for which backpropagation is the cheaper way.
_MOST_COORDINATES = 8
# The number of larger examples that are copied at once, which bounds the memory.
_COPIED_AT_ONCE = 16
# The change of a coefficient, or of the logarithm of a time, in a copy. Later steps amplify it. The
# error of a larger one is the curvature of the flow, of a smaller one the rounding of a float32
# network, 1e-7 of alpha.
_STEP = 1e-5
# The step of the central difference in the logarithm of a time, if the rest is backpropagated.
_TIME_STEP = 3e-4
# The step of the finite differences in the shares of a grid.
_SHARE_STEP = 1e-3
FIRST_DAMPING = 1e-2
_LEAST_DAMPING = 1e-8
# Factors of the damping after an iteration with and without success.
_EASE = 0.2
_STIFFEN = 8.0
# With more damping than this, iterations have no effect.
_STUCK = 1e8
# The most attempts of an iteration, each with more damping.
_TRIALS = 8
# The errors of an example, in multiples of the median, from which its weight decreases.
_USUAL = 10.0
_NOISE = "tune"


def free(linear: Linear, denoise: bool) -> range:
    """The steps whose times are parameters, all but the first, at t = 1, and denoising, at eps."""
    return range(1, len(linear.times) - denoise)


def blocks(linear: Linear) -> Iterator[Tensor]:
    """The fitted part of the matrix of each step, a view.

    It has the columns of the newest alphas and, in the last step, only the row of x.
    """
    for number, matrix in enumerate(linear.matrices, start=1):
        rows = 1 if number == len(linear.matrices) else linear.n
        yield matrix[:rows, : linear.n + linear.m * MOST_MEMORY]


def packed(linear: Linear, denoise: bool) -> Tensor:
    """The parameters (P,): logarithms of the free times, then the `blocks`."""
    times = linear.times[list(free(linear, denoise))].log()
    return torch.cat([times, *(block.flatten() for block in blocks(linear))])


def unpacked(parameters: Tensor, like: Linear, denoise: bool, eps: float) -> Linear:
    """The sampler with these parameters; times are kept between eps and 1."""
    sampler = Linear(like.times.clone(), tuple(matrix.clone() for matrix in like.matrices))
    at = list(free(like, denoise))
    targets = list(blocks(sampler))
    times, *parts = parameters.split([len(at), *(target.numel() for target in targets)])
    sampler.times[at] = times.exp().clamp(eps, 1.0)
    for target, part in zip(targets, parts, strict=True):
        target.copy_(part.view_as(target))
    return sampler


def shares_of(schedule: Schedule, times: Sequence[float]) -> Tensor:
    """The parameters (steps - 1,) of a grid: logarithms of its steps relative to the last one."""
    steps = (-tuned.places(schedule, times).diff()).log()
    return steps[:-1] - steps[-1]


def times_of(schedule: Schedule, shares: Tensor, eps: float) -> list[float]:
    """The grid of `shares_of` from 1 to ``eps``; its times decrease for any shares."""
    first, last = tuned.places(schedule, (1.0, eps)).tolist()
    steps = torch.softmax(torch.cat([shares, shares.new_zeros(1)]), 0)
    times = [1.0]
    for share in steps.cumsum(0)[:-1].tolist():
        times.append(schedule.time((first + (last - first) * share) ** tuned.POWER))
    return [*times, eps]


@dataclass(frozen=True)
class Fitted:
    """A score to which a sampler is fitted.

    Attributes:
        at_once: the largest number of examples in a batch.
        count: called with the number of evaluations of the network; with guidance, there are two at
            the times at which it acts.
        points: the number of points whose labels the score has: a row i of u, which may be a copy,
            has the label of point i modulo ``points``.
    """

    score: ScoreFunction
    sde: Diffusion
    at_once: int
    count: Callable[[int], object] = lambda examples: None
    points: int = 1

    def alpha(self, u: Tensor, t: float) -> Tensor:
        """`samplers.rest` of u (B, nC, ...)."""
        rows = torch.arange(len(u), device=u.device) % self.points
        alphas = []
        for part, which in zip(u.split(self.at_once), rows.split(self.at_once), strict=True):
            score = for_rows(self.score, which)
            each = score.networks(t) if isinstance(score, Guided) else 1
            self.count(each * len(part))
            alphas.append(rest(score, self.sde, part, t))
        return torch.cat(alphas)

    def samples(self, linear: Linear, u: Tensor) -> Tensor:
        """x (B, C, ...) at the end, from the prior's draw u."""
        return self.sde.halves(follow(linear, self.sde, self.alpha, u))[0]

    def slopes(self, linear: Linear, u: Tensor, denoise: bool) -> Iterator[Tensor]:
        """The derivatives (P, b, C, ...) of the samples by the parameters, in batches of rows."""
        way = by_copies
        size = _COPIED_AT_ONCE
        if u[0].numel() // self.sde.n <= _MOST_COORDINATES:
            way = by_backpropagation
            size = self.at_once
        for rows in torch.arange(len(u)).split(size):
            fitted = replace(self, score=for_rows(self.score, rows), points=len(rows))
            yield way(fitted, linear, u[rows], denoise)


def by_copies(fitted: Fitted, linear: Linear, u: Tensor, denoise: bool) -> Tensor:
    """The derivatives (P, B, C, ...) of the samples by the parameters of `packed`.

    They are finite differences.
    """
    sde = fitted.sde
    states = []
    alphas: list[Tensor] = []
    for t, matrix in linear.steps:
        alphas = [fitted.alpha(u, t), *alphas][: linear.memory]
        states.append((t, matrix, u, alphas))
        u = stepped(sde, matrix, u, alphas)
    x = sde.halves(u)[0]
    of_times = []
    of_blocks = []
    steps = zip(states, blocks(linear), strict=True)
    for number, ((t, matrix, u, alphas), block) in enumerate(steps):
        after = split(stepped(sde, matrix, u, alphas), sde.n)
        changed = after.repeat(*block.shape, *[1] * (u.ndim + 1))
        sources = _sources(sde, u, alphas)[:, : block.shape[1]].transpose(0, 1)
        for row, copies in enumerate(changed):
            copies[:, :, row] += _STEP * sources
        copies = changed.flatten(0, 2).flatten(1, 2)
        history = [alpha.repeat(block.numel(), *[1] * (alpha.ndim - 1)) for alpha in alphas]
        if number in free(linear, denoise):
            later = [fitted.alpha(u, t * (1.0 + _STEP)), *alphas[1:]]
            copies = torch.cat([copies, stepped(sde, matrix, u, later)])
            history = [torch.cat(pair) for pair in zip(history, later, strict=True)]
        ends = sde.halves(follow(linear, sde, fitted.alpha, copies, number + 1, history))[0]
        slopes = (ends.unflatten(0, (-1, len(u))) - x) / _STEP
        of_blocks.append(slopes[: block.numel()])
        of_times.append(slopes[block.numel() :])
    return torch.cat([*of_times, *of_blocks])


@torch.enable_grad()
def by_backpropagation(fitted: Fitted, linear: Linear, u: Tensor, denoise: bool) -> Tensor:
    """The derivatives that `by_copies` returns, by differentiating the score with respect to u."""
    sde = fitted.sde
    alphas: list[Tensor] = []
    sources: list[Tensor] = []
    added: list[Tensor] = []
    shifts: list[Tensor] = []  # of the logarithms of times
    for number, (t, matrix) in enumerate(linear.steps):
        alpha = fitted.alpha(u, t)
        if number in free(linear, denoise):
            shifts.append(u.new_zeros(len(u), *[1] * (u.ndim - 1), requires_grad=True))
            alpha = alpha + shifts[-1] * _by_log_time(fitted, u.detach(), t)
        alphas = [alpha, *alphas][: linear.memory]
        sources.append(_sources(sde, u, alphas).detach().flatten(2))
        added.append(torch.zeros_like(u, requires_grad=True))
        u = stepped(sde, matrix, u, alphas) + added[-1]
    x = sde.halves(u)[0]
    passes = [
        torch.autograd.grad(total, [*shifts, *added], retain_graph=True, materialize_grads=True)
        for total in x.flatten(1).sum(0)
    ]
    fitted.count(len(u) * len(sources) * len(passes))
    columns = [torch.stack(column, -1) for column in zip(*passes, strict=True)]  # (B, ..., D)
    slopes = [column.flatten(1)[None] for column in columns[: len(shifts)]]
    of_steps = columns[len(shifts) :]
    for by_added, source, block in zip(of_steps, sources, blocks(linear), strict=True):
        rows, count = block.shape
        by_row = split(by_added, sde.n)[:, :rows].flatten(2, -2)  # (B, rows, C..., D)
        slopes.append(torch.einsum("brcd,bjc->rjbd", by_row, source[:, :count]).flatten(0, 1))
    return torch.cat(slopes).unflatten(2, x.shape[1:])


def split(u: Tensor, halves: int) -> Tensor:
    """(B, halves, C, ...), a view."""
    return u.unflatten(1, (halves, u.shape[1] // halves))


def _sources(sde: Diffusion, u: Tensor, alphas: list[Tensor]) -> Tensor:
    """The factors of the columns of a step's matrix, (B, n + km, C, ...)."""
    return torch.cat([split(u, sde.n), *(split(alpha, sde.m) for alpha in alphas)], 1)


@torch.no_grad()
def _by_log_time(fitted: Fitted, u: Tensor, t: float) -> Tensor:
    after = fitted.alpha(u, t * (1.0 + _TIME_STEP))
    before = fitted.alpha(u, t * (1.0 - _TIME_STEP))
    return (after - before) / (2.0 * _TIME_STEP)


@dataclass(frozen=True)
class FlowEndpoints:
    """Draws u (B, nC, ...) of the prior, and ends x (B, C, ...) of the network's flow; float64."""

    u: Tensor
    x: Tensor


@dataclass(frozen=True)
class Problem:
    """A score, the draws for the fit and the held-out ones, and the kind of sampler.

    Attributes:
        nfe: evaluations, that of the denoising step included.
        eps: time at which the flow ends.
        denoise: whether its end is denoised.
    """

    fitted: Fitted
    fit: FlowEndpoints
    held: FlowEndpoints
    nfe: int
    eps: float
    denoise: bool

    def row(self, stage: str, rows: Rows) -> StageRow:
        """The next row of a stage, from the rows of this stage and of those before it."""
        compute = {"untuned": self._untuned, "grid": self._grid, "coefficients": self._coefficients}
        which, sampler, damping, errors = compute[stage](rows)
        # A sampler whose times do not decrease cannot be a solution.
        is_decreasing = bool((sampler.times.diff() < 0).all())
        held = _rms(self._errors(self.held, sampler)) if is_decreasing else tunings.FAR
        return StageRow(which, sampler.plain(), damping, _rms(errors), held)

    def _untuned(self, rows: Rows) -> tuple[int, Linear, float, Tensor]:
        """Index, sampler, first damping and errors of the next pair of candidate and spacing."""
        pair = len(rows["untuned"])
        times = tuned.spaced(
            self.fitted.sde, self.nfe, self.eps, self.denoise, SPACINGS[pair % len(SPACINGS)]
        )
        sampler = self._over(times, pair // len(SPACINGS))
        return pair, sampler, FIRST_DAMPING, self._errors(self.fit, sampler)

    def _grid(self, rows: Rows) -> tuple[int, Linear, float, Tensor]:
        """Candidate, sampler, next damping and errors of the next row of the stage "grid"."""
        which = _next_candidate(rows["grid"])
        schedule = self.fitted.sde.schedule
        done = [row for row in rows["grid"] if row.which == which]
        starts = [row for row in rows["untuned"] if row.which // len(SPACINGS) == which]
        before = done[-1] if done else min(starts, key=lambda row: row.fit)

        def sampler(shares: Tensor) -> Linear:
            return self._over(times_of(schedule, shares, self.eps), which)

        def slopes(shares: Tensor, errors: Tensor) -> Iterator[Tensor]:
            columns = []
            for unit in torch.eye(len(shares), dtype=torch.float64):
                changed = self._errors(self.fit, sampler(shares + _SHARE_STEP * unit))
                columns.append((changed - errors) / _SHARE_STEP)
            yield torch.stack(columns)

        times = before.sampler.times if self.denoise else (*before.sampler.times, self.eps)
        return which, *self._moved(
            shares_of(schedule, times), before.damping, sampler, slopes, robust=False
        )

    def _coefficients(self, rows: Rows) -> tuple[int, Linear, float, Tensor]:
        """Candidate, sampler, next damping and errors of the next row of "coefficients"."""
        which = _next_start(rows["grid"], rows["coefficients"])
        done = [row for row in rows["coefficients"] if row.which == which]
        start = done[-1] if done else best([row for row in rows["grid"] if row.which == which])
        # From these iterations on, the sum of squares has other weights.
        is_first = not done or len(done) in (PLAIN, PLAIN + ROBUST)
        damping = FIRST_DAMPING if is_first else start.damping
        robust = PLAIN <= len(done) < PLAIN + ROBUST
        origin = tuned.with_memory(Linear.of(start.sampler))

        def sampler(parameters: Tensor) -> Linear:
            return unpacked(parameters, origin, self.denoise, self.eps)

        def slopes(parameters: Tensor, errors: Tensor) -> Iterator[Tensor]:
            for part in self.fitted.slopes(sampler(parameters), self.fit.u, self.denoise):
                yield part.flatten(2)

        parameters = packed(origin, self.denoise)
        return which, *self._moved(parameters, damping, sampler, slopes, robust=robust)

    def _moved(
        self,
        parameters: Tensor,
        damping: float,
        sampler: Callable[[Tensor], Linear],
        slopes: Callable[[Tensor, Tensor], Iterable[Tensor]],
        *,
        robust: bool,
    ) -> tuple[Linear, float, Tensor]:
        """The sampler after an iteration of `advanced`, the next damping, and the errors."""

        def errors_of(parameters: Tensor) -> Tensor:
            return self._errors(self.fit, sampler(parameters))

        errors = errors_of(parameters)
        if len(parameters) and damping < _STUCK:  # A grid of a single step has no parameters.
            parameters, damping, errors = advanced(
                parameters, damping, errors, errors_of, slopes, robust=robust
            )
        return sampler(parameters), damping, errors

    def _over(self, times: Sequence[float], candidate: int) -> Linear:
        return tuned.of_exponential(self.fitted.sde, times, *CANDIDATES[candidate], self.denoise)

    def _errors(self, ends: FlowEndpoints, sampler: Linear) -> Tensor:
        """The differences (B, D) of a sampler's results from the ends of the flow."""
        return (self.fitted.samples(sampler, ends.u) - ends.x).flatten(1)


def best(rows: Sequence[StageRow]) -> StageRow:
    """The row that is closest to the flow on held-out noise; the first of equal ones."""
    return min(rows, key=lambda row: row.held)


def kept(rows: Rows) -> str:
    """The stage whose best row is closest to the flow on held-out noise; the simplest of equal
    ones."""
    stages = [stage for stage in STAGES if rows[stage]]
    return min(stages, key=lambda stage: best(rows[stage]).held)


def settings_of(stage: str, row: StageRow) -> str:
    """The settings that a row starts from, for messages."""
    which = row.which
    grid = ""
    if stage == "untuned":
        which, spacing = divmod(which, len(SPACINGS))
        grid = f" grid={SPACINGS[spacing]}"
    order, corrector = CANDIDATES[which]
    return f"order={order} corrector={str(corrector).lower()}{grid}"


def _next_candidate(grids: Sequence[StageRow]) -> int:
    """The candidate of the next row: each candidate in turn, then the best ones in turn."""
    first = tunings.EACH * len(CANDIDATES)
    if len(grids) < first:
        return len(grids) % len(CANDIDATES)
    leading = sorted(grids[first - len(CANDIDATES) : first], key=lambda row: row.fit)
    return leading[(len(grids) - first) % tunings.KEPT].which


def _next_start(grids: Sequence[StageRow], done: Sequence[StageRow]) -> int:
    """The candidate of the next row: those with the best grids in turn, then the closest one."""
    bests: dict[int, float] = {}
    for row in grids:
        bests[row.which] = min(row.fit, bests.get(row.which, math.inf))
    starts = sorted(bests, key=lambda which: bests[which])[: tunings.STARTS]
    first = len(starts) * PLAIN
    if len(done) < first:
        return starts[len(done) % len(starts)]
    return min(done[:first], key=lambda row: row.fit).which


def _rms(errors: Tensor) -> float:
    rms = math.sqrt(float(errors.square().mean()))
    return min(rms, tunings.FAR) if math.isfinite(rms) else tunings.FAR


def advanced(
    parameters: Tensor,
    damping: float,
    errors: Tensor,
    residual: Callable[[Tensor], Tensor],
    linearised: Callable[[Tensor, Tensor], Iterable[Tensor]],
    *,
    robust: bool,
) -> tuple[Tensor, float, Tensor]:
    """An iteration of the method of Levenberg and Marquardt.

    Args:
        parameters: (P,).
        damping: the damping of this iteration.
        errors: (B, D), the errors of these parameters.
        residual: returns the errors for parameters.
        linearised: returns, for parameters and their errors, the derivatives of the errors
            (P, b, D), in batches of rows.
        robust: give less weight to outliers, such as examples that end in another mode.

    Returns:
        Parameters with a smaller sum of squares, or the same ones; the damping of the next
        iteration; and the errors.
    """
    weights = weights_of(errors) if robust else errors.new_ones(len(errors))
    gradient = errors.new_zeros(len(parameters))
    curvature = torch.diag(gradient)
    first = 0
    for slopes in linearised(parameters, errors):
        rows = slice(first, first + slopes.shape[1])
        first = rows.stop
        root = weights[rows].sqrt()[:, None]
        flat = (slopes * root).flatten(1)
        gradient = gradient + flat @ (errors[rows] * root).flatten()
        curvature = curvature + flat @ flat.T
    if not (torch.isfinite(gradient).all() and torch.isfinite(curvature).all()):
        return parameters, damping * _STIFFEN, errors
    diagonal = curvature.diagonal()
    scale = diagonal + 1e-10 * diagonal.max()
    cost = _cost(errors, weights)
    for _ in range(_TRIALS):
        # A singular system gives numbers that are not finite.
        change, _ = torch.linalg.solve_ex(curvature + damping * torch.diag(scale), gradient)
        moved = parameters - change.to(parameters)
        if torch.isfinite(moved).all() and _cost(found := residual(moved), weights) < cost:
            return moved, max(damping * _EASE, _LEAST_DAMPING), found
        damping *= _STIFFEN
    return parameters, damping, errors


def weights_of(errors: Tensor) -> Tensor:
    """The weights (B,) of examples with errors (B, D): near 1, but small for outliers."""
    square = errors.square().mean(1)
    scale = (_USUAL**2 * square.median()).clamp(min=torch.finfo(square.dtype).tiny)
    return 1.0 / (1.0 + square / scale)


def _cost(errors: Tensor, weights: Tensor) -> float:
    """The weighted mean square; NaN if an error is NaN, so that it compares as no improvement."""
    return float((weights * errors.square().mean(1)).mean())


def compute(
    work: Tuning, ranks: Ranks, stop: StopFlag, only: Collection[int] | None, start: Start
) -> Outcome:
    """Compute the missing rows of a tuning, which is one piece; implements `Work.compute`."""
    Job(work, ranks.device, stop).run()
    return Outcome("finished")


class Fitting:
    """A fit to a model: batches of the flow, then the rows of each stage, then the solution.

    Args:
        checkpoint: `TunedSampler.checkpoint` of the result.
    """

    def __init__(self, model: Model, request: tunings.TuneRequest, checkpoint: str) -> None:
        self._model = model
        self._request = request
        self._checkpoint = checkpoint
        ends = np.empty((0, *model.data_shape), np.float32)
        self._flow: Columns = {"x": ends, "nfe": np.empty(0, np.int64)}
        self._state = TuningState("")
        self._evaluated: list[int] = []

    def steps(self) -> Iterator[str]:
        """Take all missing steps, one after another; yields the line of each."""
        for stage in ("flow", *STAGES):
            while self._lacks(stage):
                yield self.step(stage)

    def _lacks(self, stage: str) -> bool:
        """Whether another batch of the flow, or another row of a stage, has to be computed."""
        if stage == "flow":
            return self._state.flow < self._request.sizes[stage]
        return self._state.lacks(stage, self._request.budget_min)

    @execution.using(tf32=False)
    @torch.no_grad()
    def step(self, stage: str) -> str:
        """Compute the next batch of the flow, or row of a stage; returns a line about it."""
        if stage == "flow":
            self._flow = joined([self._flow, self._batch(len(self._flow["x"]))])
            self._state = replace(self._state, flow=self._batches())
            return f"flow {self._state.flow}/{self._request.sizes['flow']}"
        row = self._next_row(stage)
        rows = (*self._state.rows[stage], row)
        self._state = replace(self._state, rows={**self._state.rows, stage: rows})
        settings = settings_of(stage, row)
        return (
            f"{stage} {len(rows)}/{STAGES[stage]}: {settings}, rms {row.fit:.4g}, held out "
            f"{row.held:.4g}"
        )

    def _batches(self) -> int:
        """The number of complete batches of the flow."""
        done = len(self._flow["x"])
        if done == 2 * self._request.points:
            return self._request.sizes["flow"]
        return done // self._request.batch_size

    def _next_row(self, stage: str) -> StageRow:
        started = time.monotonic()
        self._evaluated.clear()
        row = self._problem.row(stage, self._state.rows)
        evaluations = sum(self._evaluated) / self._request.points
        return replace(row, evaluations=evaluations, seconds=time.monotonic() - started)

    @property
    def solution(self) -> TunedSampler:
        """The sampler of the best row of all stages, by the distance on held-out noise."""
        request = self._request
        state = self._state
        tops = {stage: best(done) for stage, done in state.rows.items() if done}
        chosen = kept(state.rows)
        every = [row for done in state.rows.values() for row in done]
        about = {
            "settings": {stage: settings_of(stage, row) for stage, row in tops.items()},
            "points": request.points,
            "seed": request.seed,
            "evaluations": round(sum(row.evaluations for row in every)),
            "flow_evaluations": float(self._flow["nfe"].mean()),
            "budget_min": request.budget_min,
            "seconds": round(state.seconds, 3),
            "model": request.model_digest,
            "sde": asdict(self._model.recipe.sde),
            "created": time.time(),
        }
        return TunedSampler(
            coefficients=tops[chosen].sampler,
            flow=request.flow,
            step=request.checkpoint_step,
            checkpoint=self._checkpoint,
            ema_length=request.ema_length,
            kept=chosen,
            cut_off=any(state.lacks(stage, None) for stage in STAGES),
            rms={stage: row.held for stage, row in tops.items() if row.held < tunings.FAR},
            about=about,
        )

    @property
    def _spec(self) -> OdeSpec:
        """The solver settings of the flow."""
        keys = {name: value for name, value in vars(self._request.flow).items() if name != "labels"}
        return OdeSpec(rtol=self._request.rtol, atol=self._request.rtol, **keys)

    @functools.cached_property
    def _labels(self) -> Tensor | None:
        """The labels (points,), the same for points and held-out points; None without labels."""
        labels = self._model.labels(None, self._request.points)
        return None if labels is None else labels.to(self._model.device)

    def _score_of(self, first: int, last: int) -> ScoreFunction:
        """The score of the points ``first <= i < last``, with their labels."""
        labels = self._labels
        if labels is not None:
            labels = labels[torch.arange(first, last, device=labels.device) % len(labels)]
        return labelled(self._model.score, self._spec, labels, none=len(self._model.classes or ()))

    def _batch(self, first: int) -> Columns:
        """Draw the points from index ``first`` on, one batch, and solve the flow from them.

        Returns:
            x (B, C, ...), the ends of the flow, and nfe (B,), network evaluations per point.
        """
        request = self._request
        model = self._model
        # The second half of the points is held out.
        last = min(first + request.batch_size, 2 * request.points)
        score = self._score_of(first, last)
        noise = SampleNoise(request.seed, _NOISE, first=first, last=last, device=model.device)
        samples = samplers.sample(score, model.sde, self._spec, noise, model.data_shape)
        nfe = samplers.counted(samples, score).nfe_each
        return {"x": samples.x.cpu().numpy(), "nfe": nfe.cpu().numpy()}

    @functools.cached_property
    def _problem(self) -> Problem:
        """The problem of the fit, once the flow is solved."""
        request = self._request
        model = self._model
        x = torch.from_numpy(self._flow["x"]).to(model.device, torch.float64)
        channels, *rest = model.data_shape
        noise = SampleNoise(
            request.seed, _NOISE, first=0, last=2 * request.points, device=model.device
        )
        u = model.sde.prior(noise.normal((channels * model.sde.n, *rest))).double()
        points = request.points
        fit = FlowEndpoints(u[:points], x[:points])
        held = FlowEndpoints(u[points:], x[points:])
        score = self._score_of(0, points)
        count = self._evaluated.append
        fitted = Fitted(score, model.sde, request.batch_size, count, points=points)
        flow = request.flow
        return Problem(fitted, fit, held, request.nfe, flow.eps, flow.denoise)


def fitted(
    model: Model,
    nfe: int,
    points: int | None,
    budget_min: float | None,
    seed: int,
    progress: Progress,
) -> TunedSampler:
    """The solution for a model in memory; see `Model.fit_sampler`."""
    request = tunings.TuneRequest.of(
        model.recipe, model.step, nfe, points=points, budget_min=budget_min, seed=seed
    )
    request = replace(request, ema_length=model.ema_length)
    fitting = Fitting(model, request, model.checkpoint)
    total = sum(request.sizes.values())
    for done, _ in enumerate(fitting.steps(), start=1):
        if progress is not None:
            progress(done, total)
    return fitting.solution


class Job(Fitting):
    """A fit in the folder of a tuning: it is saved after every step, and continued from there.

    Raises:
        NotFoundError: the checkpoint is gone.
        CheckpointError: the checkpoint is damaged.
    """

    def __init__(self, work: Tuning, device: torch.device, stop: StopFlag) -> None:
        self._work = work
        self._stop = stop
        self._patiently = functools.partial(patiently, stop=stop)
        run = work.run
        step = work.request.checkpoint_step
        length = work.request.ema_length
        fix = "Tune to another step."
        checkpoint = self._patiently(lambda: required_digest(run, step, fix))
        self._weights = self._patiently(lambda: required_digest(run, step, fix, length))
        # Permission for plug-ins was checked when the work was started.
        model = self._patiently(
            lambda: Model.from_run(
                run.path, step, str(device), allow_plugin=True, ema_length=length
            )
        )
        super().__init__(model, work.request, checkpoint=checkpoint)
        self._flow = self._solved()
        self._state = self._begun()

    def run(self) -> None:
        """Compute the missing steps, and then the solution.

        Raises:
            Stopped: this process has to stop.
        """
        print(self._request.cost, flush=True)
        self._save()
        for line in self.steps():
            print(line, flush=True)
        content = self.solution.content()
        self._patiently(lambda: write_json(self._work.folder / tunings.SOLUTION, content))

    def step(self, stage: str) -> str:
        self._stop.check()
        line = super().step(stage)
        if stage == "flow":
            self._patiently(lambda: write_arrays(self.flow_file, self._flow))
        self._save()
        return line

    @property
    def flow_file(self) -> Path:
        """The file of the ends of this network's flow."""
        name = digest([self._request.flow_id, self._weights])[:16]
        return self._work.run.tuned / f"flow-{name}.npz"

    def _solved(self) -> Columns:
        """The stored ends of the flow, x (k, C, ...), and their network evaluations, nfe (k,)."""
        try:
            arrays, _ = self._patiently(lambda: npz.load(self.flow_file))
            return {name: arrays[name][: 2 * self._request.points] for name in ("x", "nfe")}
        except (FileNotFoundError, KeyError, ValueError):
            return self._flow

    def _begun(self) -> TuningState:
        """The stored state; an empty one if there is none, or if the weights have changed."""
        state = TuningState(self._weights)
        with suppress(FileNotFoundError, RecordError):
            stored = self._patiently(
                lambda: read_record(TuningState, self._work.folder / tunings.STATE)
            )
            if stored.weights == self._weights:
                state = stored
        # If a budget ended a stage early, the rows of later stages are computed again.
        late = list(itertools.dropwhile(lambda stage: not state.lacks(stage, None), STAGES))[1:]
        rows = {stage: () if stage in late else state.rows.get(stage, ()) for stage in STAGES}
        return replace(state, flow=self._batches(), rows=rows)

    def _save(self) -> None:
        content = to_plain(self._state)
        self._patiently(lambda: write_json(self._work.folder / tunings.STATE, content))
