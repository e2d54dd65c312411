"""The errors that a user meets. Every message names the thing, the place and, last, the fix."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, words: Iterable[str], cutoff: float = 0.6) -> str:
    """A sentence, after a space, that names the nearest of ``words``; empty where none is near."""
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=cutoff)
    return f" Did you mean '{close[0]}'?" if close else ""


class CldError(Exception):
    """Base of all errors that are somebody's to mend rather than ours; ``exit_code`` is for the shell."""

    exit_code = 1


class UsageError(CldError):
    """The command was put wrongly."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe, or an override of it, does not say something that can be run."""


class NotFoundError(CldError):
    """No such run, checkpoint or evaluation."""

    exit_code = 3


class CheckpointError(CldError):
    """A checkpoint is not what its name and checksum promise."""


class SaveError(CheckpointError):
    """The checkpoint of ``step`` could not be written."""

    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message)
        self.step = step


class DataError(CldError):
    """A data set is missing or is not in the form that it claims."""


class LeaseHeldError(CldError):
    """Another live job writes into this run folder."""


class LeaseLostError(CldError):
    """This process was taken for dead and another job owns the run folder now."""


class NonFiniteError(CldError):
    """The loss or the gradient became infinite or not a number."""


class SolverError(CldError):
    """An adaptive solver could not reach the asked tolerance."""
