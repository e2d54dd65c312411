"""Computing what is missing of sharded work. A shard saves after every batch and resumes where it was interrupted."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

from cld_core.errors import IncompleteError
from cld_core.files import retried
from cld_core.imports import resolve

from . import state, tally
from .files import PATIENCE_S, Arrays, Sealed, Shard

if TYPE_CHECKING:
    from cld_core.ranks import Ranks

    from .sequence import WorkOfRun


class Computation(ABC):
    """How the rows of one work are computed, and what becomes of them.

    Args:
        device: where rows are computed, a `torch.device`.

    Raises:
        CldError: something that is needed is gone or damaged.
    """

    @abstractmethod
    def __init__(self, work: Any, device: Any) -> None: ...

    @classmethod
    def opened(cls, work: Any, device: Any, should_stop: Callable[[], bool], *, alone: bool) -> Self | None:
        """The computation of some work; None if it was asked to stop while it waited for what others make.

        Args:
            alone: this process computes all shards, so that nobody else needs what it reads.
        """
        return cls(work, device)

    @abstractmethod
    def prepare(self) -> None:
        """Load and check whatever computing rows needs, before the first one.

        Raises:
            CldError: something is gone or has changed.
        """

    @abstractmethod
    def rows(self, kind: str, first: int, last: int) -> Arrays:
        """The rows ``first <= i < last`` of a kind, arrays (last - first, ...); each a function of its index alone."""

    @abstractmethod
    def finish(self) -> None:
        """Make the product from complete shards. Doing it twice, even at the same time, changes nothing.

        Raises:
            MergeError: the shards do not fit together, or one is damaged.
        """

    def review(self, kind: str, rows: Arrays) -> None:
        """Look at rows that are saved, each once, before further ones are computed.

        Raises:
            CldError: they make the others pointless.
        """
        return

    def keeps_rows(self, kind: str) -> bool:
        """Whether a sealed shard keeps all rows of a kind, rather than a summary of them."""
        return True

    def condense(self, kind: str, rows: Arrays) -> Arrays:
        """What a sealed shard keeps of all its rows."""
        return rows

    def elsewhere(self, kind: str, first: int, last: int) -> Iterable[Sealed]:
        """Sealed shards of other work that hold some of these rows, ``first <= i < last``."""
        return ()


def compute(
    work: "WorkOfRun", ranks: "Ranks", should_stop: Callable[[], bool], only: Collection[int] | None = None
) -> bool:
    """See `WorkOfRun.compute`."""
    computation: Computation | None = None
    mine = range(ranks.rank, work.request.shards, ranks.world_size) if only is None else only
    alone = len(mine) >= work.request.shards
    for number in mine:
        made_of = retried(work.made_of, PATIENCE_S, stop=should_stop)
        ranges = work.request.ranges(number)
        if state.is_complete(work.shards, number, made_of, ranges):
            continue
        strictly = retried(lambda: work.made_of(strict=True), PATIENCE_S, stop=should_stop)
        shard = Shard(work.shards, number, ranges, strictly)
        if computation is None:
            computation = _opened(work, ranks, should_stop, alone)
            if computation is None:
                return False
            retried(computation.prepare, PATIENCE_S, stop=should_stop)
        shard.begin()
        if not _fill(shard, computation, work, should_stop):
            return False
        tally.mark(work.shards, number, strictly)
    return _merge(work, ranks, computation, should_stop)


def _merge(work: "WorkOfRun", ranks: "Ranks", computation: Computation | None, should_stop: Callable[[], bool]) -> bool:
    """Make the product, if all shards are complete; False if it was asked to stop before.

    Only a process that counts all of them looks at each: of a thousand tasks, the last ones.
    """
    shards = work.request.shards
    if not tally.all_begun(work.shards, shards) or work.is_done or len(work.complete()) < shards:
        return True
    if missing := work.missing():
        for number in missing:
            retried(functools.partial(tally.unmark, work.shards, number), PATIENCE_S, stop=should_stop)
        raise _incomplete(work, missing)
    computation = computation or _opened(work, ranks, should_stop, alone=True)
    if computation is None:
        return False
    retried(computation.finish, PATIENCE_S, stop=should_stop)
    return True


def _incomplete(work: "WorkOfRun", missing: Sequence[int]) -> IncompleteError:
    which = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
    what = "shard" if len(missing) == 1 else f"{len(missing)} shards,"
    text = f"not merged: files of {what} {which} are gone or cut short"
    return IncompleteError(f"{work.folder}: {text}. Re-run the same `{work.command}` to compute them again.")


def _opened(work: "WorkOfRun", ranks: "Ranks", should_stop: Callable[[], bool], alone: bool) -> Computation | None:
    kind: type[Computation] = resolve(work.computation)
    return retried(lambda: kind.opened(work, ranks.device, should_stop, alone=alone), PATIENCE_S, stop=should_stop)


def _fill(shard: Shard, computation: Computation, work: "WorkOfRun", should_stop: Callable[[], bool]) -> bool:
    """Compute and seal all rows of a shard; False if it was asked to stop before."""
    label = f"shard {shard.number} of {work.request.shards}"
    for kind in shard.ranges:
        if not shard.is_sealed(kind):
            _take_over(shard, computation, kind, label)
        rows, keep = functools.partial(computation.rows, kind), functools.partial(computation.condense, kind)
        review = functools.partial(computation.review, kind)
        if not shard.fill(kind, work.request.batch_size, rows, review, keep, should_stop, label):
            return False
    return True


def _take_over(shard: Shard, computation: Computation, kind: str, label: str) -> None:
    """Copy rows that other work has computed, so that none is computed twice.

    If sealed shards keep all their rows, any part of them can be used; otherwise only exactly the same range.
    """
    first, last = shard.ranges[kind]
    for other in sorted(
        computation.elsewhere(kind, first, last), key=lambda other: (other.first, other.last, str(other.folder))
    ):
        at, stop = first + shard.done(kind), min(other.last, last)
        part = computation.keeps_rows(kind)
        wanted = other.first <= at < stop if part else (other.first, other.last) == (first, last)
        arrays = other.load() if wanted else None
        if arrays is None:
            continue
        print(f"{label}: {kind} {stop - first}/{last - first}, taken from {other.folder.parent.name}", flush=True)
        if not part:
            shard.keep(kind, arrays)
            return
        shard.append(kind, {name: values[at - other.first : stop - other.first] for name, values in arrays.items()})
