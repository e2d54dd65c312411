"""How long the command line takes to answer, over 200 and 1,000 runs: `python -m benchmarks.cli`."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cld_core.recipe import load
from cld_core.run import RunFolder
from cld_core.run.atomic import write_json

ROOT = Path(__file__).parents[1]
REPEATS = 7


def make_runs(root: Path, count: int) -> None:
    """Finished runs of ten attempts and three checkpoints each, without the tensors."""
    recipe = load(ROOT / "recipes" / "toy.yaml")
    for number in range(count):
        run = RunFolder.create(root / f"run-{number:04d}", recipe, {"created": time.time(), "recipe": "toy"})
        job = {"job_id": str(number), "cluster": "local", "host": "elsewhere"}
        lines = [{"event": "requested", "steps": 1000}, {"event": "submitted", **job}]
        for attempt in range(10):
            end = {"cause": "finished" if attempt == 9 else "preempted", "step": 100 * attempt + 100}
            lines.append({"event": "started", "attempt": attempt, "step": 100 * attempt, "job_id": str(number)})
            lines.append({"event": "ended", "attempt": attempt, **end})
        text = "".join(json.dumps({"time": time.time(), **line}) + "\n" for line in lines)
        run.ledger.path.write_text(text)
        write_json(run.progress_file, {"attempt": 9, "step": 1000, "steps": 1000, "loss": 1.0, "time": time.time()})
        for step in (800, 900, 1000):
            write_json(run.checkpoint_file(step).with_suffix(".json"), {"step": step})


def seconds(arguments: list[str], root: Path) -> float:
    """Median wall time of the whole process."""
    command, environment = [sys.executable, "-m", "cldctl", *arguments], {**os.environ, "CLDCTL_RUNS": str(root)}
    times = []
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        subprocess.run(command, env=environment, check=True, capture_output=True)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "few", Path(folder) / "many"
        make_runs(few, 200)
        make_runs(many, 1000)
        found = {
            "--help": seconds(["--help"], few),
            "status, 200 runs": seconds(["status"], few),
            "status --json, 200 runs": seconds(["status", "--json"], few),
            "status, 1,000 runs": seconds(["status"], many),
        }
    for name, value in found.items():
        print(f"{name:26s} {value:.3f} s")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
