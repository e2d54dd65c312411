"""Time from `cldctl resume` of a killed run to its first new step, locally. `python -m benchmarks resume`."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.harness import Report, Row, Settings
from cld_core.run import RunFolder
from cld_core.run.events import Started
from cldctl.clusters import this_machine

ROOT = Path(__file__).parents[1]


def topic(settings: Settings) -> Report:
    report = Report(topic="resume", title="toy run, SIGKILL, then `cldctl resume` (local executor, one rank)")
    ranges: dict[str, list[float]] = {
        "cldctl resume returns": [],
        "the attempt begins": [],
        "first new step saved": [],
    }
    rounds = 1 if settings.quick else min(settings.rounds, 5)
    run = _start(settings.work / "runs")
    try:
        for _ in range(rounds):
            for name, value in zip(ranges, _killed_and_resumed(run), strict=True):
                ranges[name].append(value)
    finally:
        _kill(run)
    for name, seconds in ranges.items():
        report.rows.append(Row(name=name, seconds=sorted(seconds)[len(seconds) // 2], best=min(seconds)))
    floor = [
        _seconds([sys.executable, "-c", text]) for text in ("pass", "import torch", "import torch.utils.tensorboard")
    ]
    report.notes.append(
        f"limits: Python starts in {floor[0]:.2f} s, with torch in {floor[1]:.2f} s, with torch's TensorBoard in "
        f"{floor[2]:.2f} s; a job runs two such processes one after the other (submitit's and the rank)"
    )
    return report


def _killed_and_resumed(run: RunFolder) -> tuple[float, float, float]:
    """Seconds from the start of `cldctl resume` to its exit, the start of the attempt, and its first checkpoint."""
    _kill(run)
    last = run.checkpoint_steps()[-1]
    begin = time.time()
    _cldctl(run.path.parent, "resume", run.name, "--cluster", "local")
    typed = time.time() - begin
    started = _wait(lambda: _started(run, begin)) - begin
    _wait(lambda: run.checkpoint_steps()[-1:] > [last])
    return typed, started, time.time() - begin


def _start(runs: Path) -> RunFolder:
    small = ["network.width=16", "train.batch_size=16", "train.checkpoint_every=1", "train.steps=10000000"]
    name = _cldctl(runs, "submit", str(ROOT / "recipes" / "toy.yaml"), *small, "--cluster", "local").strip()
    run = RunFolder.open(runs / name)
    _wait(lambda: run.checkpoint_steps())
    return run


def _cldctl(runs: Path, *arguments: str) -> str:
    environment = {**os.environ, "CLDCTL_RUNS": str(runs), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "cldctl", *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def _kill(run: RunFolder) -> None:
    """Send SIGKILL to all processes of the run's job."""
    controller = this_machine.find(run.ledger.history().jobs[-1].job.details)
    if controller is None:
        return
    family = [controller, *controller.children(recursive=True)]
    for process in family:
        process.kill()
    psutil.wait_procs(family, timeout=30)


def _started(run: RunFolder, since: float) -> float | None:
    times = [event.time for event in run.ledger.events() if isinstance(event, Started)]
    return next((when for when in times if when >= since), None)


def _wait(what, timeout: float = 180.0):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        value = what()
        if value:
            return value
        time.sleep(0.01)
    raise TimeoutError("the run did not continue")


def _seconds(command: list[str]) -> float:
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - begin)
    return min(times)
