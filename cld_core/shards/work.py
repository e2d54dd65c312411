"""Sharded work as its folder shows it: what is asked, what is there, what is missing. Loads no torch or numpy.

request.json      what is asked (`Request`)
jobs.jsonl        the ledger: which tasks were started, crashed or were cancelled
shards/           the rows, see `state` and `files`
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cld_core.errors import NotFoundError
from cld_core.run import RunFolder
from cld_core.run.ledger import Ledger

from . import state, tally
from .request import Request

if TYPE_CHECKING:
    from cld_core.ranks import Ranks


class Work(ABC):
    """One folder of sharded work.

    Attributes:
        request_type: the class of `request`.
        command: the command that continues it when it is run again, for messages.
        computation: "module:Class" of the `compute.Computation` that computes its rows; it may load torch.
        request: what is asked.
        called, doing, unit: what it is, what computing it is called, and what its rows are, for people who watch.

    Raises:
        NotFoundError: the folder has no request, or one that another version of cldctl wrote.
    """

    command: ClassVar[str]
    computation: ClassVar[str]
    request_type: ClassVar[type[Request]]
    called: ClassVar[str] = "work"
    doing: ClassVar[str] = "computing"
    unit: ClassVar[str] = "rows"
    request: Request

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.request = self.request_type.load(folder)

    @property
    @abstractmethod
    def name(self) -> str:
        """What people call it."""

    @property
    @abstractmethod
    def is_done(self) -> bool:
        """Whether the product exists and answers the present request."""

    @abstractmethod
    def made_of(self, *, strict: bool = False) -> Mapping[str, str]:
        """What rows have to come from for a shard to count: the request, and whatever else may be replaced.

        Args:
            strict: insist that all of it is there; otherwise what is gone is left out.

        Raises:
            NotFoundError: with ``strict``, something is gone.
        """

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "jobs.jsonl")

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

    def to_start(self) -> list[int]:
        """The shards that tasks are to be started for: those missing, or the first one, whose task merges.

        Empty if the work is done.
        """
        return [] if self.is_done else self.missing() or [0]

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


class WorkOfRun(Work):
    """Work on one checkpoint of a run, in a folder of a folder of it, which it is called by."""

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
