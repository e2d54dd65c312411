"""The preemption soak: a run on two nodes under random mishaps, on a real Slurm.

    python -m tests.slurm.soak --events 20 --seed 1

Ends with a table of what was done, what the ledger says about it and how many steps were lost. Exits with 1 if a
promise was broken: no checkpoint is lost, at most `checkpoint_every` steps are trained twice after an unannounced end
and none after an announced one, every cause is right, and no process is left behind.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cld_core.run import Attempt, RunFolder
from cld_core.run.events import Damaged, GivenUp, Started, TurnedAway
from tests.chaos.watch import mentioning

from .cluster import SlurmCluster
from .errors import SlurmTestError
from .lab import PLUGIN, Lab
from .mishaps import KILL_WAIT_S, Mishap, Scene, draw
from .polling import wait_until

# Seconds in which a job ends, is requeued and trains again, including back-off and on a busy machine.
RECOVERY_S = 240.0
NAME = "soak"


@dataclass
class Row:
    """One mishap; ``before`` is the last step reached, ``after`` the step from which the run continued."""

    mishap: Mishap
    when_s: float
    attempt: int
    before: int = 0
    after: int = 0
    cause: str | None = None

    @property
    def lost(self) -> int:
        return max(0, self.before - self.after)


class Watch:
    """Records, independently of the ledger, how far each attempt got and when each checkpoint was saved."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self.reached: dict[int, int] = {}
        self.saved: list[tuple[float, int]] = [(0.0, 0)]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def newest_at(self, moment: float) -> int:
        """The newest checkpoint ever seen until ``moment`` (seconds since 1970)."""
        return max(step for at, step in self.saved if at <= moment)

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            progress, steps = self._run.progress(), self._run.checkpoint_steps()
            if progress:
                attempt = int(progress["attempt"])
                self.reached[attempt] = max(self.reached.get(attempt, 0), int(progress["step"]))
            if steps and steps[-1] != self.saved[-1][1]:
                self.saved.append((time.time(), steps[-1]))


