"""Going back to the last good checkpoint with fresh noise when a loss or gradient explodes, a bounded number of times.

How often a checkpoint was gone back to stands in the ledger, so that a new attempt does not begin to count anew. As
soon as a later checkpoint is reached, there is new credit: a run that gets on is not given up.
"""

from collections.abc import Callable
from typing import Any

from cld_core import checkpoint
from cld_core.checkpoint import CheckpointWriter
from cld_core.errors import CldError, NonFiniteError
from cld_core.ranks import Ranks
from cld_core.recipe import Recipe
from cld_core.run import RunFolder

from .loop import Outcome

# (first step, rollbacks of the run so far) -> how a stretch of training ended.
Stretch = Callable[[int, int], Outcome]

# Attempts of a run stay far below.
_ROLLBACK_KEY = 1_000_000


def fresh(restart: int, rollbacks: int) -> int:
    """The key of the noise after ``rollbacks`` rollbacks of attempt ``restart``: shared with no other stretch."""
    return restart + _ROLLBACK_KEY * rollbacks


def guarded(
    stretch: Stretch,
    folder: RunFolder,
    recipe: Recipe,
    ranks: Ranks,
    writer: CheckpointWriter | None,
    *,
    attempt: int,
    first_step: int,
) -> Outcome:
    """Train by ``stretch``, and go back as often as allowed. For all ranks; ``writer`` is given on rank 0 alone.

    Raises:
        NonFiniteError: `train.max_rollbacks` from one checkpoint did not help.
    """
    step = first_step
    rollbacks = ranks.from_first(_count(folder.ledger.events()) if ranks.is_first else None)
    while True:
        try:
            return stretch(step, rollbacks)
        except NonFiniteError as error:
            target, problem = ranks.from_first(
                _go_back(folder, recipe, writer, attempt, error) if ranks.is_first else None
            )
            if problem is not None:
                raise NonFiniteError(problem) from error
            step, rollbacks = target, rollbacks + 1


def _go_back(
    folder: RunFolder, recipe: Recipe, writer: CheckpointWriter | None, attempt: int, error: NonFiniteError
) -> tuple[int, str | None]:
    """The step to go on from, noted in the ledger; or why that is no use."""
    try:
        if writer is not None:
            writer.wait()
        found, _ = checkpoint.newest_good(folder, recipe.model_digest())
    except CldError as trouble:
        return 0, f"{error} And there is no going back: {trouble}"
    target = found or 0
    before = _count(folder.ledger.events(), target)
    limit = recipe.train.max_rollbacks
    if before >= limit:
        fix = "Lower optim.lr, or `cldctl resume --from` an earlier step"
        return 0, f"{error} Going back to step {target} {before} times, with other noise each, did not help. {fix}."
    print(
        f"{error}\nback to step {target}, for the {before + 1}. time of at most {limit}, with fresh noise", flush=True
    )
    folder.ledger.append("rolled_back", attempt=attempt, to_step=target, reason=str(error)[:500])
    return target, None


def _count(events: list[dict[str, Any]], to_step: int | None = None) -> int:
    """Rollbacks so far: all, or those to one step."""
    return sum(event["event"] == "rolled_back" and to_step in (None, event.get("to_step")) for event in events)
