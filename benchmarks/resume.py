"""Time from `cldctl resume` of a killed run to its first new step, locally.

python -m benchmarks resume
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.cli import processes
from benchmarks.harness import Report, Row, Settings
from cld_core.run import RunFolder
from cld_core.run.events import Started
from cldctl.clusters import local_processes
from tests.support.tools import cldctl, wait_for


def topic(settings: Settings) -> Report:
    report = Report(
        topic="resume", title="toy run, SIGKILL, then `cldctl resume` (local executor, one rank)"
    )
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
        report.rows.append(
            Row(name=name, seconds=sorted(seconds)[len(seconds) // 2], best=min(seconds))
        )
    texts, work = ("pass", "import torch", "import torch.utils.tensorboard"), settings.work
    floor = [
        min(processes([sys.executable, "-c", text], work, 2, time.perf_counter)) for text in texts
    ]
    report.notes.append(
        f"limits: Python starts in {floor[0]:.2f} s, with torch in {floor[1]:.2f} s, with "
        f"torch's TensorBoard in {floor[2]:.2f} s; a job runs two such processes one after the "
        "other (submitit's and the rank)"
    )
    return report


def _killed_and_resumed(run: RunFolder) -> tuple[float, float, float]:
    """Seconds from the start of `cldctl resume` to its exit, the start of the attempt, and its
    first checkpoint."""
    _kill(run)
    last = run.checkpoint_steps()[-1]
    begin = time.time()
    cldctl("resume", run.name, "--cluster", "local", runs=run.path.parent)
    typed = time.time() - begin
    started = _wait(lambda: _started(run, begin)) - begin
    _wait(lambda: run.checkpoint_steps()[-1:] > [last])
    return typed, started, time.time() - begin


def _start(runs: Path) -> RunFolder:
    small = [
        "network.width=16",
        "train.batch_size=16",
        "train.checkpoint_every=1",
        "train.steps=10000000",
    ]
    name = cldctl("submit", "toy", *small, "--cluster", "local", runs=runs).stdout.strip()
    run = RunFolder.open(runs / name)
    _wait(lambda: run.checkpoint_steps())
    return run


def _kill(run: RunFolder) -> None:
    """Send SIGKILL to all processes of the run's job."""
    controller = local_processes.find(run.ledger.history().jobs[-1].job.details)
    if controller is None:
        return
    family = [controller, *controller.children(recursive=True)]
    for process in family:
        process.kill()
    psutil.wait_procs(family, timeout=30)


def _started(run: RunFolder, since: float) -> float | None:
    times = [event.time for event in run.ledger.events() if isinstance(event, Started)]
    return next((when for when in times if when >= since), None)


def _wait(what: Callable[[], Any]) -> Any:
    return wait_for(what, timeout=180.0, every=0.01)
