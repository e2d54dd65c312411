"""What a fleet of 64 tasks reads to evaluate one checkpoint. `python -m benchmarks fleet`.

Each task is a process of its own, which computes one shard; the last one merges.
"""

import dataclasses
import multiprocessing
import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import safetensors
import torch

from benchmarks.harness import Report, Row, Settings
from benchmarks.models import RECIPES
from cld_core import metrics as registry
from cld_core.config import load
from cld_core.evaluate.request import request_of
from cld_core.ranks import Ranks
from cld_core.run import RunFolder
from cld_core.run.evaluations import Evaluation
from cld_core.run.work import Training

SHARDS = 64
# 10.5 million weights: a checkpoint of 160 MiB, with the average and the two moments of the
# optimiser.
SIZE = ("network.width=1024", "network.layers=12")
# Weights of the small run that only tells which modules an evaluation imports.
TINY = ("network.width=8", "network.layers=2")
# The picture of samples is part of the merge, but not what is counted.
FAST = ("sampling.method=em", "sampling.nfe=2")
# A shard has one test point, which takes no time.
SHORT = {"loss": dataclasses.replace(registry.ROWS["loss"], chunk=1)}
# Tasks that run side by side.
AT_ONCE = 8


def topic(settings: Settings) -> Report:
    shards, size = (4, ("network.width=16",)) if settings.quick else (SHARDS, SIZE)
    with (
        mock.patch.dict(registry.ROWS, SHORT),
        mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}),
    ):
        trained(settings.work / "tiny", TINY, 2).compute(Ranks())
        work = trained(settings.work / "run", size, shards)
        # Tasks are forks of a process that knows nothing of the run, but has read all Python files.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            [name for name in sys.modules if not name.endswith("_main__")]
        )
        with context.Pool(AT_ONCE, maxtasksperchild=1) as pool:
            counts = sum(
                pool.imap_unordered(partial(task, work.folder), range(shards)), Counter[str]()
            )
    assert Evaluation(work.folder).report is not None, "the last task merges"
    state = torch.load(work.run.checkpoint_file(1), weights_only=True)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in state["model"].values())
    checkpoint = sum(file.stat().st_size for file in work.run.checkpoints.glob("step_00000001.*"))
    read = counts["read"] + shards * weights
    parts = (
        (
            f"{read / 2**20:,.0f} MiB read ({read / checkpoint:.1f} checkpoints of "
            f"{checkpoint / 2**20:,.0f} MiB)"
        ),
        f"{counts['opened']:,} files opened",
        f"{counts['listed']:,} listings",
    )
    report = Report(topic="fleet", title=f"{shards} tasks evaluate one checkpoint, a shard each")
    report.rows.append(Row(name="cldctl", seconds=None, note=", ".join(parts)))
    report.notes.append(
        "files and folders of the run; the weights that each task maps count as read once"
    )
    return report


def trained(folder: Path, overrides: tuple[str, ...], shards: int) -> Evaluation:
    """An evaluation of a run with one checkpoint, of which nothing is computed yet."""
    settings = ["train.steps=1", "train.batch_size=4", f"eval.points={shards}", *FAST, *overrides]
    run = RunFolder.create(folder, load(RECIPES / "toy.yaml", settings), {"created": 0.0})
    Training(run.path).compute(Ranks())
    return Evaluation(request_of(run.recipe(), ("loss",), 1, shards).save(run))


def task(folder: Path, shard: int) -> Counter[str]:
    """Compute one shard; files that were opened, folders that were listed, and bytes that were
    read."""
    counts: Counter[str] = Counter()
    runs = str(folder.parents[1])

    def seen(event: str, arguments: tuple[Any, ...]) -> None:
        name = (
            "opened"
            if event == "open"
            else "listed"
            if event in ("os.listdir", "os.scandir")
            else None
        )
        if (
            name
            and isinstance(arguments[0], str | os.PathLike)
            and os.fspath(arguments[0]).startswith(runs)
        ):
            counts[name] += 1

    # These open files without Python's knowledge.
    mapped = mock.patch.object(safetensors, "safe_open", side_effect=safetensors.safe_open)
    stored = mock.patch.object(
        torch.UntypedStorage, "from_file", side_effect=torch.UntypedStorage.from_file
    )
    with mapped as first, stored as second, mock.patch.dict(registry.ROWS, SHORT):
        before = _read_so_far()
        sys.addaudithook(seen)
        assert Evaluation(folder).compute(Ranks(), pieces=[shard]).is_done, (
            "it was not asked to stop"
        )
        counts["opened"] += first.call_count + second.call_count
    return counts + Counter(read=_read_so_far() - before)


def _read_so_far() -> int:
    """Bytes that read calls have returned to this process; what is mapped is not in it."""
    return int(Path("/proc/self/io").read_text().split()[1])
