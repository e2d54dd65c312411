"""Power-function profiles of averages, and the fit of one profile by stored ones.

Needs numpy and no torch.

An average of relative length sigma has the profile p(s) = (gamma + 1)/t (s/t)^gamma on [0, t], the
weight of the parameters of step s in the average at step t. Its standard deviation is sigma t.
docs/math.md, "Averages after the fact".
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from cld_core.config.train import LONGEST, UNIFORM_LENGTH
from cld_core.errors import UsageError
from cld_core.run import RunFolder
from cld_core.run.checkpoints import Stored, usable

# Singular values of the fit below this fraction of the largest are due to the rounding of
# snapshots.
_RCOND = 1e-10
# The largest relative error of a profile that is accepted.
MOST = 0.1
# Lengths that the error message chooses from.
_CANDIDATES = np.geomspace(0.002, LONGEST * 0.999, 80)


@dataclass(frozen=True)
class Profile:
    """The profile of one average.

    Attributes:
        length: its relative length.
        updates: the number of steps that it covers.
    """

    length: float
    updates: int


def exponent(length: float) -> float:
    """gamma of the profile of a relative length sigma.

    It is the root above 0 of sigma^2 (gamma + 2)^2 (gamma + 3) = gamma + 1, a cubic equation.

    Raises:
        ValueError: no such profile has this length.
    """
    if not 0 < length < UNIFORM_LENGTH:
        raise ValueError(f"a relative length is between 0 and {UNIFORM_LENGTH:.4f}, not {length:g}")
    square = length**-2
    return float(np.roots([1.0, 7.0, 16.0 - square, 12.0 - square]).real.max())


def key_of(length: float) -> str:
    """The name of the average of a length in files."""
    return repr(float(length))


def inner(these: Sequence[Profile], those: Sequence[Profile]) -> np.ndarray:
    """The integral of the product of each of ``these`` with each of ``those``, (n, m)."""
    gammas = np.array([[exponent(profile.length)] for profile in these])
    ends = np.array([[float(profile.updates)] for profile in these])
    others = np.array([exponent(profile.length) for profile in those])
    other_ends = np.array([float(profile.updates) for profile in those])
    common = np.minimum(ends, other_ends)
    longer = np.maximum(ends, other_ends)
    decay = (common / ends) ** gammas * (common / other_ends) ** others
    result: np.ndarray = (gammas + 1.0) * (others + 1.0) / (gammas + others + 1.0) * decay / longer
    return result


class Basis:
    """Profiles from which others are reconstructed."""

    def __init__(self, profiles: Sequence[Profile]) -> None:
        self._profiles = profiles
        products = inner(profiles, profiles)
        # For profiles normalised to 1.
        self._scale = np.sqrt(np.diag(products))
        self._gram = products / np.outer(self._scale, self._scale)
        self._inverse = np.linalg.pinv(self._gram, rcond=_RCOND, hermitian=True)

    def fit(self, profile: Profile) -> tuple[np.ndarray, float]:
        """The closest weighted sum to ``profile``, with weights that sum to 1.

        Each profile integrates to 1, so weights of the network that do not change during training
        are reproduced, however bad the fit is.

        Returns:
            The weights (n,), and the L2 norm of the residual, relative to that of ``profile``.
        """
        size = math.sqrt(inner([profile], [profile]).item())
        target = inner(self._profiles, [profile])[:, 0] / (self._scale * size)
        ones = size / self._scale
        nearest = self._inverse @ target
        # The Lagrange multiplier moves the unconstrained solution to one whose weights, ``ones`` x,
        # sum to 1.
        towards = self._inverse @ ones
        x = nearest + towards * (1.0 - ones @ nearest) / (ones @ towards)
        missing = 1.0 - 2.0 * float(x @ target) + float(x @ self._gram @ x)
        return x * size / self._scale, math.sqrt(max(0.0, missing))


@dataclass(frozen=True)
class Mixture:
    """An average as a weighted sum of stored ones.

    Attributes:
        parts: files, and the weights of their averages, by the names of these in the file.
        error: the relative error of its profile, in the L2 norm.
        described: its parts and its error, for messages.
    """

    parts: tuple[tuple[Stored, dict[str, float]], ...]
    error: float
    described: str


def require_length(run: RunFolder, length: object) -> None:
    """Raise UsageError if ``length`` cannot be the relative length of an average."""
    if not isinstance(length, int | float) or not 0 < length < LONGEST:
        raise UsageError(
            f"{run.name}: the length of an average is a number above 0 and below {LONGEST:g}, not "
            f"{length!r}."
        )


def mixture(run: RunFolder, step: int, length: float, without: Collection[int] = ()) -> Mixture:
    """How the average of a length is reconstructed for the checkpoint of a step.

    Args:
        without: steps of snapshots that are damaged.

    Raises:
        UsageError: the length is invalid or out of reach (the message names the possible ones), or
            the checkpoint has no averages.
        OSError: the snapshots cannot be listed.
    """
    require_length(run, length)
    stored = [file for file in usable(run, step) if file.step not in without]
    if not stored:
        raise UsageError(
            f"{run.name}: the checkpoint of step {step} has no power-function averages, of which "
            "ema.length is made. Keep some from now on with "
            f"`cldctl resume {run.name} train.ema_lengths=[0.05,0.1]`, and use a later checkpoint."
        )
    basis = Basis(
        [
            Profile(stored_length, file.averages.updates)
            for file in stored
            for stored_length in file.averages.lengths
        ]
    )
    updates = stored[-1].averages.updates
    weights, error = basis.fit(Profile(length, updates))
    made_of = _counted(stored)
    if error > MOST:
        raise UsageError(
            f"{run.name}: ema.length={length:g} cannot be made for step {step} of {made_of}: the "
            f"relative error of its profile would be {error:.2g}, and at most {MOST:g} is "
            f"accepted. Use {_possible(basis, updates)}, or train with a smaller train.ema_every."
        )
    # In the order of the profiles of the basis.
    ordered = iter(weights.tolist())
    parts = [
        (file, {key_of(stored_length): next(ordered) for stored_length in file.averages.lengths})
        for file in stored
    ]
    described = (
        f"EMA length {length:g}: made of {made_of}, relative error of its profile {error:.2g}"
    )
    return Mixture(tuple(parts), error, described)


def _counted(stored: Sequence[Stored]) -> str:
    return f"{len(stored)} stored steps" if len(stored) > 1 else "one stored step"


def _possible(basis: Basis, updates: int) -> str:
    """The lengths that can be reconstructed from stored averages, in words."""
    lengths = [
        candidate
        for candidate in _CANDIDATES.tolist()
        if basis.fit(Profile(candidate, updates))[1] <= MOST
    ]
    if not lengths:
        return "one of train.ema_lengths"
    return f"a length from {lengths[0]:.2g} to {lengths[-1]:.2g}"
