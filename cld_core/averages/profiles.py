"""Power-function profiles of averages, and the fit of one profile by those that are stored. Needs numpy and no torch.

An average of relative length sigma has the profile p(s) = (gamma + 1)/t (s/t)^gamma on [0, t], the weight of the
parameters of step s in the average at step t. Its standard deviation is sigma t. docs/math.md, "Averages after the
fact".
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cld_core.checkpoint.files import Stored, usable
from cld_core.config.train import LONGEST, UNIFORM_LENGTH
from cld_core.errors import UsageError
from cld_core.run import RunFolder

# Singular values of the fit below this fraction of the largest are due to the rounding of snapshots.
_RCOND = 1e-10
# The largest relative error of a profile that is accepted.
MOST = 0.1
# Lengths that are tried for the message that says which are possible.
_TRIED = np.geomspace(0.002, LONGEST * 0.999, 80)


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


@dataclass(frozen=True)
class Mixture:
    """An average as a weighted sum of stored ones.

    Attributes:
        length: its relative length.
        parts: files, and the weights of their averages, by the names of these in the file.
        error: the relative error of its profile, in the L2 norm.
    """

    length: float
    parts: tuple[tuple[Stored, dict[str, float]], ...]
    error: float

    @property
    def described(self) -> str:
        """A description for messages: what it is made of, and its error."""
        of = _stored_steps(len(self.parts))
        return f"EMA length {self.length:g}: made of {of}, relative error of its profile {self.error:.2g}"


def require_length(run: RunFolder, length: object) -> None:
    """Refuse what cannot be the relative length of an average; raises UsageError."""
    if not isinstance(length, int | float) or not 0 < length < LONGEST:
        raise UsageError(
            f"{run.name}: the length of an average is a number above 0 and below {LONGEST:g}, not {length!r}."
        )


def mixture(run: RunFolder, step: int, length: float, without: Collection[int] = ()) -> Mixture:
    """How the average of a length is reconstructed for the checkpoint of a step.

    Args:
        without: steps of snapshots that turned out to be damaged.

    Raises:
        UsageError: the length is invalid or out of reach (the message says which are possible), or the checkpoint has
            no averages.
        OSError: the snapshots cannot be listed.
    """
    require_length(run, length)
    stored = [one for one in usable(run, step) if one.step not in without]
    if not stored:
        command = f"`cldctl resume {run.name} train.ema_lengths=[0.05,0.1]`"
        fix = f"Keep some from now on with {command}, and use a later checkpoint"
        text = f"the checkpoint of step {step} has no power-function averages, of which ema.length is made"
        raise UsageError(f"{run.name}: {text}. {fix}.")
    known = [
        (file, Profile(own, one.averages.updates)) for file, one in enumerate(stored) for own in one.averages.lengths
    ]
    basis, updates = Basis([profile for _, profile in known]), stored[-1].averages.updates
    fit = basis.fit(Profile(length, updates))
    if fit.error > MOST:
        raise UsageError(f"{run.name}: {_out_of_reach(basis, step, length, updates, fit.error, len(stored))}")
    parts: list[dict[str, float]] = [{} for _ in stored]
    for (file, profile), weight in zip(known, fit.weights.tolist(), strict=True):
        parts[file][key_of(profile.length)] = weight
    return Mixture(length, tuple(zip(stored, parts, strict=True)), fit.error)


def _stored_steps(count: int) -> str:
    return f"{count} stored steps" if count > 1 else "one stored step"


def _out_of_reach(basis: Basis, step: int, length: float, updates: int, error: float, count: int) -> str:
    good = [tried for tried in _TRIED.tolist() if basis.fit(Profile(tried, updates)).error <= MOST]
    text = (
        f"ema.length={length:g} cannot be made for step {step} of {_stored_steps(count)}: "
        f"the relative error of its profile would be {error:.2g}, and at most {MOST:g} is accepted"
    )
    reach = f" Use a length from {good[0]:.2g} to {good[-1]:.2g}" if good else " Use one of train.ema_lengths"
    return f"{text}.{reach}, or train with a smaller train.ema_every."
