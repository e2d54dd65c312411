"""The samples of a linear sampler, and their derivatives with respect to its times and coefficients, by differences.

One pass of the sampler carries, beside the samples, a copy of them for each parameter so far, which has been changed by
a small amount in this copy. A parameter of step i costs nothing before that step, and the copies of a step are
evaluated together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cld_core.samplers.halves import rest
from cld_core.score import ScoreFunction
from cld_core.sde import Diffusion

from .linear import MOST_MEMORY, Linear, largest

# The change of a coefficient, or of the logarithm of a time. Later steps amplify it. A larger one would be affected by
# the curvature of the flow, a smaller one by the rounding of a float32 network, 1e-7 of alpha.
STEP = 1e-5


@dataclass(frozen=True)
class Fitted:
    """A score to which a sampler is fitted. Evaluations are counted, and batched by at most ``at_once`` examples."""

    score: ScoreFunction
    sde: Diffusion
    at_once: int
    count: Callable[[int], object] = lambda examples: None

    def alpha(self, u: Tensor, t: float) -> Tensor:
        """`halves.rest` of u (B, nC, ...)."""
        self.count(len(u))
        return torch.cat([rest(self.score, self.sde, part, t) for part in u.split(self.at_once)])

    def for_points(self, first: int, last: int) -> "Fitted":
        """The same for the points ``first <= i < last`` only, with a ``score`` that is bound to their labels."""
        return self


def sizes(linear: Linear, denoise: bool) -> list[int]:
    """The number of parameters of each step: its time, if it is free, its transition and its newest weights.

    The times of the first evaluation, t = 1, and of the denoising one, eps, are not free. The last step results in the
    sample x, and only its coefficients of x are parameters.
    """
    count, last = len(linear.times), len(linear.times) - 1
    found = []
    for number, weights in enumerate(linear.weights):
        rows = 1 if number == last else linear.transitions.shape[1]
        columns = linear.transitions.shape[2] + len(weights[:MOST_MEMORY]) * weights.shape[2]
        found.append(int(is_free(number, count, denoise)) + rows * columns)
    return found


def most_sizes(sde: Diffusion, nfe: int, eps: float, denoise: bool) -> list[int]:
    """`sizes` of the sampler with the most parameters that a fit may have."""
    return sizes(largest(sde, nfe, eps, denoise), denoise)


def packed(linear: Linear, denoise: bool) -> Tensor:
    """The parameters (P,): for each step log t if the time is free, the transition, the newest weights."""
    count, parts = len(linear.times), []
    for number, weights in enumerate(linear.weights):
        rows = slice(0, 1) if number == count - 1 else slice(None)
        if is_free(number, count, denoise):
            parts.append(linear.times[number].log()[None])
        parts += [linear.transitions[number, rows].flatten(), weights[:MOST_MEMORY, rows].flatten()]
    return torch.cat(parts)


def unpacked(parameters: Tensor, like: Linear, denoise: bool, eps: float) -> Linear:
    """The sampler with these parameters; times are kept between eps and 1."""
    times, transitions, weights = like.times.clone(), like.transitions.clone(), []
    count, at = len(times), 0

    def take(target: Tensor) -> None:
        nonlocal at
        target.copy_(parameters[at : at + target.numel()].view(target.shape))
        at += target.numel()

    for number, old in enumerate(like.weights):
        rows = slice(0, 1) if number == count - 1 else slice(None)
        if is_free(number, count, denoise):
            take(times[number : number + 1])
            times[number] = times[number].exp().clamp(eps, 1.0)
        new = old.clone()
        take(transitions[number, rows])
        take(new[:MOST_MEMORY, rows])
        weights.append(new)
    return Linear(times, transitions, tuple(weights))


def samples(fitted: Fitted, linear: Linear, u: Tensor) -> Tensor:
    """x (B, C, ...) at the end, from the prior's draw u."""
    history: list[Tensor] = []
    for t, transition, weights in zip(linear.times.tolist(), linear.transitions, linear.weights, strict=True):
        history.insert(0, fitted.alpha(u, t))
        u = _next(fitted.sde, u, transition, weights, history)
    return fitted.sde.halves(u)[0]


def linearised(fitted: Fitted, linear: Linear, u: Tensor, denoise: bool) -> tuple[Tensor, Tensor]:
    """x (B, C, ...) at the end, and its derivatives (P, B, C, ...) with respect to the parameters, as in `packed`."""
    sde, count = fitted.sde, len(linear.times)
    memory = max(map(len, linear.weights))
    copies, history = u[None], list[Tensor]()  # (1 + P so far, B, ...)
    for number, t in enumerate(linear.times.tolist()):
        transition, weights = linear.transitions[number], linear.weights[number]
        history.insert(0, fitted.alpha(copies.flatten(0, 1), t).unflatten(0, copies.shape[:2]))
        del history[memory:]
        if is_free(number, count, denoise):
            later = fitted.alpha(copies[0], t * (1.0 + STEP))[None]
            copies = torch.cat([copies, copies[:1]])
            history = [torch.cat([history[0], later]), *(torch.cat([alpha, alpha[:1]]) for alpha in history[1:])]
        flat = [alpha.flatten(0, 1) for alpha in history]
        after = _next(sde, copies.flatten(0, 1), transition, weights, flat).unflatten(0, copies.shape[:2])
        newest = [alpha[0] for alpha in history[: len(weights[:MOST_MEMORY])]]
        changed = _changed(sde, after[0], copies[0], newest, number == count - 1)
        history = [torch.cat([alpha, alpha[:1].expand(len(changed), *alpha.shape[1:])]) for alpha in history]
        copies = torch.cat([after, changed])
    x = copies.narrow(2, 0, copies.shape[2] // sde.n)
    return x[0], (x[1:] - x[0]) / STEP


def is_free(number: int, count: int, denoise: bool) -> bool:
    """Whether the time of a step is a parameter."""
    return 0 < number < (count - 1 if denoise else count)


def _next(sde: Diffusion, u: Tensor, transition: Tensor, weights: Tensor, history: Sequence[Tensor]) -> Tensor:
    parts = torch.einsum("ij,bj...->bi...", transition, split(u, sde.n))
    for weight, alpha in zip(weights, history, strict=False):
        parts = parts + torch.einsum("ij,bj...->bi...", weight, split(alpha, sde.m))
    return parts.flatten(1, 2)


def _changed(sde: Diffusion, after: Tensor, u: Tensor, alphas: Sequence[Tensor], is_last: bool) -> Tensor:
    """Copies of ``after`` (B, nC, ...), for each of which one entry of transition or weights was changed by `STEP`."""
    rows = 1 if is_last else sde.n
    sources = [split(u, sde.n), *(split(alpha, sde.m) for alpha in alphas)]
    changed = []
    for source in sources:
        for row in range(rows):
            for column in source.unbind(1):
                one = split(after, sde.n).clone()
                one[:, row] += STEP * column
                changed.append(one.flatten(1, 2))
    return torch.stack(changed)


def split(u: Tensor, halves: int) -> Tensor:
    """(B, halves, C, ...), a view."""
    return u.unflatten(1, (halves, u.shape[1] // halves))
