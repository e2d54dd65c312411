"""`cldctl status` with 5,000 runs on a disk that takes 2 ms for each file call: `python -m benchmarks.many_runs`.

Most runs ended long ago, some run here. The calls are counted, and delayed, by the shim of tests/chaos.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cld_core.config import load
from cld_core.files import write_json
from cld_core.run import Lease, RunFolder
from cld_core.run.events import Ended, Event, JobRef, Requested, Started, Submitted
from cld_core.run.ledger import to_line
from tests.chaos.shim import Faults

ROOT = Path(__file__).parents[1]
DAY_S = 24 * 3600.0
COMMANDS = (
    ("first time, nothing remembered", ["--json"]),
    ("as JSON", ["--json"]),
    ("as a table", []),
    ("filtered", ["--state", "RUNNING", "--sort", "loss"]),
    ("read again (--fresh)", ["--json", "--fresh"]),
)


def make_runs(root: Path, count: int, alive: int) -> list[Lease]:
    """Runs of the last year; the newest ``alive`` ones are trained by this process, until their leases are released."""
    recipe = load(ROOT / "recipes" / "toy.yaml")
    now, leases = time.time(), []
    for number in range(count):
        left = count - number
        is_alive = left <= alive
        begun = now - (600.0 if is_alive else 2 * DAY_S + 363 * DAY_S * left / count)
        run = RunFolder.create(root / f"run-{number:05d}", recipe, {"created": begun, "recipe": "toy", "user": "anna"})
        events = [*_events(str(number), begun)][: -1 if is_alive else None]
        run.ledger.path.write_text("".join(f"{to_line(event)}\n" for event in events))
        write_json(run.progress_file, {"attempt": 3, "step": 900, "steps": 1000, "loss": 1.0, "time": begun + 400.0})
        for step in (800, 900, 1000):
            write_json(run.checkpoint_file(step).with_suffix(".json"), {"step": step})
        if is_alive:
            leases.append(Lease.acquire(run.leases, job_id=str(number)))
        else:
            for path in (run.path, *run.path.iterdir()):
                os.utime(path, (begun + 500.0,) * 2)
    return leases


def _events(job_id: str, begun: float) -> list[Event]:
    job = JobRef(cluster="local", job_id=job_id, details={"host": "elsewhere", "pid": 1})
    events: list[Event] = [Requested(steps=1000, time=begun), Submitted(job=job, time=begun + 1.0)]
    for attempt in range(4):
        cause, step, at = "finished" if attempt == 3 else "preempted", 250 * attempt, begun + 100.0 * attempt
        events.append(Started(attempt=attempt, step=step, job_id=job_id, time=at + 2.0))
        events.append(Ended(attempt=attempt, cause=cause, step=step + 250, time=at + 90.0))
    return events


def timed(code: Path, root: Path, faults: Faults, cache: Path, *options: str) -> dict[str, float]:
    """Seconds, seconds of the processor, and file calls of one `cldctl status` of the packages in ``code``."""
    environment = {**os.environ, **faults.environment(), "CLDCTL_RUNS": str(root), "CLDCTL_CACHE": str(cache)}
    before, begin, used = faults.count("delayed"), time.perf_counter(), _cpu_s()
    command = [sys.executable, "-m", "cldctl", "status", "--all", *options]
    subprocess.run(command, env=environment, cwd=code, check=True, capture_output=True)
    seconds, cpu, calls = time.perf_counter() - begin, _cpu_s() - used, faults.count("delayed") - before
    return {"seconds": round(seconds, 2), "cpu": round(cpu, 2), "calls": calls}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--alive", type=int, default=50)
    parser.add_argument("--call-ms", type=float, default=2.0)
    parser.add_argument(
        "--code",
        type=Path,
        help="measure the cldctl in this folder instead, such as an earlier one; only the first command",
    )
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "runs", Path(folder) / "cache"
        root.mkdir()
        leases = make_runs(root, parsed.runs, parsed.alive)
        faults = Faults(Path(folder) / "control", root)
        faults.be_slow(parsed.call_ms / 1000)
        for what, options in COMMANDS[: 1 if parsed.code else None]:
            numbers = timed(parsed.code or ROOT, root, faults, cache, *options)
            print(json.dumps({"status": what, **numbers}), flush=True)
        for lease in leases:
            lease.release()


if __name__ == "__main__":
    main()
