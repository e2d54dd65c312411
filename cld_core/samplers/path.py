"""The path of a sampler from the prior at t = 1 to the data, for callers that want to observe it.

A sampler reports its states to a `Watcher`. Its results are bit-identical with and without one.
"""

import functools

import torch
from torch import Tensor

from cld_core.solver import Observer, Steps


class Watcher:
    """Receives the states of a sampler; this one does nothing with them."""

    def visit(self, t: float, u: Tensor, done: float) -> None:
        """A method with fixed steps is at u (B, nC, ...) at time t; ``done`` is the share of its steps so far.

        The first visit is the prior at t = 1, the last one the state at the end time before it is denoised. The sampler
        may overwrite u afterwards.
        """

    def flow(self, u: Tensor, end: float) -> Observer | None:
        """The adaptive flow starts from u (B, nC, ...) at t = 1 towards ``end``; what it returns is shown its steps."""
        return None


UNWATCHED = Watcher()


class Recorder(Watcher):
    """A `Watcher` that keeps up to ``points`` states, at least 2, evenly spread over the steps of the method.

    Those of the adaptive flow, in which each sample has its own steps, are at equal distances in t, interpolated
    between the steps by cubic polynomials.
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
        self._times, self._states = times.tolist(), list(states)
        return functools.partial(_interpolate, times, states.flatten(2))

    def path(self) -> tuple[Tensor, Tensor]:
        """Falling times (K,), float64, and the states at them (K, B, nC, ...), K <= points."""
        return torch.tensor(self._times, dtype=torch.float64), torch.stack(self._states)


def _interpolate(times: Tensor, states: Tensor, steps: Steps) -> None:
    """Fill in the states (K, B, N) of the flow at the times (K,) in steps, by cubic Hermite polynomials."""
    before, after = steps.t
    inside = (times[:, None] < before) & (times[:, None] >= after) & steps.accepted
    wanted, row = inside.nonzero(as_tuple=True)
    h = (after - before)[row]
    share = ((times[wanted] - before[row]) / h)[:, None]
    (y0, y1), (s0, s1) = ((pair[0][row], pair[1][row]) for pair in (steps.y, steps.slope))
    rest = 1.0 - share
    blend = rest.square() * (1.0 + 2.0 * share) * y0 + share.square() * (3.0 - 2.0 * share) * y1
    bend = share * rest * (rest * s0 - share * s1) * h[:, None]
    states[wanted, steps.rows[row]] = (blend + bend).to(states.dtype)
