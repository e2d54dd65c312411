"""`cldctl status` with 1,000 runs, 50 of them alive on a real Slurm: `python -m benchmarks.status_slurm` (as root)."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from cld_core.run import RunFolder
from cld_core.run.events import Event, JobRef, Started, Submitted
from cld_core.run.ledger import to_line
from tests.slurm.cluster import SlurmCluster

from .cli import REPEATS, make_runs

RUNS, ALIVE = 1000, 50


def put_on_slurm(root: Path, slurm: SlurmCluster) -> None:
    """Move the runs to Slurm: the first ones wait or run there; Slurm has forgotten the jobs of the others."""
    for number, folder in enumerate(sorted(root.iterdir())):
        run = RunFolder(folder)
        job = slurm.sbatch("--partition=low", "--ntasks=1", wrap="sleep 600") if number < ALIVE else str(10**6 + number)
        events = [_moved(event, job) for event in run.ledger.events()]
        kept = events[:-1] if number < ALIVE else events
        run.ledger.path.write_text("".join(f"{to_line(event)}\n" for event in kept))


def _moved(event: Event, job: str) -> Event:
    if isinstance(event, Submitted):
        return replace(event, job=JobRef(cluster="slurm", job_id=job, restarts=True))
    return replace(event, job_id=job) if isinstance(event, Started) else event


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, SlurmCluster() as slurm:
        root = Path(folder)
        make_runs(root, RUNS)
        put_on_slurm(root, slurm)
        environment = {**os.environ, **slurm.env, "CLDCTL_RUNS": folder, "CLDCTL_ASK_EVERY_S": "0"}
        command, times = [sys.executable, "-m", "cldctl", "status", "--json"], []
        for _ in range(REPEATS + 1):
            begin = time.perf_counter()
            text = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            times.append(time.perf_counter() - begin)
        states = [row["state"] for row in json.loads(text)]
        alive = sum(state in ("PENDING", "RUNNING", "REQUEUED") for state in states)
        assert (len(states), alive) == (RUNS, ALIVE), f"{len(states)} runs, {alive} alive"
        result = {"status --json, 1,000 runs, 50 alive on Slurm": statistics.median(times[1:])}
        print(json.dumps(result))


if __name__ == "__main__":
    main()
