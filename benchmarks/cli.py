"""How long the command line takes to answer with 200 and 1,000 runs.

python -m benchmarks cli
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.harness import Clock, Report, Row, Settings
from cld_core.config import load
from cld_core.files import write_json
from cld_core.run import RunFolder
from cld_core.run.events import Ended, Event, JobRef, Requested, Started, Submitted
from cld_core.run.ledger import to_line

ROOT = Path(__file__).parents[1]
REPEATS = 7


def make_runs(
    root: Path, count: int, begun: Callable[[int], float] = lambda number: time.time()
) -> list[RunFolder]:
    """Create finished runs with ten attempts and three checkpoints each, but without tensors.

    Args:
        begun: by its number, when a run was submitted, in seconds since 1970.
    """
    recipe, runs = load(ROOT / "recipes" / "toy.yaml"), []
    for number in range(count):
        at = begun(number)
        run = RunFolder.create(root / f"run-{number:05d}", recipe, {"created": at, "recipe": "toy"})
        run.ledger.path.write_text(
            "".join(f"{to_line(event)}\n" for event in _events(str(number), at))
        )
        write_json(
            run.progress_file,
            {"attempt": 9, "step": 1000, "steps": 1000, "loss": 1.0, "time": at + 400.0},
        )
        for step in (800, 900, 1000):
            write_json(run.checkpoint_file(step).with_suffix(".json"), {"step": step})
        runs.append(run)
    return runs


def _events(job_id: str, begun: float) -> Iterator[Event]:
    job = JobRef(cluster="local", job_id=job_id, details={"host": "elsewhere", "pid": 1})
    yield Requested(steps=1000, time=begun)
    yield Submitted(job=job, time=begun + 1.0)
    for attempt in range(10):
        cause = "finished" if attempt == 9 else "preempted"
        step = 100 * attempt
        at = begun + 40.0 * attempt
        yield Started(
            attempt=attempt, step=step, job_id=job_id, time=at + 2.0, ranks=1, gpus=0, cores=1
        )
        yield Ended(attempt=attempt, cause=cause, step=step + 100, time=at + 38.0)


def cldctl(arguments: list[str], root: Path, repeats: int, clock: Clock) -> list[float]:
    """Seconds that the whole process takes, ``repeats`` times."""
    return processes([sys.executable, "-m", "cldctl", *arguments], root, repeats, clock)


def processes(command: list[str], root: Path, repeats: int, clock: Clock) -> list[float]:
    environment = {**os.environ, "CLDCTL_RUNS": str(root), "PYTHONPATH": str(ROOT)}
    times = []
    for _ in range(repeats + 1):
        begin = clock()
        subprocess.run(command, env=environment, check=True, capture_output=True)
        times.append(clock() - begin)
    return times[1:]


def of_children() -> float:
    """CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def topic(settings: Settings) -> Report:
    few_runs, many_runs, repeats = (2, 4, 1) if settings.quick else (200, 1000, REPEATS)
    few, many, submitted = (settings.work / name for name in ("few", "many", "submitted"))
    # With --clock cpu, CPU seconds of the child processes. `submit` also waits for others, so it
    # needs a wall clock.
    clock = time.perf_counter if settings.clock is time.perf_counter else of_children
    make_runs(few, few_runs)
    make_runs(many, many_runs)
    job = [
        str(ROOT / "recipes" / "toy.yaml"),
        "train.steps=1",
        "network.width=8",
        "--cluster",
        "local",
    ]
    measured = [
        ("python -c pass", processes([sys.executable, "-c", "pass"], few, repeats, clock), None),
        ("--help", cldctl(["--help"], few, repeats, clock), 0.25),
        (f"status, {few_runs} runs", cldctl(["status"], few, repeats, clock), None),
        (
            f"status --json, {few_runs} runs",
            cldctl(["status", "--json"], few, repeats, clock),
            None,
        ),
        (f"status, {many_runs:,} runs", cldctl(["status"], many, repeats, clock), 1.0),
        ("submit", cldctl(["submit", *job], submitted, min(repeats, 3), time.perf_counter), 3.0),
    ]
    report = Report(topic="cli", title="from start to exit of the whole process")
    for name, times, limit in measured:
        target, met = (
            ("", None) if limit is None else (f"< {limit:g} s", statistics.median(times) < limit)
        )
        report.rows.append(
            Row(
                name=name, seconds=statistics.median(times), best=min(times), target=target, met=met
            )
        )
    return report
