"""A run, many events, and after each of them the question whether every promise was kept."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from cld_core.checkpoint.tensors import load
from cld_core.run import Attempt, RunFolder
from tests.slurm.errors import SlurmTestError
from tests.slurm.polling import wait_until
from tests.support.tools import same

from .events import OVER, PATIENCE_S, Event, Scene
from .record import Record, Row
from .stage import RANKS, Stage
from .watch import Watch, mentioning, not_whole, ranks_of, sign_of_life

NAME = "chaos"
# Steps after which a run counts as training again.
STEPS = 20
# Steps between two events, at most.
MOST_STEPS = 500
# Heartbeats of a lease come every 5 seconds.
LEASE_S = 60.0


class Campaign:
    """One run and what is done to it."""

    def __init__(self, stage: Stage, rng: random.Random) -> None:
        self.stage, self.rng, self.record = stage, rng, Record(checkpoint_every=100)

    def run(self, events: Sequence[Event], say: Callable[[str], None] = print) -> list[str]:
        """Do everything, print the table, and return every promise that was broken."""
        self.began = time.monotonic()
        endless = (f"train.checkpoint_every={self.record.checkpoint_every}", "train.steps=100000000")
        self.folder = self.stage.submit(NAME, *endless, **self.stage.faults.environment())
        self.watch = Watch(self.folder, self.record)
        try:
            for event in events:
                self._apply(event, say)
            self._finish(say)
        finally:
            self.stage.faults.calm()
            self.watch.stop()
            say(self.record.table())
        self.record.ledger = self.folder.ledger.events()
        return self.record.broken()

    def _apply(self, event: Event, say: Callable[[str], None]) -> None:
        self._train(self.rng.randrange(min(2 * self.record.checkpoint_every, MOST_STEPS)))
        first = self._attempts()[-1].attempt
        row = Row(
            event.name, event.causes, announced=event.announced, saves=event.saves, strict=event.strict,
            attempt=first, when_s=time.monotonic() - self.began,
        )  # fmt: skip
        self.record.rows.append(row)
        noted = len(self.record.noted)
        scene = Scene(self.stage, NAME, str(self._attempts()[-1].job_id), self.rng, self._note)
        repair = event.do(scene)
        # What comes late, as a preemption does, is waited for.
        least = first if None in event.causes else first + 1
        self._train(STEPS, since=dict(self.watch.reached), ends=event.ends, least=least)
        if repair is not None:
            repair()
        if self.stage.lab is not None:
            self.stage.lab.slurm.restore_nodes()
        attempts = [attempt for attempt in self._attempts() if attempt.attempt >= first]
        row.found = tuple(attempt.cause for attempt in attempts[:-1]) or (None,)
        before = [self.watch.reached.get(attempt.attempt, 0) for attempt in attempts[:-1]]
        row.before = max([*before, *(attempt.last_step or 0 for attempt in attempts[:-1])], default=0)
        row.after = attempts[-1].first_step if len(attempts) > 1 else 0
        if len(attempts) == 1:
            row.before = row.after = self.watch.reached[first]
        self._check(scene, event)
        say(str(row))
        for problem in self.record.noted[noted:]:
            say(f"  BROKEN: {problem}")

    def _check(self, scene: Scene, event: Event) -> None:
        """What has to be true whenever the run trains again."""
        for problem in not_whole(self.folder):
            self._note(problem)
        row, last = scene.look(), self._attempts()[-1]
        if row["state"] != "RUNNING" or row["attempts"][-1]["attempt"] != last.attempt:
            self._note(
                f"status says {row['state']} ({row.get('reason')}) of a run that trains in attempt {last.attempt}"
            )
        # A checkpoint may be later than the last report.
        if row.get("step", 0) > max(*self.watch.reached.values(), row.get("checkpoint_step") or 0):
            self._note(f"status says step {row['step']}, which was not reached")
        if event.strict:
            before = sign_of_life(self.folder)
            try:
                wait_until(lambda: sign_of_life(self.folder) != before, timeout=LEASE_S, what="the lease to be renewed")
            except SlurmTestError:
                self._note("the lease is not renewed any more, though the run trains")

    def _train(self, steps: int, *, since: dict[int, int] | None = None, ends: bool = False, least: int = 0) -> None:
        """Until the newest attempt, of number ``least`` or more, has done so many steps, ``since`` some moment.

        A run that ended is resumed: where its cluster starts it again, that is a broken promise.
        """
        moved = time.monotonic()
        seen: tuple[int, int] | None = None
        resumed = 0

        def trains() -> bool:
            nonlocal moved, seen, resumed, ends
            attempts = self._attempts()
            if attempts and attempts[-1].cause is None:
                number, first = attempts[-1].attempt, attempts[-1].first_step
                step = self.watch.reached.get(number, first)
                enough = max(first, (since or {}).get(number, first)) + steps
                if number >= least and step >= enough and self._is_alone():
                    return True
                if seen != (number, step):
                    seen, moved = (number, step), time.monotonic()
            if time.monotonic() - moved < 3.0:
                return False
            moved = time.monotonic()
            row = self.stage.status(NAME)
            if row["state"] in OVER and not ranks_of(self.folder):
                if self.stage.comes_back and not ends:
                    self._note(f"the run ended and did not come back: {row['state']}, {row.get('reason')}")
                ends = False
                done = self.stage.cldctl("resume", NAME, **self.stage.faults.environment())
                resumed += 1
                if done.returncode != 0:
                    self._note(f"resume ended with {done.returncode}: {done.stderr[-1500:]}")
                if resumed > 3:
                    raise SlurmTestError(f"resumed {resumed} times in vain: {done.stderr}\n{self.stage.describe()}")
            return False

        wait_until(
            trains, timeout=PATIENCE_S, what="the run to train again", every=0.05,
            last_seen=lambda: f"{self.stage.status(NAME)}\n{self.stage.describe()}",
        )  # fmt: skip

    def _is_alone(self) -> bool:
        """Whether each rank is one process, and none is left of earlier attempts."""
        ranks = ranks_of(self.folder)
        return sorted(ranks) == list(range(RANKS)) and all(len(processes) == 1 for processes in ranks.values())

    def _finish(self, say: Callable[[str], None]) -> None:
        """Cancel the endless run, resume it with few steps left, and compare it with one that nothing happened to."""
        self._train(STEPS)
        self._must("cancel", NAME)
        step = self._ended(NAME)["step"]
        steps = f"train.steps={step + min(2 * self.record.checkpoint_every, MOST_STEPS)}"
        self._must("resume", NAME, steps)
        self.record.final = self._ended(NAME)
        say(f"{time.monotonic() - self.began:6.0f} s  the same without events, {steps}")
        whole = self.stage.submit("twin", f"train.checkpoint_every={step}", steps, CLDCTL_TEST_PACE="0")
        assert self._ended("twin")["state"] == "FINISHED"
        self.record.same = same(*(load(run, run.checkpoint_steps()[-1]) for run in (self.folder, whole)))
        if self.stage.lab is not None:
            # One that the last event took away may have been declared down since.
            self.stage.lab.slurm.restore_nodes()
            self.stage.lab.slurm.wait_idle(PATIENCE_S)
        self.record.orphans = self._orphans()

    def _orphans(self) -> list[str]:
        left: list[str] = []

        def none() -> bool:
            left[:] = mentioning(self.stage.runs)
            return not left

        with contextlib.suppress(SlurmTestError):
            wait_until(none, timeout=30, what="the end of all processes")
        return left

    def _must(self, *arguments: str) -> None:
        done = self.stage.cldctl(*arguments)
        assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}\n{self.stage.describe()}"

    def _ended(self, name: str) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def over() -> bool:
            seen.update(self.stage.status(name))
            return seen["state"] in OVER and not ranks_of(RunFolder(self.stage.runs / name))

        wait_until(over, timeout=2 * PATIENCE_S, what=f"{name} to end", every=0.5, last_seen=self.stage.describe)
        return seen

    def _attempts(self) -> tuple[Attempt, ...]:
        return self.folder.ledger.history().attempts

    def _note(self, problem: str) -> None:
        row = len(self.record.rows) - 1
        name = self.record.rows[row].name if self.record.rows else "before the first"
        self.record.noted.append(f"event {row}, {name}: {problem}")
