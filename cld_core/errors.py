"""The errors that a user meets. Every message names the thing, the place and, last, the fix."""


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
