"""What is seen of a run from outside, and which promises that breaks. Pure: a scripted history can be judged, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cld_core.run.events import Ended, Event, GivenUp, Remarked, Started

# Seconds in which `status` has to answer.
STATUS_S = 60.0


@dataclass
class Row:
    """One event; ``before`` is the last step reached, ``after`` the step from which the run continued.

    Attributes:
        causes: those that the ledger may give, beside "killed" for what nobody knows; None if the attempt may survive.
        strict: whether not even "killed" is allowed.
        announced: whether the ranks were told in time, so that no step may be lost.
        saves: whether checkpoints could be written all the time.
        attempt: the one that it happened to.
    """

    name: str
    causes: Sequence[str | None]
    announced: bool = False
    saves: bool = True
    strict: bool = False
    attempt: int = 0
    when_s: float = 0.0
    before: int = 0
    after: int = 0
    found: tuple[str | None, ...] = ()

    @property
    def lost(self) -> int:
        return max(0, self.before - self.after)

    def __str__(self) -> str:
        found = ", ".join(cause or "-" for cause in self.found)
        return f"{self.when_s:6.0f} s  {self.name}: {found}, {self.before} -> {self.after}"


@dataclass(frozen=True)
class Begun:
    """An attempt that was seen to begin at ``step``, when ``saved`` was the newest step ever seen to be saved."""

    attempt: int
    step: int
    saved: int


@dataclass
class Record:
    """Everything that a campaign has seen.

    Attributes:
        writers: the attempts that wrote `progress.json`, in the order in which they were seen.
        ledger: its events at the end.
        noted: promises that were seen broken while it lasted.
        same: whether the run ended as its undisturbed twin; None before that is known.
        final: the status at the end.
    """

    checkpoint_every: int
    rows: list[Row] = field(default_factory=list)
    begun: list[Begun] = field(default_factory=list)
    writers: list[int] = field(default_factory=list)
    ledger: Sequence[Event] = ()
    noted: list[str] = field(default_factory=list)
    orphans: Sequence[str] = ()
    same: bool | None = None
    final: dict[str, Any] = field(default_factory=dict)

    def broken(self) -> list[str]:
        """Every promise that was not kept, a line each."""
        return [
            *self.noted, *self._of_rows(), *self._of_starts(), *self._of_writers(), *self._of_ledger(), *self._of_end()
        ]  # fmt: skip

    def _of_rows(self) -> list[str]:
        problems = []
        for number, row in enumerate(self.rows):
            where = f"event {number}, {row.name}"
            unknown = () if row.strict else ("killed",)
            if wrong := [cause for cause in row.found if cause not in (*row.causes, *unknown)]:
                problems.append(f"{where}: the ledger says {', '.join(map(str, wrong))}")
            allowed = 0 if row.announced else 2 * self.checkpoint_every
            if row.saves and row.lost > allowed:
                problems.append(f"{where}: {row.lost} steps were trained twice, from {row.after} to {row.before}")
        return problems

    def _of_starts(self) -> list[str]:
        return [
            f"attempt {it.attempt} began at {it.step}, but {it.saved} was saved"
            for it in self.begun
            if it.step < it.saved
        ]

    def _of_writers(self) -> list[str]:
        pairs = zip(self.writers, self.writers[1:], strict=False)
        return [f"attempt {late} wrote its progress after attempt {early}" for early, late in pairs if late < early]

    def _of_ledger(self) -> list[str]:
        problems, newest = [], -1
        for event in self.ledger:
            if isinstance(event, Started):
                if event.attempt <= newest:
                    problems.append(f"attempt {event.attempt} began after attempt {newest}")
                newest = max(newest, event.attempt)
            if isinstance(event, Ended) and event.attempt < newest:
                problems.append(f"attempt {event.attempt} noted its end after attempt {newest} had begun")
            if isinstance(event, Remarked) and event.kind == "damaged":
                problems.append(f"the checkpoint of {event.what} is damaged: {event.reason}")
            if isinstance(event, GivenUp):
                problems.append(f"the run was given up: {event.reason}")
        return problems

    def _of_end(self) -> list[str]:
        problems = [f"left behind: {orphan}" for orphan in self.orphans]
        if self.same is False:
            problems.append("the run ended with other numbers than its undisturbed twin")
        if self.final.get("state") != "FINISHED" or self.final.get("step") != self.final.get("steps"):
            problems.append(f"the run did not finish: {self.final}")
        return problems

    def table(self) -> str:
        """What was done and how it ended, one line for each event."""
        return "\n".join(map(str, self.rows))
