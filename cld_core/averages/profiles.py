"""Power-function profiles of averages, and the least-squares fit of one profile by others. Needs numpy and no torch.

An average of relative length sigma has the profile p(s) = (gamma + 1)/t (s/t)^gamma on [0, t], the weight of the
parameters of step s in the average at step t. Its standard deviation is sigma t. docs/math.md, "Averages after the
fact".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cld_core.config.train import UNIFORM_LENGTH

# Singular values of the fit below this fraction of the largest are due to the rounding of snapshots.
_RCOND = 1e-10


@dataclass(frozen=True)
class Profile:
    """The profile of one average: its relative ``length``, and the number ``updates`` of steps that it covers."""

    length: float
    updates: int


@dataclass(frozen=True)
class Fit:
    """A profile as a weighted sum of others.

    Attributes:
        weights: one for each of the others, (n,), float64; their sum is 1.
        error: the norm of the residual, relative to that of the profile.
    """

    weights: NDArray[np.float64]
    error: float


def exponent(length: float) -> float:
    """gamma of the profile of a relative length sigma: the root above 0 of sigma^2 (g+2)^2 (g+3) = g + 1.

    Raises:
        ValueError: no such profile has this length.
    """
    if not 0 < length < UNIFORM_LENGTH:
        raise ValueError(f"a relative length is between 0 and {UNIFORM_LENGTH:.4f}, not {length:g}")
    # sigma decreases from UNIFORM_LENGTH at gamma = 0; sigma < 1/(gamma + 1) bounds the root from above.
    low, high = 0.0, 1.0 / length
    while low < (middle := 0.5 * (low + high)) < high:
        low, high = (middle, high) if relative_length(middle) > length else (low, middle)
    return middle


def key_of(length: float) -> str:
    """The name of the average of a length in files."""
    return repr(float(length))


def relative_length(gamma: float) -> float:
    """The standard deviation of a profile as a fraction of the training: sqrt(g+1) / ((g+2) sqrt(g+3))."""
    return math.sqrt(gamma + 1.0) / ((gamma + 2.0) * math.sqrt(gamma + 3.0))


def inner(a: Profile, b: Profile) -> float:
    """The integral of the product of two profiles, with the same origin."""
    gamma, other = exponent(a.length), exponent(b.length)
    common, longer = min(a.updates, b.updates), max(a.updates, b.updates)
    decay = (common / a.updates) ** gamma * (common / b.updates) ** other
    return (gamma + 1.0) * (other + 1.0) / (gamma + other + 1.0) * decay / longer


class Basis:
    """Profiles from which others are reconstructed."""

    def __init__(self, known: Sequence[Profile]) -> None:
        self._known = known
        self._scale = np.array([norm(profile) for profile in known])
        gammas = np.array([exponent(profile.length) for profile in known])
        ends = np.array([profile.updates for profile in known], dtype=np.float64)
        # For profiles normalised to 1.
        self._gram = _gram(gammas, ends) / np.outer(self._scale, self._scale)
        self._inverse = np.linalg.pinv(self._gram, rcond=_RCOND, hermitian=True)

    def fit(self, wanted: Profile) -> Fit:
        """The weighted sum of the profiles that is closest to ``wanted``, among those whose weights sum to 1.

        Each profile integrates to 1, so weights of the network that do not change during training are reproduced,
        however bad the fit is.
        """
        size = norm(wanted)
        target = np.array([inner(wanted, profile) for profile in self._known]) / (self._scale * size)
        ones, nearest = size / self._scale, self._inverse @ target
        # The Lagrange multiplier moves the unconstrained solution to one whose weights, ``ones`` x, sum to 1.
        towards = self._inverse @ ones
        x = nearest + towards * (1.0 - ones @ nearest) / (ones @ towards)
        missing = 1.0 - 2.0 * float(x @ target) + float(x @ self._gram @ x)
        return Fit(x * size / self._scale, math.sqrt(max(0.0, missing)))


def norm(profile: Profile) -> float:
    """The L2 norm of a profile."""
    return math.sqrt(inner(profile, profile))


def _gram(gammas: NDArray[np.float64], ends: NDArray[np.float64]) -> NDArray[np.float64]:
    """`inner` of every pair of profiles."""
    common, longer = np.minimum.outer(ends, ends), np.maximum.outer(ends, ends)
    decay = (common / ends[:, None]) ** gammas[:, None] * (common / ends) ** gammas
    sums = np.add.outer(gammas, gammas)
    result: NDArray[np.float64] = np.outer(gammas + 1.0, gammas + 1.0) / (sums + 1.0) * decay / longer
    return result
