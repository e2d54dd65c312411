"""How long a checkpoint stops training, compared with a plain torch.save.

python -m benchmarks checkpoint
"""

import itertools
import time
from dataclasses import replace

import torch

from benchmarks import models
from benchmarks.harness import BASELINE, Report, Row, Settings, rows_of, seconds, synchronise
from benchmarks.limits import disk_bandwidth, memory_bandwidth
from cld_core.checkpoint import checkpoints
from cld_core.ranks import Ranks
from cld_core.run import RunFolder
from cld_core.train.step import Trainer

TARGET = 10.0


def topic(settings: Settings) -> Report:
    recipe = models.ncsnpp_recipe(settings.quick, f"data.path={settings.work}")
    trainer = Trainer(recipe, Ranks(device=torch.device(settings.device)))
    for parameter in trainer.net.parameters():  # creates the moments without a data set to train on
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimiser.step()
    synchronise(settings.device)
    folder = RunFolder.create(settings.work / "run", recipe, {"created": 0.0})
    writer = checkpoints(folder, keep=1)
    steps = itertools.count(1)
    calls = {
        BASELINE: lambda: torch.save(trainer.state_dict(), settings.work / "plain.pt"),
        "cldctl": lambda: writer.save(next(steps), trainer.state_dict()),
    }
    # Only the time of the training thread counts; the writer works in parallel.
    own = (
        settings
        if settings.clock is time.perf_counter
        else replace(settings, clock=time.thread_time)
    )
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(settings.rounds + 1):
        for name, call in calls.items():
            taken = seconds(call, own)
            writer.wait()
            if turn:  # the first turn allocates memory
                times[name].append(taken)
    size = (settings.work / "plain.pt").stat().st_size
    rows = rows_of(times, targets={"cldctl": TARGET})
    share = 100.0 / (rows[1].ratio or 1.0)
    rows[1] = replace(
        rows[1], target="<= 10 %", note=f"stops training for {share:.1f} % of torch.save"
    )
    whole = seconds(
        lambda: (calls["cldctl"](), writer.wait()), replace(settings, clock=time.perf_counter)
    )
    rows.append(
        Row(name="cldctl, until it is on the disk", seconds=whole, note="with checksum and fsync")
    )
    report = Report(
        topic="checkpoint",
        title=f"{size / 2**20:.0f} MiB: weights, average, two moments",
        rows=rows,
    )
    copy = 2 * size / memory_bandwidth(settings)
    disk = disk_bandwidth(settings.work, 2**22 if settings.quick else 2**28)
    report.notes.append(
        "cldctl copies while the next gradients are computed, and updates the weights afterwards"
    )
    report.notes.append(
        f"limits: a copy in memory takes {1e3 * copy:.0f} ms, write and fsync {size / disk:.2f} s"
    )
    return report
