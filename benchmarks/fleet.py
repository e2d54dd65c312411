"""What a fleet of 64 tasks reads to evaluate one checkpoint. `python -m benchmarks fleet`.

Each task is a process of its own, which computes one shard; the last one merges.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
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
from cld_core.stop import StopFlag
from cld_core.train import session

ROOT = Path(__file__).parents[1]
SHARDS = 64
# 10.5 million weights: a checkpoint of 160 MiB, with the average and the two moments of the optimiser.
SIZE = ("network.width=1024", "network.layers=12")
# Weights of the small run that only tells which modules an evaluation imports.
TINY = ("network.width=8", "network.layers=2")
# The picture of samples is part of the merge, but not what is counted.
FAST = ("sampling.method=em", "sampling.nfe=2")
# Tasks that run side by side.
AT_ONCE = 8


def topic(settings: Settings) -> Report:
    shards, size = (4, ("network.width=16",)) if settings.quick else (SHARDS, SIZE)
    # A process that starts others by forking has one thread.
    command = [sys.executable, "-m", "benchmarks.fleet", str(settings.work), str(shards), *size]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    counts = json.loads(subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, check=True).stdout)
    read, checkpoint = counts["read"] + shards * counts["weights"], counts["checkpoint"]
    parts = (
        f"{read / 2**20:,.0f} MiB read ({read / checkpoint:.1f} checkpoints of {checkpoint / 2**20:,.0f} MiB)",
        f"{counts['opened']:,} files opened",
        f"{counts['listed']:,} listings",
    )
    report = Report(topic="fleet", title=f"{shards} tasks evaluate one checkpoint, a shard each")
    report.rows.append(Row(name="cldctl", seconds=None, note=", ".join(parts)))
    report.notes.append("files and folders of the run; the weights that each task maps count as read once")
    return report


def trained(folder: Path, overrides: list[str], shards: int) -> Evaluation:
    """An evaluation of a run with one checkpoint, of which nothing is computed yet."""
    settings = ["train.steps=1", "train.batch_size=4", f"eval.points={shards}", *FAST, *overrides]
    run = RunFolder.create(folder, load(RECIPES / "toy.yaml", settings), {"created": 0.0})
    session.run(run, Ranks(), StopFlag(), job_id="fleet")
    return Evaluation(request_of(run.recipe(), ("loss",), 1, shards).save(run))


def prepare(folder: Path, overrides: list[str], shards: int) -> dict[str, Any]:
    """Make what is evaluated; tells which modules that takes, and sizes in bytes."""
    trained(folder / "tiny", [*overrides, *TINY], 2).compute(Ranks())
    work = trained(folder / "run", overrides, shards)
    state = torch.load(work.run.checkpoint_file(1), weights_only=True)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in state["model"].values())
    checkpoint = sum(file.stat().st_size for file in work.run.checkpoints.glob("step_00000001.*"))
    sizes = {"checkpoint": checkpoint, "weights": weights}
    return {"folder": str(work.folder), "modules": sorted(sys.modules), **sizes}


def task(folder: Path, shard: int) -> dict[str, int]:
    """Compute one shard; files that were opened, folders that were listed, and bytes that were read."""
    counts: Counter[str] = Counter()
    runs = str(folder.parents[1])

    def seen(event: str, arguments: tuple[Any, ...]) -> None:
        name = "opened" if event == "open" else "listed" if event in ("os.listdir", "os.scandir") else None
        if name and isinstance(arguments[0], str | os.PathLike) and os.fspath(arguments[0]).startswith(runs):
            counts[name] += 1

    # These open files without Python's knowledge.
    unseen = [mock.patch.object(safetensors, "safe_open", side_effect=safetensors.safe_open)]
    unseen.append(mock.patch.object(torch.UntypedStorage, "from_file", side_effect=torch.UntypedStorage.from_file))
    with contextlib.ExitStack() as stack:
        opens = [stack.enter_context(one) for one in unseen]
        before = _read_so_far()
        sys.addaudithook(seen)
        assert Evaluation(folder).compute(Ranks(), only=[shard]), "it was not asked to stop"
        counts["opened"] += sum(call.call_count for call in opens)
    return {**counts, "read": _read_so_far() - before}


def _read_so_far() -> int:
    """Bytes that read calls have returned to this process; what is mapped is not in it."""
    return int(Path("/proc/self/io").read_text().split()[1])


def forked(call: Callable[[], Any]) -> Callable[[], Any]:
    """Start ``call`` in a copy of this process; returns what waits for its result."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 1
        try:
            with os.fdopen(writing, "w") as out:
                json.dump(call(), out)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)

    def result() -> Any:
        with os.fdopen(reading) as answer:
            text = answer.read()
        os.waitpid(child, 0)
        return json.loads(text)

    return result


def main() -> None:
    torch.set_num_threads(1)
    # A shard has one test point, which takes no time.
    registry.ROWS["loss"] = dataclasses.replace(registry.ROWS["loss"], chunk=1)
    folder, shards, overrides = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    prepared = forked(lambda: prepare(folder, overrides, shards))()
    # So that no task reads Python files.
    for name in prepared.pop("modules"):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    work = Path(prepared.pop("folder"))
    total: Counter[str] = Counter()
    for first in range(0, shards, AT_ONCE):
        some = range(first, min(first + AT_ONCE, shards))
        for wait in [forked(lambda shard=shard: task(work, shard)) for shard in some]:
            total.update(wait())
    assert Evaluation(work).report is not None, "the last task merges"
    print(json.dumps({**prepared, **total}))


if __name__ == "__main__":
    main()
