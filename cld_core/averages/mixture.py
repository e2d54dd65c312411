"""The weights of stored averages that reconstruct the average of a length. Needs numpy and no torch."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from cld_core.config.train import LONGEST
from cld_core.errors import UsageError
from cld_core.run import RunFolder

from . import snapshots
from .profiles import Basis, Profile, key_of
from .snapshots import Stored

# The largest relative error of a profile that is accepted.
MOST = 0.1
# Lengths that are tried for the message that says which are possible.
_TRIED = np.geomspace(0.002, LONGEST * 0.999, 80)


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


def of(run: RunFolder, step: int, length: float, without: Collection[int] = ()) -> Mixture:
    """How the average of a length is reconstructed for the checkpoint of a step.

    Args:
        without: steps of snapshots that turned out to be damaged.

    Raises:
        UsageError: the length is invalid or out of reach (the message says which are possible), or the checkpoint has
            no averages.
        OSError: the snapshots cannot be listed.
    """
    if not isinstance(length, int | float) or not 0 < length < LONGEST:
        raise UsageError(
            f"{run.name}: the length of an average is a number above 0 and below {LONGEST:g}, not {length!r}."
        )
    stored = [one for one in snapshots.usable(run, step) if one.step not in without]
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
