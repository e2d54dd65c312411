"""The errors that a user meets. Every message names the thing, the place and, last, the fix."""

import difflib
from collections.abc import Collection, Mapping

# Of two words, how much must be alike: 1 is everything.
_CUTOFF = 0.6


def nearest(word: str, words: Collection[str]) -> str | None:
    """The one of ``words`` that somebody may have meant; None if none is near.

    A word that begins with ``word``, or else the most similar one. Of dotted keys, sections and
    names are compared with each other, so that two keys are not near because their section is the
    same; without a section, names alone.
    """
    section, _, name = word.rpartition(".")
    if begun := [
        it
        for it in words
        if word and (it.startswith(word) or it.rpartition(".")[2].startswith(word))
    ]:
        return min(begun, key=len)

    def alikeness(it: str) -> float:
        its_section, _, its_name = it.rpartition(".")
        same = _alikeness(name, its_name)
        return min(same, _alikeness(section, its_section)) if section and its_section else same

    near = max(words, key=alikeness, default=None)
    return near if near is not None and alikeness(near) >= _CUTOFF else None


def _alikeness(one: str, other: str) -> float:
    # Nobody means a longer one, and comparing takes time.
    return difflib.SequenceMatcher(None, other[:100], one[:100]).ratio()


def did_you_mean(word: str, words: Collection[str]) -> str:
    """A sentence, after a space, that names the nearest of ``words``; empty if none is near."""
    close = nearest(word, words)
    return "" if close is None else f" Did you mean '{close}'?"


class CldError(Exception):
    """Base of all errors that the user can fix; ``exit_code`` is that of the command."""

    exit_code = 1


class UsageError(CldError):
    """The command was used wrongly."""

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
    """A file is not a checkpoint, or not one of this recipe: there is nothing to repair."""

    exit_code = 2


class SaveError(CheckpointError):
    """The checkpoint of ``step`` could not be written."""

    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message)
        self.step = step


class DataError(CldError):
    """A data set is missing or not in the expected form."""


class WrongSourceError(DataError):
    """What a command was given as data, or as the place for them, is something else: there is
    nothing to repair."""

    exit_code = 2


class LabelCountError(DataError):
    """There are more or fewer labels than examples, so they cannot be matched."""


class LeaseHeldError(CldError):
    """Another live job writes into this run folder."""


class LeaseLostError(CldError):
    """This process was taken for dead and another job owns the run folder now."""


class NonFiniteError(CldError):
    """The loss or the gradient became infinite or not a number."""


class UnusableSamplesError(CldError):
    """Too many samples are not finite for results to be based on them. Another start would draw the
    same ones."""


class SolverError(CldError):
    """An adaptive solver could not reach the asked tolerance."""


class UnfitError(CldError):
    """This machine, or one of the others, failed a health check before training.

    Attributes:
        check: the name of the check.
        hosts: the machines that failed, by rank; the rank that checked itself if it is alone, empty
            if nobody knows.
    """

    def __init__(self, message: str, check: str, hosts: Mapping[int, str]) -> None:
        super().__init__(message)
        self.check, self.hosts = check, hosts
