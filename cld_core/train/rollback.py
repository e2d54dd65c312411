"""Rollbacks: when a loss or gradient explodes, continue from the last good checkpoint with fresh noise.

Their number is bounded. The ledger counts those to each checkpoint, so a new attempt does not start from zero.
Reaching a later checkpoint gives new credit: a run that makes progress is not given up.
"""

from collections.abc import Callable

from cld_core.checkpoint.files import newest_good, set_aside
from cld_core.config import Recipe
from cld_core.errors import CldError, NonFiniteError
from cld_core.ranks import Ranks
from cld_core.run import RunFolder, events, pending

from .loop import Outcome
from .saving import Saving

# (first step, rollbacks of the run so far) -> how a segment of training ended.
Segment = Callable[[int, int], Outcome]

# Runs have far fewer attempts.
_ROLLBACK_KEY = 1_000_000


def noise_key(attempt: int, rollbacks: int) -> int:
    """The key of the noise of ``attempt`` after ``rollbacks`` rollbacks; no other segment has the same."""
    return attempt + _ROLLBACK_KEY * rollbacks


def guarded(
    segment: Segment,
    folder: RunFolder,
    recipe: Recipe,
    ranks: Ranks,
    saving: Saving | None,
    *,
    attempt: int,
    first_step: int,
) -> Outcome:
    """Train in segments, and roll back as often as allowed. For all ranks; ``saving`` is given on rank 0 alone.

    Raises:
        NonFiniteError: `train.max_rollbacks` rollbacks to one checkpoint did not help.
    """
    step = first_step
    rollbacks = ranks.from_first(pending.history(folder.ledger).rollbacks() if ranks.is_first else None)
    while True:
        try:
            return segment(step, rollbacks)
        except NonFiniteError as error:
            target, problem = ranks.from_first(
                _roll_back(folder, recipe, saving, attempt, error) if ranks.is_first else None
            )
            if problem is not None:
                raise NonFiniteError(problem) from error
            step, rollbacks = target, rollbacks + 1


def _roll_back(
    folder: RunFolder, recipe: Recipe, saving: Saving | None, attempt: int, error: NonFiniteError
) -> tuple[int, str | None]:
    """The step to continue from, recorded in the ledger; or why rolling back is of no use."""
    try:
        if saving is not None:
            saving.abandon()
        newest, _ = newest_good(folder, recipe.model_digest())
        set_aside(folder, after=newest or 0)
    except (CldError, OSError) as trouble:
        return 0, f"{error} Rolling back is impossible: {trouble}"
    target = newest or 0
    before, limit = pending.history(folder.ledger).rollbacks(target), recipe.train.max_rollbacks
    if before >= limit:
        fix = "Lower optim.lr, or use `cldctl resume --from` with an earlier step"
        return 0, f"{error} {before} rollbacks to step {target}, each with fresh noise, did not help. {fix}."
    print(f"{error}\nrollback {before + 1} of at most {limit} to step {target}, with fresh noise", flush=True)
    pending.append(folder.ledger, events.RolledBack(attempt=attempt, to_step=target, reason=str(error)[:500]))
    return target, None
