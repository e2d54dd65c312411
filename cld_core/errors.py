"""The errors that users see. Every message names the object, the place and, last, the fix."""

import difflib
from collections.abc import Collection, Mapping

# The least similarity of two words that are near, from 0 to 1.
_CUTOFF = 0.6


def nearest(word: str, words: Collection[str]) -> str | None:
    """The entry of ``words`` that ``word`` may misspell; None if none is near.

    An entry that begins with ``word`` comes first, then the most similar entry. Sections and names
    of dotted keys are compared separately, so that two keys are not near because their sections are
    equal; without a section, only names are compared.
    """
    if word and (longer := [other for other in words if _begins(other, word)]):
        return min(longer, key=len)
    section, _, name = word.rpartition(".")

    def similarity(other: str) -> float:
        other_section, _, other_name = other.rpartition(".")
        of_names = _similarity(name, other_name)
        if not section or not other_section:
            return of_names
        return min(of_names, _similarity(section, other_section))

    near = max(words, key=similarity, default=None)
    return near if near is not None and similarity(near) >= _CUTOFF else None


def _begins(key: str, start: str) -> bool:
    return key.startswith(start) or key.rpartition(".")[2].startswith(start)


def _similarity(one: str, other: str) -> float:
    # Words are shorter than this, and comparing long strings takes time.
    return difflib.SequenceMatcher(None, other[:100], one[:100]).ratio()


def did_you_mean(word: str, words: Collection[str]) -> str:
    """A sentence, after a space, that names the nearest of ``words``; empty if none is near."""
    close = nearest(word, words)
    return "" if close is None else f" Did you mean '{close}'?"


class CldError(Exception):
    """Base of all errors that the user can fix; ``exit_code`` is that of the command."""

    exit_code = 1


class UsageError(CldError):
    """A command or a function was used wrongly."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe, or an override of it, cannot be run."""


class NotFoundError(CldError):
    """No such run, checkpoint or evaluation."""

    exit_code = 3


class NoRunError(NotFoundError, IndexError):
    """A table of runs has no such row; iteration ends with it, as with any IndexError."""


class CheckpointError(CldError):
    """A checkpoint is not what its name and checksum promise."""


class WrongCheckpointError(CheckpointError):
    """A file is not a checkpoint, or not one of this recipe."""

    exit_code = 2


class SaveError(CheckpointError):
    """The checkpoint of ``step`` could not be written."""

    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message)
        self.step = step


class DataError(CldError):
    """A data set is missing or not in the expected form."""


class WrongSourceError(DataError):
    """The source or destination of data is missing, or is something else than the command needs."""

    exit_code = 2


class LabelCountError(DataError):
    """There are more or fewer labels than examples, so they cannot be matched."""


class LeaseHeldError(CldError):
    """Another live job writes into this run folder."""


class LeaseLostError(CldError):
    """This process was considered dead, and another job owns the run folder now."""


class NonFiniteError(CldError):
    """The loss or the gradient became infinite or not a number."""


class UnusableSamplesError(CldError):
    """Too many samples are not finite for a result. A restart would draw the same samples."""


class SolverError(CldError):
    """An adaptive solver could not reach its tolerance."""


class UnfitError(CldError):
    """This machine, or one of the others, failed a health check before training.

    Attributes:
        check: the name of the check.
        hosts: by rank, the machines that failed; empty if they are unknown.
    """

    def __init__(self, message: str, check: str, hosts: Mapping[int, str]) -> None:
        super().__init__(message)
        self.check = check
        self.hosts = hosts
