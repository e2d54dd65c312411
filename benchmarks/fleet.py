"""What a fleet of 64 tasks reads to evaluate one checkpoint. `python -m benchmarks fleet`.

Before: the code of an earlier commit, if this is a checkout that has it. Each of its tasks read the checkpoint to
compare its checksum, and the state of every shard to see whether it was the last one.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from benchmarks.harness import Report, Row, Settings
from benchmarks.models import RECIPES

ROOT = Path(__file__).parents[1]
BEFORE = "94aa938"
SHARDS = 64
# 10.5 million weights: a checkpoint of 160 MiB, with the average and the two moments of the optimiser.
SIZE = ("network.width=1024", "network.layers=12")
# The picture of samples is part of the merge, but not what is counted.
QUICK = ("sampling.method=em", "sampling.nfe=2")


def topic(settings: Settings) -> Report:
    shards = 4 if settings.quick else SHARDS
    report = Report(topic="fleet", title=f"{shards} tasks evaluate one checkpoint, a shard each")
    old = _earlier(settings.work / "earlier")
    if old is None:
        report.notes.append(f"before: not counted, because this is not a git checkout with the commit {BEFORE}")
    for name, code in (("before", old), ("now", ROOT)):
        if code is not None:
            report.rows.append(_row(name, _counted(code, settings.work / name, shards, settings.quick), shards))
    report.notes.append("files and folders of the run; the weights that each task maps count as read once")
    return report


def _counted(code: Path, folder: Path, shards: int, quick: bool) -> dict[str, Any]:
    """What the tasks of the cld_core in ``code`` did."""
    # -P: the folder of the script holds modules of other names than it imports.
    command = [sys.executable, "-P", str(ROOT / "benchmarks" / "fleet_tasks.py"), str(folder), str(shards)]
    overrides = ("network.width=16",) if quick else SIZE
    done = subprocess.run(
        [*command, str(RECIPES / "toy.yaml"), *overrides, *QUICK],
        env={**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    counted: dict[str, Any] = json.loads(done.stdout)
    return counted


def _row(name: str, counts: dict[str, Any], shards: int) -> Row:
    read = counts["read"] + shards * counts["weights"]
    parts = (
        f"{read / 2**20:,.0f} MiB read ({read / counts['checkpoint']:.1f} checkpoints of"
        f" {counts['checkpoint'] / 2**20:,.0f} MiB)",
        f"{counts['opened']:,} files opened",
        f"{counts.get('listed', 0):,} listings",
    )
    return Row(name=name, seconds=None, note=", ".join(parts))


def _earlier(folder: Path) -> Path | None:
    """The packages as they were; None if nobody has them."""
    done = subprocess.run(["git", "archive", BEFORE, "cld_core"], cwd=ROOT, capture_output=True)
    if done.returncode != 0:
        return None
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder
