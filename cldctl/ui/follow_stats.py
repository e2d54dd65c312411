"""`cldctl data stats --follow`: until the statistics are there."""

import shutil
import time
from pathlib import Path

from cld_core.evaluation.stats_request import StatsRequest
from cld_core.run.atomic import read_json
from cldctl.cluster import launch

from .console import err, out
from .follow import POLL_S, SLURM_POLL_S, View, rows_done

# Seconds that jobs may take to end after their last line of work.
PATIENCE_S = 10.0


def follow_stats(request: StatsRequest) -> int:
    """Show how far statistics are until they are there; returns the exit code of docs/cli.md."""
    folder, file = request.folder, Path(request.output)
    try:
        with View() as view:
            while True:
                alive = is_alive(folder)
                there = request.is_done
                done = request.images if there else rows_done(folder)
                state = "FINISHED" if there else "RUNNING" if alive else "STOPPED"
                view.show(file.name, done, request.images, state, "images")
                if there or not alive:
                    break
                jobs = read_json(folder / "jobs.json") or []
                time.sleep(SLURM_POLL_S if any(job["cluster"] == "slurm" for job in jobs) else POLL_S)
    except KeyboardInterrupt:
        err.print("\nno longer watching; the job goes on. Type the same again to watch")
        return 130
    if not there:
        err.print(f"not complete; see {folder / 'logs'}, and type the same again to go on", soft_wrap=True)
        return 1
    clear(folder)
    out.print(request.output, markup=False, soft_wrap=True)
    return 0


def clear(folder: Path) -> None:
    """Remove what computing left, once no job writes its logs there any more."""
    deadline = time.monotonic() + PATIENCE_S
    while is_alive(folder) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if not is_alive(folder):
        shutil.rmtree(folder, ignore_errors=True)


def is_alive(folder: Path) -> bool:
    """Whether a job that computes in ``folder`` waits or runs."""
    jobs = read_json(folder / "jobs.json") or []
    look, _ = launch.look_for(jobs)
    waiting = ("pending", "running", "unknown")
    return any(look(job).phase in waiting for job in jobs if job["cluster"] != "debug")
