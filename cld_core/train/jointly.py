"""What rank 0 alone does, such as writing, and fails on all ranks if it fails."""

from collections.abc import Callable

from cld_core.errors import CldError
from cld_core.ranks import Ranks


class RankError(CldError):
    """Rank 0 could not continue; its log says why."""


def on_first(ranks: Ranks, work: Callable[[], None]) -> None:
    """Let rank 0 do ``work`` while the others wait.

    Raises:
        RankError: it failed there, and this is another rank. On rank 0, what ``work`` raised.
    """
    problem: Exception | None = None
    if ranks.is_first:
        try:
            work()
        except (CldError, OSError) as error:
            problem = error
    message = ranks.from_first(None if problem is None else str(problem))
    if problem is not None:
        raise problem
    if message is not None:
        raise RankError(f"rank 0 could not continue: {message}")
