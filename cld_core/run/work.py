"""What a job computes in a folder of its own: an evaluation, statistics of a training set, a tuning. Loads no torch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from .ledger import Ledger

if TYPE_CHECKING:
    from cld_core.ranks import Ranks


class Request(Protocol):
    """What is asked, `request.json`."""

    @property
    def shards(self) -> int:
        """How many pieces the work has, which tasks compute independently of each other."""

    @property
    def retries(self) -> int:
        """Crashes of one task after which it is not started again."""


class Work(ABC):
    """Work in its folder, which jobs open again by its request (`cld_core.shards.open_work`).

    Attributes:
        folder: where everything of it is, the logs of its jobs too.
        request: what is asked.
        command: the command that continues it when it is run again, for messages.
        called, doing, unit: what it is, what computing it is called, and what its progress is counted in, for people
            who watch.
    """

    command: ClassVar[str]
    called: ClassVar[str] = "work"
    doing: ClassVar[str] = "computing"
    unit: ClassVar[str] = "rows"
    folder: Path
    request: Request

    @property
    def name(self) -> str:
        """What people call it."""
        return self.folder.name

    @property
    def ledger(self) -> Ledger:
        """Which tasks were started, crashed or were cancelled."""
        return Ledger(self.folder / "jobs.jsonl")

    @property
    @abstractmethod
    def is_done(self) -> bool:
        """Whether the product exists and answers the present request."""

    @abstractmethod
    def to_start(self) -> list[int]:
        """The pieces that tasks are to be started for; empty if the work is done."""

    @abstractmethod
    def rows_done(self) -> tuple[int, int]:
        """How much is computed, and how much there is in all."""

    @abstractmethod
    def moved_at(self) -> float | None:
        """When something of it was last computed, seconds since 1970; None before the first."""

    @abstractmethod
    def compute(
        self,
        ranks: "Ranks",
        should_stop: Callable[[], bool] = lambda: False,
        only: Collection[int] | None = None,
    ) -> bool:
        """Compute the missing ones of some pieces, and then the product; False if it was asked to stop before."""