class Soak:
    """One run and what is done to it. ``orders``: the folder that CLDCTL_TEST_ORDERS names."""

    def __init__(self, lab: Lab, orders: Path, rng: random.Random, checkpoint_every: int = 200) -> None:
        self.lab, self.orders, self.rng, self.checkpoint_every = lab, orders, rng, checkpoint_every
        self.rows: list[Row] = []
        self.orphans: list[str] = []

    def run(self, mishaps: Sequence[Mishap], say: Callable[[str], None] = print) -> list[str]:
        """Do everything, print the table, and return every promise that was broken."""
        self.began = time.monotonic()
        self.lab.slurm.configure(kill_wait=KILL_WAIT_S, grace_time=15)
        self.folder = self.lab.submit(
            NAME, "data.name=misbehaving", f"data.plugin={PLUGIN}", f"train.checkpoint_every={self.checkpoint_every}"
        )
        self.watch = Watch(self.folder)
        try:
            for mishap in mishaps:
                self._apply(mishap, say)
            self._finish()
        finally:
            self.watch.stop()
            say(self.table())
        return self.broken()

    def _apply(self, mishap: Mishap, say: Callable[[str], None]) -> None:
        attempt = sum(row.mishap.cause is not None for row in self.rows)
        self._wait_for_steps(attempt, self.rng.randrange(5 * self.checkpoint_every // 2))
        row = Row(mishap, time.monotonic() - self.began, attempt)
        self.rows.append(row)
        job = self._attempts()[-1].job_id
        repair = mishap.do(Scene(self.lab, NAME, str(job), self.orders, self.rng))
        if mishap.cause is None:
            row.before = self.watch.reached[attempt]
            self._wait_for_steps(attempt, row.before - self._first_step(attempt) + 20)
            row.after = self.watch.reached[attempt]
        else:
            self._wait_for_steps(attempt + 1, 0)
            before, now = self._attempts()[attempt:]
            row.before = max(before.last_step or 0, self.watch.reached.get(attempt, 0), before.first_step)
            row.after, row.cause = now.first_step, before.cause
        if repair is not None:
            repair()
        say(f"{row.when_s:6.0f} s  {mishap.name}: {row.cause or '-'}, {row.before} -> {row.after}")

    def _finish(self) -> None:
        """Cancel the endless run, and resume it with few steps left."""
        attempt = sum(row.mishap.cause is not None for row in self.rows)
        self._wait_for_steps(attempt, 20)
        self.lab.cldctl("cancel", NAME)
        step = self.lab.ended(NAME, RECOVERY_S)["step"]
        self.lab.slurm.wait_idle(RECOVERY_S)
        self.lab.cldctl("resume", NAME, f"train.steps={step + 2 * self.checkpoint_every}")
        self.final = self.lab.ended(NAME, RECOVERY_S)
        self.lab.slurm.wait_idle(RECOVERY_S)
        self.orphans = mentioning(self.lab.runs)

    def _wait_for_steps(self, attempt: int, steps: int) -> None:
        """Until attempt number ``attempt``, the newest, has done ``steps`` steps."""

        def reached() -> bool:
            attempts = self._attempts()
            if len(attempts) > attempt + 1:
                raise SlurmTestError(f"attempt {attempt + 1} began unexpectedly: {attempts}")
            if len(attempts) <= attempt or attempts[-1].cause is not None:
                return False
            first = attempts[-1].first_step
            return steps == 0 or self.watch.reached.get(attempt, first) >= first + steps

        wait_until(
            reached, timeout=RECOVERY_S, what=f"step {steps} of attempt {attempt}", every=0.05,
            last_seen=lambda: f"{self.folder.ledger.path.read_text()}\n{self.lab.slurm.describe()}",
        )  # fmt: skip

    def _first_step(self, attempt: int) -> int:
        return self._attempts()[attempt].first_step

    def _attempts(self) -> tuple[Attempt, ...]:
        return self.folder.ledger.history().attempts

    def table(self) -> str:
        """What was done and how it ended, one line for each mishap."""
        head = ("event", "when", "expected", "found", "before", "after", "lost")
        body = [
            (
                *(row.mishap.name, f"{row.when_s:.0f} s", row.mishap.cause or "-", row.cause or "-"),
                *(str(row.before), str(row.after), str(row.lost)),
            )
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        lines = [
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in (head, *body)
        ]
        return "\n".join(line.rstrip() for line in lines)

    def broken(self) -> list[str]:
        """Every promise that was not kept."""
        problems = []
        for row in self.rows:
            allowed = 0 if row.mishap.announced else self.checkpoint_every
            if row.cause != row.mishap.cause:
                problems.append(f"attempt {row.attempt}, {row.mishap.name}: the ledger says {row.cause}")
            if row.lost > allowed:
                problems.append(f"attempt {row.attempt}, {row.mishap.name}: {row.lost} steps were trained twice")
        for event in self.folder.ledger.events():
            if isinstance(event, Started) and event.step != (newest := self.watch.newest_at(event.time)):
                problems.append(f"attempt {event.attempt} began at {event.step}, but {newest} was saved")
            if isinstance(event, Damaged | GivenUp | TurnedAway):
                problems.append(f"the ledger has {event}")
        ends = [attempt.cause for attempt in self._attempts()]
        done = [row.mishap.cause for row in self.rows if row.mishap.cause is not None]
        if ends != [*done, "cancelled", "finished"]:
            problems.append(f"the ledger's causes are {ends}")
        if self.final["state"] != "FINISHED" or self.final["step"] != self.final["steps"]:
            problems.append(f"the run did not finish: {self.final}")
        return problems + [f"left behind: {orphan}" for orphan in self.orphans]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.slurm.soak", description="The preemption soak.")
    parser.add_argument("--events", type=int, default=20, help="how many mishaps (default 20)")
    parser.add_argument("--seed", type=int, default=1, help="decides which ones, and when (default 1)")
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="cldctl-soak") as text, SlurmCluster() as slurm:
        orders = Path(text) / "orders"
        orders.mkdir()
        os.environ["CLDCTL_TEST_ORDERS"] = str(orders)
        soak = Soak(Lab(slurm, Path(text) / "runs"), orders, rng)
        try:
            broken = soak.run(draw(rng, options.events), say=lambda line: print(line, flush=True))
        except BaseException:
            print_logs(soak)
            raise
        if broken:
            print_logs(soak)
    print("\n".join([f"BROKEN: {problem}" for problem in broken] or ["Every promise was kept."]))
    return 1 if broken else 0


def print_logs(soak: Soak) -> None:
    """The ledger, and the ends of the logs."""
    for path in sorted([*soak.lab.runs.glob("*/attempts.jsonl"), *soak.lab.runs.glob("*/logs/*.err")]):
        print(f"--- {path.name}\n{path.read_text(errors='replace')[-6000:]}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
