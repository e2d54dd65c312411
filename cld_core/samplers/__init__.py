"""Sampling: from noise at t = 1 to data, with any score (a network's, or an exact one of
`analytic`).

A method is a function ``method(score, sde, spec, u, draws)`` in a module of its own. It returns its
grid and one step as `FixedSteps`; `drive` makes the steps, for all methods. The arguments are

    score   maps (u, t) to the score of the scored halves, (B, mC, ...)
    u       (B, nC, ...), a draw of the prior at t = 1; the steps may overwrite it
    draws   ``draws(count, halves)`` yields standard normal noise (B, halves * C, ...) ``count``
            times

A method with ``needs_solution`` also has a keyword ``solution``, a
`cld_core.run.tunings.TunedSampler`.

Functions that methods share are here, too: their grid, and the split of the score into a known part
and a rest.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from cld_core.config.keys import Shape
from cld_core.config.registry import implementation_of
from cld_core.config.sampling import FixedStepSpec, SamplingSpec
from cld_core.errors import RecipeError
from cld_core.plugins import described, trial
from cld_core.run.tunings import TunedSampler
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion, Schedule
from cld_core.sde.matrices import combined
from cld_core.solver import Observer, Steps

T = TypeVar("T", bound=Any)
# Network evaluations per sample: the same for all, or (B,), int64.
Evaluations = int | Tensor

# Numbers that are drawn at once for each sample. A constant of the format: changing it changes
# every sample. The number of samples must not matter, or a sample would depend on its batch.
BLOCK = 4096

# Maps (count, halves) to ``count`` tensors of standard normal noise, (B, halves * C, ...).
Draws = Callable[[int, int], Iterator[Tensor]]


@dataclass(frozen=True)
class FixedSteps:
    """A method that makes the same steps for every sample.

    Attributes:
        times: the times of the states between the steps, from 1 to ``spec.eps``.
        step: maps u (B, nC, ...) at ``times[i]``, and i, to u at ``times[i + 1]``.
        denoise: maps u at the end to the sample, if ``spec.denoise``; None: `ended` does so, with
            one more evaluation.
        shares: for a watcher, the share of the steps that is done at each time but the last; None
            for a state that it does not receive. By default it receives all states, and all steps
            count the same.
    """

    times: Sequence[float]
    step: Callable[[Tensor, int], Tensor]
    denoise: Callable[[Tensor], Tensor] | None = None
    shares: Sequence[float | None] | None = None


@dataclass(frozen=True)
class AdaptiveSteps:
    """A method whose solver chooses the steps of each sample.

    Attributes:
        solve: returns u (B, nC, ...) at ``spec.eps``, and the evaluations of each sample, (B,). Its
            argument, an observer or None, receives the solver's steps.
    """

    solve: Callable[[Observer | None], tuple[Tensor, Tensor]]


class Watcher:
    """Receives the states of a sampler, and ignores them."""

    def visit(self, t: float, u: Tensor, done: float) -> None:
        """Receives the state u (B, nC, ...) at time t of a method with fixed steps.

        ``done`` is the share of its steps so far.

        The first visit is the prior at t = 1, the last one the state at the end time before it is
        denoised. The sampler may overwrite u afterwards.
        """

    def flow(self, u: Tensor, end: float) -> Observer | None:
        """The observer of the adaptive flow from u (B, nC, ...) at t = 1 to ``end``; None for no
        observer."""
        return None


class Noise(Protocol):
    """The part of `cld_core.seeds.SampleNoise` that samplers use; other classes can provide it."""

    def normal(self, shape: Shape) -> Tensor:
        """Standard normal noise (B, *shape)."""


@dataclass(frozen=True)
class Samples:
    """The samples that `sample` draws, and their network evaluations."""

    x: Tensor  # (B, C, ...), the samples
    v: Tensor | None  # (B, (n - 1)C, ...), their other halves (CLD: velocities); None if n is 1
    nfe_each: Tensor  # (B,), int64: network evaluations of each sample, including denoising

    @property
    def nfe(self) -> float:
        """Mean number of network evaluations per sample, including denoising."""
        return float(self.nfe_each.double().mean())


def concatenated(parts: Sequence[T]) -> T:
    """The results of several batches, dataclasses such as `Samples`, with tensors concatenated."""
    tensors = {}
    for name, value in vars(parts[0]).items():
        if isinstance(value, Tensor):
            tensors[name] = torch.cat([getattr(part, name) for part in parts])
    return replace(parts[0], **tensors)


def counted(samples: Samples, score: ScoreFunction) -> Samples:
    """The samples with an `nfe_each` that counts evaluations of the network, not of ``score``."""
    extra = getattr(score, "extra", None)
    if extra is None:
        return samples
    # In the adaptive flow, finished samples stay in the batch for a while: evaluations for them do
    # not count.
    nfe_each = samples.nfe_each + torch.minimum(extra, samples.nfe_each)
    return replace(samples, nfe_each=nfe_each)


@torch.no_grad()
def sample(
    score: ScoreFunction,
    sde: Diffusion,
    spec: SamplingSpec,
    noise: Noise,
    data_shape: Shape,
    watcher: Watcher | None = None,
    solution: TunedSampler | None = None,
) -> Samples:
    """Draw as many samples as ``noise`` has rows. Each depends on its own noise only.

    Args:
        score: maps (u, t) to the score of the scored halves; t is a float, or (B,) for the adaptive
            flow. Its ``finished`` (B, C, ...) -> (B, C, ...), if it has one, is applied to the
            samples x, as conditioning on an observation needs it.
        spec: a recipe's `sampling` section.
        noise: `cld_core.seeds.SampleNoise`, or anything with ``normal(shape) -> (B, *shape)``, on
            the device that computes.
        data_shape: shape of one example, (C, ...).
        watcher: receives the states of the sampler, such as a `Recorder`.
        solution: the tuned sampler, for a method with ``needs_solution``.

    Raises:
        RecipeError: the method's settings give useless samples, or the method of a plug-in returns
            another type or shape.
        SolverError: the adaptive flow's tolerance is out of reach.
    """
    spec.require_usable()
    channels, *rest = data_shape
    prior = sde.prior(noise.normal((channels * sde.n, *rest)))
    shape = prior.shape

    def draws(count: int, halves: int) -> Iterator[Tensor]:
        return stream(noise, (channels * halves, *rest), count)

    method = implementation_of("sampling", spec)
    if spec.needs_solution:
        method = functools.partial(method, solution=solution)
    drawn = drive(method, score, sde, spec, prior, draws, watcher)
    with trial("sampling.method", spec.method):
        is_pair = isinstance(drawn, tuple) and len(drawn) == 2 and hasattr(drawn[1], "__index__")
        if not is_pair or getattr(drawn[0], "shape", None) != shape:
            raise ValueError(
                f"it returns {described(drawn)}, not (u of shape {tuple(shape)}, evaluations of "
                f"score)"
            )
    u, nfe = drawn
    if not isinstance(nfe, Tensor):
        nfe = torch.full((len(u),), nfe, dtype=torch.int64, device=u.device)
    x = u[:, :channels].contiguous()
    v = u[:, channels:].contiguous() if sde.n > 1 else None
    finished = getattr(score, "finished", None)
    return Samples(x if finished is None else finished(x), v, nfe)


def drive(
    method: Callable[..., Any],
    score: ScoreFunction,
    sde: Diffusion,
    spec: SamplingSpec,
    u: Tensor,
    draws: Draws,
    watcher: Watcher | None = None,
) -> tuple[Tensor, Evaluations]:
    """The samples u (B, nC, ...) of a method, denoised if ``spec.denoise``, and its evaluations.

    They are bit-identical with and without a watcher. The method of a plug-in may make its steps
    itself and return this pair, which is then returned unchanged.

    Raises:
        RecipeError: there is a watcher, and the method makes its steps itself.
    """
    counted = _Counted(score)
    steps = method(counted, sde, spec, u, draws)
    if isinstance(steps, AdaptiveSteps):
        u, nfe = steps.solve(None if watcher is None else watcher.flow(u, spec.eps))
        return ended(score, sde, spec, u, nfe)
    if isinstance(steps, FixedSteps):
        u = _made(steps, u, watcher or Watcher())
        if spec.denoise and steps.denoise is not None:
            return steps.denoise(u), counted.evaluations
        return ended(score, sde, spec, u, counted.evaluations)
    if watcher is not None:
        raise RecipeError(
            f"the states of sampling.method={spec.method} cannot be shown: it makes its steps "
            f"itself. Let it return `cld_core.samplers.FixedSteps`."
        )
    return steps


class _Counted:
    """A ``score`` that counts its evaluations; its other attributes are those of the score."""

    def __init__(self, score: ScoreFunction) -> None:
        self._score = score
        self.evaluations = 0

    def __call__(self, u: Tensor, t: float | Tensor) -> Tensor:
        self.evaluations += 1
        return self._score(u, t)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._score, name)


def _made(steps: FixedSteps, u: Tensor, watcher: Watcher) -> Tensor:
    """u (B, nC, ...) after all steps."""
    *starts, end = steps.times
    shares = steps.shares or [i / len(starts) for i in range(len(starts))]
    for i, (t, share) in enumerate(zip(starts, shares, strict=True)):
        if share is not None:
            watcher.visit(t, u, share)
        u = steps.step(u, i)
    watcher.visit(end, u, 1.0)
    return u


def stream(noise: Noise, shape: Shape, steps: int) -> Iterator[Tensor]:
    """``steps`` standard normal tensors (B, *shape). For small shapes, one call of ``noise`` serves
    many steps."""
    at_once = max(1, BLOCK // math.prod(shape))
    for first in range(0, steps, at_once):
        yield from noise.normal((min(at_once, steps - first), *shape)).transpose(0, 1).contiguous()


class Recorder(Watcher):
    """A `Watcher` that keeps up to ``points`` states, at least 2, evenly spread over the steps of
    the method.

    Those of the adaptive flow, in which each sample has its own steps, are at equal distances in t,
    interpolated between the steps by cubic polynomials.
    """

    def __init__(self, points: int) -> None:
        self._points = points
        self._times: list[float] = []
        self._states: list[Tensor] = []

    def visit(self, t: float, u: Tensor, done: float) -> None:
        # The k-th state that is kept is the first one with k/(points - 1) of the steps behind it.
        if done >= len(self._times) / (self._points - 1) - 1e-9:
            self._times.append(t)
            self._states.append(u.clone())

    def flow(self, u: Tensor, end: float) -> Observer:
        times = torch.linspace(1.0, end, self._points, dtype=torch.float64, device=u.device)
        states = u.new_empty(len(times), *u.shape)
        states[0] = u
        self._times = times.tolist()
        self._states = list(states)
        return functools.partial(_interpolate, times, states.flatten(2))

    def path(self) -> tuple[Tensor, Tensor]:
        """Falling times (K,), float64, and the states at them (K, B, nC, ...), K <= points."""
        return torch.tensor(self._times, dtype=torch.float64), torch.stack(self._states)


def _interpolate(times: Tensor, states: Tensor, steps: Steps) -> None:
    """Fill in the states (K, B, N) of the flow at the times (K,) in steps, by cubic Hermite
    polynomials."""
    before, after = steps.t
    inside = (times[:, None] < before) & (times[:, None] >= after) & steps.accepted
    wanted, row = inside.nonzero(as_tuple=True)
    h = (after - before)[row]
    share = ((times[wanted] - before[row]) / h)[:, None]
    rest = 1.0 - share
    y0, y1 = (y[row] for y in steps.y)
    of_start = rest.square() * (1.0 + 2.0 * share) * y0
    of_end = share.square() * (3.0 - 2.0 * share) * y1
    s0, s1 = (slope[row] for slope in steps.slope)
    of_slopes = share * rest * (rest * s0 - share * s1) * h[:, None]
    states[wanted, steps.rows[row]] = (of_start + of_end + of_slopes).to(states.dtype)


def grid_of(spec: FixedStepSpec, schedule: Schedule, *, per_step: int = 1) -> list[float]:
    """The times of a recipe's fixed-step method, for as many whole steps as its evaluations allow.

    Args:
        per_step: evaluations of a step. The denoising step takes one more.

    Raises:
        RecipeError: there are not enough evaluations for one step.
    """
    for_denoising = int(spec.denoise)
    steps = (spec.nfe - for_denoising) // per_step
    if steps == 0:
        raise RecipeError(
            f"sampling.nfe={spec.nfe} is too small for sampling.method={spec.method}, a step of "
            f"which takes {per_step} evaluations here. Set sampling.nfe={per_step + for_denoising} "
            f"or more."
        )
    return schedule.grid(spec.spacing, steps, spec.eps, spec.grid_power)


@functools.lru_cache(maxsize=4096)
def _split(sde: Diffusion, t: float) -> tuple[Tensor, Tensor]:
    """alpha of (s, u_S), and s of (alpha, u_S), (m, 2m) each.

    Cached, because every batch has the same times.
    """
    target, known, inverse, shift = sde.known(t)
    return -torch.cat([inverse, shift], dim=1), -torch.cat([target, known], dim=1)


def rest(score: ScoreFunction, sde: Diffusion, u: Tensor, t: float) -> Tensor:
    """alpha := -E^-1 (s + K u_S) at u and t, (B, mC, ...): the score without its known part
    (docs/math.md 7.2)."""
    to_alpha, _ = _split(sde, t)
    s = score(u, t)
    return combined(to_alpha, (*sde.scored_halves(s), *sde.scored_halves(sde.scored(u))))


def score_from_rest(alpha: Tensor, sde: Diffusion, u: Tensor, t: float) -> Tensor:
    """The score s = -E alpha - K u_S, (B, mC, ...)."""
    _, to_score = _split(sde, t)
    return combined(to_score, (*sde.scored_halves(alpha), *sde.scored_halves(sde.scored(u))))


def ended(
    score: ScoreFunction, sde: Diffusion, spec: SamplingSpec, u: Tensor, nfe: Evaluations
) -> tuple[Tensor, Evaluations]:
    """The sample, from u at ``spec.eps`` after ``nfe`` evaluations, and all evaluations.

    If ``spec.denoise``, the sample is the mean of one Euler-Maruyama step to time 0 (docs/math.md
    section 7).
    """
    if not spec.denoise:
        return u, nfe
    return sde.euler_step(u, score(u, spec.eps), spec.eps, spec.eps), nfe + 1
