"""`cldctl status` with 5,000 runs on a disk that takes 2 ms for each file call.

    python -m benchmarks.many_runs

Most runs ended long ago, some run here. The calls are counted, and delayed, by the shim of
tests/chaos.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.cli import ROOT, make_runs, of_children
from cld_core.run import Lease
from tests.chaos.shim import Faults

DAY_S = 24 * 3600.0
COMMANDS = (
    ("first time, nothing remembered", ["--json"]),
    ("as JSON", ["--json"]),
    ("as a table", []),
    ("filtered", ["--state", "RUNNING", "--sort", "loss"]),
    ("read again (--fresh)", ["--json", "--fresh"]),
)


def make(root: Path, count: int, alive: int) -> list[Lease]:
    """Runs of the last year; the newest ``alive`` ones are trained by this process, until their
    leases are released."""
    now, ended = time.time(), count - alive

    def begun(number: int) -> float:
        return now - (
            600.0 if number >= ended else 2 * DAY_S + 363 * DAY_S * (count - number) / count
        )

    runs = make_runs(root, count, begun)
    for number, run in enumerate(runs[:ended]):
        for path in (run.path, *run.path.iterdir()):
            os.utime(path, (begun(number) + 500.0,) * 2)
    for run in runs[ended:]:
        *before, _ = run.ledger.path.read_text().splitlines(keepends=True)
        run.ledger.path.write_text("".join(before))
    return [
        Lease.acquire(run.leases, job_id=str(ended + number))
        for number, run in enumerate(runs[ended:])
    ]


def timed(root: Path, faults: Faults, cache: Path, *options: str) -> dict[str, float]:
    """Seconds, seconds of the processor, and file calls of one `cldctl status`."""
    environment = {
        **os.environ,
        **faults.environment(),
        "CLDCTL_RUNS": str(root),
        "CLDCTL_CACHE": str(cache),
    }
    before, begin, used = faults.control.delayed, time.perf_counter(), of_children()
    command = [sys.executable, "-m", "cldctl", "status", "--all", *options]
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
    seconds = time.perf_counter() - begin
    cpu = of_children() - used
    calls = faults.control.delayed - before
    return {"seconds": round(seconds, 2), "cpu": round(cpu, 2), "calls": calls}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--alive", type=int, default=50)
    parser.add_argument("--call-ms", type=float, default=2.0)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "runs", Path(folder) / "cache"
        root.mkdir()
        leases = make(root, parsed.runs, parsed.alive)
        faults = Faults(Path(folder) / "control", root)
        faults.be_slow(parsed.call_ms / 1000)
        for what, options in COMMANDS:
            numbers = timed(root, faults, cache, *options)
            print(json.dumps({"status": what, **numbers}), flush=True)
        for lease in leases:
            lease.release()


if __name__ == "__main__":
    main()
