"""The tasks of an evaluation, one process for each shard, and what they read. Run by `benchmarks.fleet`.

python -P benchmarks/fleet_tasks.py FOLDER SHARDS RECIPE [KEY=VALUE ...]

It evaluates with whatever cld_core is imported. Prints one JSON document.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import torch

from cld_core.config import load
from cld_core.evaluate import registry
from cld_core.evaluate.evaluation import Evaluation
from cld_core.evaluate.request import EvalRequest
from cld_core.ranks import Ranks
from cld_core.run import RunFolder
from cld_core.stop import StopFlag
from cld_core.train import session

# Tasks that run side by side.
AT_ONCE = 8
_LISTING = ("os.listdir", "os.scandir")
# Weights of the small run that only tells which modules an evaluation imports.
TINY = ("network.width=8", "network.layers=2")
# A shard has one test point, which takes no time.
registry.ROWS["loss"] = dataclasses.replace(registry.ROWS["loss"], chunk=1)


def trained(folder: Path, recipe: str, overrides: list[str], shards: int) -> Evaluation:
    """An evaluation of a run with one checkpoint, of which nothing is computed yet."""
    settings = ["train.steps=1", "train.batch_size=4", f"eval.points={shards}", *overrides]
    run = RunFolder.create(folder, load(recipe, settings), {"created": 0.0})
    session.run(run, Ranks(), StopFlag(), job_id="fleet")
    return Evaluation(EvalRequest.of(run.recipe(), ("loss",), 1, shards).save(run))


def prepare(folder: Path, recipe: str, overrides: list[str], shards: int) -> dict[str, Any]:
    """Make what is evaluated; tells which modules that takes, and sizes in bytes."""
    trained(folder / "tiny", recipe, [*overrides, *TINY], 2).compute(Ranks())
    work = trained(folder / "run", recipe, overrides, shards)
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
        name = "opened" if event == "open" else "listed" if event in _LISTING else None
        if name and isinstance(arguments[0], str | os.PathLike) and os.fspath(arguments[0]).startswith(runs):
            counts[name] += 1

    # These open files without Python's knowledge.
    for module, attribute in ((safetensors, "safe_open"), (torch.UntypedStorage, "from_file")):
        setattr(module, attribute, _counted(getattr(module, attribute), counts))
    before = _read_so_far()
    sys.addaudithook(seen)
    assert Evaluation(folder).compute(Ranks(), only=[shard]), "it was not asked to stop"
    return {**counts, "read": _read_so_far() - before}


def _counted(call: Callable[..., Any], counts: Counter[str]) -> Callable[..., Any]:
    def counted(*arguments: Any, **options: Any) -> Any:
        counts["opened"] += 1
        return call(*arguments, **options)

    return counted


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
    folder, shards, recipe, overrides = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    prepared = forked(lambda: prepare(folder, recipe, overrides, shards))()
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
