"""Work on a checkpoint whose rows follow from those before them, in one shard: a tuning. Loads no torch or numpy.

shards/           the rows, see `state` and `files`
"""

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from cld_core.errors import NotFoundError
from cld_core.run import RunFolder

from . import state, tally
from .rows import Rows
from .work import Work

if TYPE_CHECKING:
    from cld_core.ranks import Ranks


class WorkOfRun(Work):
    """Work on one checkpoint of a run, in a folder of a folder of it, which it is called by.

    Attributes:
        computation: "module:Class" of the `compute.Computation` that computes its rows; it may load torch.
    """

    computation: ClassVar[str]

    def rows(self, kind: str) -> Rows:
        self._refuse()

    def computers(self, device: Any) -> NoReturn:
        self._refuse()

    def finish(self, task: Any) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise AssertionError("its rows are not chunks")

    @abstractmethod
    def made_of(self, *, strict: bool = False) -> Mapping[str, str]:
        """What rows have to come from for a shard to count: the request, and whatever else may be replaced.

        Args:
            strict: insist that all of it is there; otherwise what is gone is left out.

        Raises:
            NotFoundError: with ``strict``, something is gone.
        """

    @property
    def shards(self) -> Path:
        return self.folder / "shards"

    def missing(self) -> list[int]:
        """The shards that are not complete. This is the one definition of complete (`state.is_complete`)."""
        made_of, begun = self.made_of(), state.begun(self.shards)
        return [
            shard
            for shard in range(self.request.shards)
            if shard not in begun or not state.is_complete(self.shards, shard, made_of, self.request.ranges(shard))
        ]

    def complete(self) -> frozenset[int]:
        """The shards that seem complete, from one look into their folder: for counting, often and by many.

        A file that was cut short is not noticed; `missing`, which reads every state, notices.
        """
        try:
            made_of = self.made_of(strict=True)
        except NotFoundError:
            return frozenset(range(self.request.shards)) - frozenset(self.missing())
        return tally.look(self.shards, self.request.shards, self.request.sizes, made_of).complete

    def rows_done(self) -> tuple[int, int]:
        """How many rows are computed, and how many there are in all."""
        sizes = self.request.sizes
        total = sum(sizes.values())
        if self.is_done:
            return total, total
        return tally.rows(self.shards, self.request.shards, sizes, self.made_of()), total

    def compute(
        self,
        ranks: "Ranks",
        should_stop: Callable[[], bool] = lambda: False,
        only: Collection[int] | None = None,
    ) -> bool:
        """Compute the missing ones of this process's shards; loads torch.

        The process that finds all shards complete merges them.

        Args:
            ranks: without ``only``, rank r of n takes the shards r, r + n, r + 2 n, ...
            should_stop: asked before every batch.
            only: the shards of this process.

        Returns:
            False if it was asked to stop before its share was done.

        Raises:
            CldError: what is needed is gone or has changed, or the shards do not fit together.
        """
        from .compute import compute

        return compute(self, ranks, should_stop, only)

    def begun(self) -> frozenset[int]:
        return frozenset(state.begun(self.shards))

    def moved_at(self) -> float | None:
        try:
            return self.shards.stat().st_mtime
        except OSError:
            return None

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.folder.parent.parent)

    @property
    def name(self) -> str:
        return self.folder.name

    def gone(self, step: int, fix: str) -> NotFoundError:
        """What is raised if the checkpoint is not there any more; ``fix`` is a sentence without its full stop."""
        steps = ", ".join(map(str, self.run.checkpoint_steps())) or "none"
        return NotFoundError(f"{self.run.path}: no checkpoint of step {step} any more; there are: {steps}. {fix}.")
