"""What a job computes in a folder of its own: an evaluation, statistics of a training set, a tuning. Loads no torch."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

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


class Work(Protocol):
    """Work in its folder, which jobs open again by its request (`cld_core.shards.open_work`)."""

    @property
    def folder(self) -> Path:
        """Where everything of it is, the logs of its jobs too."""

    @property
    def request(self) -> Request:
        """What is asked."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def command(self) -> str:
        """The command that continues it when it is run again, for messages."""

    @property
    def called(self) -> str:
        """What it is, for people who watch."""

    @property
    def doing(self) -> str:
        """What computing it is called, for people who watch."""

    @property
    def unit(self) -> str:
        """What its progress is counted in."""

    @property
    def ledger(self) -> Ledger:
        """Which tasks were started, crashed or were cancelled."""

    @property
    def is_done(self) -> bool:
        """Whether the product exists and answers the present request."""

    def to_start(self) -> list[int]:
        """The pieces that tasks are to be started for; empty if the work is done."""

    def rows_done(self) -> tuple[int, int]:
        """How much is computed, and how much there is in all."""

    def moved_at(self) -> float | None:
        """When something of it was last computed, seconds since 1970; None before the first."""

    def compute(
        self,
        ranks: "Ranks",
        should_stop: Callable[[], bool] = lambda: False,
        only: Collection[int] | None = None,
    ) -> bool:
        """Compute the missing ones of some pieces, and then the product; False if it was asked to stop before."""
