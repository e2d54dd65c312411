"""Calls to the scheduler in a day of a lab: 1,000 runs of five people. `python -m benchmarks citizen`.

The scheduler and the clock are made up; what decides whether to ask is the code of cldctl itself.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

from benchmarks.harness import Report, Row, Settings
from cld_core.run.events import JobRef
from cld_core.run.history import Attempt
from cld_core.stop import StopCode
from cldctl.clusters.slurm import client, poll
from cldctl.clusters.slurm.client import Answer
from cldctl.clusters.slurm.cluster import SlurmCluster, SlurmJob
from cldctl.runs import cancel
from cldctl.runs.survey import TO_LOOK_S

USERS, RUNS, DAY_S, TICK_S = 5, 1000, 24 * 3600, 10
# Commands that go on, and ask again and again.
FOLLOWING = ("status --watch", "logs -f", "submit --follow", "eval --follow")
CANCEL_TAKES_S = 12.0
# A job that has ended is shown for so long; of so many, the ledger does not say how they ended.
MIN_JOB_AGE_S, SILENT = 300.0, 0.1
INTERRUPTIONS = 3  # of a run
KINDS = (*FOLLOWING, "status", "cancel", "resume", "jobs")


@dataclass
class Clock:
    now: float = 0.0

    def time(self) -> float:
        return 1e9 + self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Calls:
    """Calls by minute of the day and kind of command."""

    clock: Clock
    by: Counter[tuple[int, str]] = field(default_factory=Counter)

    def add(self, kind: str) -> None:
        self.by[int(self.clock.now // 60), kind] += 1

    def per_minute(self, kind: str | None = None) -> tuple[float, int]:
        """Mean and maximum over the day."""
        minutes: Counter[int] = Counter()
        for (minute, name), count in self.by.items():
            if kind in (None, name):
                minutes[minute] += count
        return minutes.total() / (DAY_S / 60), max(minutes.values(), default=0)


class Person:
    """One user with their jobs, on a machine of their own."""

    def __init__(self, rng: random.Random, number: int, runs: int) -> None:
        self.memory = poll.Memory(None)
        self.jobs: dict[str, tuple[float, float, bool]] = {}
        for run in range(runs):
            begin = rng.uniform(-DAY_S, DAY_S)
            self.jobs[str(10_000 * (number + 1) + run)] = (
                begin,
                begin + rng.uniform(1, 12) * 3600,
                rng.random() < SILENT,
            )

    def queue(self, now: float) -> str:
        shown = (
            f"{job}|{'RUNNING' if now < end else 'COMPLETED'}|n1|None\n"
            for job, (begin, end, _) in self.jobs.items()
            if begin <= now < end + MIN_JOB_AGE_S
        )
        return "".join(shown)

    def poll(self, now: float, max_age_s: float, jobs: list[str] | None = None) -> None:
        chosen = [job for job in jobs or self.jobs if self.jobs[job][0] <= now]
        settled = [job for job in chosen if self.jobs[job][1] <= now and not self.jobs[job][2]]
        poll.survey(*([JobRef(cluster="slurm", job_id=job) for job in some] for some in (chosen, settled)), max_age_s)


def plan(rng: random.Random, person: Person) -> Iterator[tuple[str, float, float]]:
    """What somebody does: kind, begin and end of a command, in seconds of the day."""
    yield "status --watch", 0.0, float(DAY_S)
    yield "status --watch", 9 * 3600.0, 17 * 3600.0
    for kind, count, hours in (("logs -f", 3, 1.0), ("submit --follow", 5, 2.0), ("eval --follow", 10, 1 / 3)):
        for _ in range(count):
            begin = rng.uniform(8, 18) * 3600
            yield kind, begin, begin + hours * 3600
    for kind, count in (("status", 60), ("cancel", 10), ("resume", 5)):
        for _ in range(count):
            begin = rng.uniform(8, 18) * 3600
            yield kind, begin, begin


def _cancel_looks() -> list[float]:
    """When `cancel` asks, seconds after the first time, about jobs that take a while to end."""
    looks, pause = [0.0], SlurmCluster.question_s
    while looks[-1] < CANCEL_TAKES_S:
        looks.append(looks[-1] + pause)
        pause = min(pause * cancel._SLOWER, cancel._LONGEST_S)
    return looks


def lab(rng: random.Random, runs: int) -> Calls:
    """The calls of a day."""
    clock = Clock()
    calls = Calls(clock)
    people = [Person(rng, number, runs // USERS) for number in range(USERS)]
    steps: list[tuple[float, int, str]] = []
    for number, person in enumerate(people):
        for kind, begin, end in plan(rng, person):
            if kind in FOLLOWING:
                ticks = range(int(begin), int(min(end, DAY_S)), TICK_S)
                steps += [(float(tick), number, kind) for tick in ticks]
            else:
                steps.append((begin, number, kind))
    steps += [(_interrupted(rng), -1, "jobs") for _ in range(runs * INTERRUPTIONS)]
    current: list[Person] = []
    kinds: list[str] = []

    def run(command: list[str], stdin: str = "") -> Answer:
        calls.add(kinds[0])
        return Answer(0, current[0].queue(clock.now) if current and "--me" in command else "")

    with made_up(clock, run, current):
        for when, number, kind in sorted(steps):
            clock.now, kinds[:], current[:] = when, [kind], people[number : number + 1] if number >= 0 else []
            if kind == "jobs":
                _interruption(rng)
            else:
                _command(kind, current[0], clock)
    return calls


def _command(kind: str, person: Person, clock: Clock) -> None:
    alive = [job for job, (begin, end, _) in person.jobs.items() if begin <= clock.now < end]
    if kind == "status" or kind in FOLLOWING:
        person.poll(clock.now, TO_LOOK_S)
    elif kind == "cancel" and alive:
        began = clock.now
        for look in _cancel_looks():
            clock.now = began + look
            person.poll(clock.now, 0.0, alive[:1])
    elif kind == "resume":
        person.poll(clock.now, 0.0)
        for _ in range(10):
            person.poll(clock.now, TO_LOOK_S)


def _interrupted(rng: random.Random) -> float:
    """Most interruptions come one by one; every fifth in two waves of preemption."""
    if rng.random() < 0.2:
        return rng.choice((10.0, 15.0)) * 3600 + rng.uniform(0, 300)
    return rng.uniform(0, DAY_S)


def _interruption(rng: random.Random) -> None:
    """What a job asks by itself: why it has to end, to be requeued, and when it is back, why it had ended."""
    job = SlurmJob(cluster=SlurmCluster(), ref=JobRef(cluster="slurm", job_id="7", logs="/nowhere"), node="n1")
    job.cause_of(StopCode.USR2, 0)
    job.requeue()
    if rng.random() < 0.3:  # Not everybody could say it in time.
        job.why_ended(Attempt(attempt=0, job_id="7", time=0.0, step=0, log_offset=0))


@contextmanager
def made_up(clock: Clock, run: object, current: list[Person]) -> Iterator[None]:
    def memory() -> poll.Memory:
        return current[0].memory

    with (
        mock.patch.object(client, "run", run),
        mock.patch.object(poll, "time", clock),
        mock.patch.object(poll, "memory_of_this_user", memory),
        mock.patch.dict(os.environ, {"SLURM_JOB_ID": "7"}),
    ):
        os.environ.pop("CLDCTL_ASK_EVERY_S", None)
        yield


def topic(settings: Settings) -> Report:
    runs = RUNS // 20 if settings.quick else RUNS
    calls = lab(random.Random(0), runs)
    report = Report(topic="citizen", title=f"calls to Slurm a minute: {runs} runs of {USERS} people, one day")
    for kind in (*KINDS, None):
        mean, most = calls.per_minute(kind)
        report.rows.append(Row(name=kind or "all", seconds=None, note=f"{mean:.2f} (at most {most})"))
    report.notes.append("mean and maximum over the minutes of the day")
    return report
