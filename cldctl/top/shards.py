"""What is known of each shard of an evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cld_core.errors import CldError
from cld_core.evaluation.evaluation import Evaluation
from cld_core.run.events import Submitted
from cld_core.shards import state
from cldctl.clusters.records import Seen
from cldctl.runs.survey import Answers

ShardState = Literal["done", "running", "waiting", "failed", "missing"]
_LIVE = ("running", "suspended", "ending")


@dataclass(frozen=True)
class Shards:
    """The shards of an evaluation, in their order; ``entry`` is its row of ``status``."""

    entry: Mapping[str, Any]
    states: tuple[ShardState, ...]


def shards_of(work: Evaluation, entry: Mapping[str, Any], answers: Answers) -> Shards:
    """What became of each shard: by the files of the evaluation, and by what the launcher says of its jobs.

    A shard is failed if the job that was to compute it ended without it, and missing if none was started or somebody
    cancelled it.
    """
    number = work.request.shards
    if entry["state"] == "FINISHED":
        done_one: ShardState = "done"
        return Shards(entry, (done_one,) * number)
    try:
        done = work.complete()
    except (CldError, OSError):
        done = frozenset()
    history = work.ledger.history()
    begun = state.begun(work.shards)
    claims = _claims(history.submitted, number)

    def state_of(shard: int) -> ShardState:
        if shard in done:
            return "done"
        event = claims.get(shard)
        if event is None:
            return "missing"
        seen = answers.of(event.job)
        if entry["state"] == "STOPPED" or seen.is_gone:
            return "missing" if event.job.job_id in history.cancelled else "failed"
        return "running" if _computes(event, shard, seen, begun) else "waiting"

    return Shards(entry, tuple(map(state_of, range(number))))


def _claims(submitted: tuple[Submitted, ...], number: int) -> dict[int, Submitted]:
    """The newest job that was to compute each shard."""
    claims: dict[int, Submitted] = {}
    for event in submitted:
        wanted = range(number) if event.shards is None else event.shards
        claims.update(dict.fromkeys((shard for shard in wanted if 0 <= shard < number), event))
    return claims


def _computes(event: Submitted, shard: int, seen: Seen, begun: set[int]) -> bool:
    """Whether a task is at this shard: of several, it computes one after the other."""
    return seen.phase in _LIVE and (shard in begun or (event.shards is not None and len(event.shards) == 1))
