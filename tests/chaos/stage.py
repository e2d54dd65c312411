"""Where a campaign takes place: on this machine alone, or on the throw-away Slurm."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cld_core.run import RunFolder
from tests.slurm.cluster import SlurmCluster
from tests.slurm.lab import Lab
from tests.support.paths import MISBEHAVING

from .shim import Faults
from .watch import end_all

SMALL = (
    *("network.width=16", "network.layers=3", "train.batch_size=16", "train.log_every=5", "eval.samples=64"),
    *("train.on_resume=exact", *MISBEHAVING),
)
RANKS = 2
# From SIGTERM to SIGKILL: a busy machine needs longer for a save than the 5 s of the tests of Slurm.
KILL_WAIT_S = 15


@dataclass
class Stage:
    """The command line, and the faults of what it starts.

    Attributes:
        orders: a folder that tells the data set `misbehaving` what to do.
        lab: the laboratory; None without Slurm.
    """

    runs: Path
    orders: Path
    faults: Faults
    lab: Lab | None = None

    @property
    def comes_back(self) -> bool:
        """Whether a job that was interrupted starts again without anybody's help."""
        return self.lab is not None

    def environment(self, **more: str) -> dict[str, str]:
        own = {
            "CLDCTL_RUNS": str(self.runs), "CLDCTL_TEST_ORDERS": str(self.orders), "OMP_NUM_THREADS": "1",
            # What Slurm says is to be that of this moment.
            "COLUMNS": "200", "CLDCTL_ASK_EVERY_S": "0", **more,
        }  # fmt: skip
        return {**(os.environ if self.lab is None else self.lab.slurm.env), **own}

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Begin a command; its output can be read once it has ended."""
        return subprocess.Popen(
            [sys.executable, "-m", "cldctl", *arguments], text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment(**variables),
        )  # fmt: skip

    def cldctl(self, *arguments: str, timeout: float = 240, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever its exit code."""
        with self.start(*arguments, **variables) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                err += f"\nkilled after {timeout:g} s"
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def submit(self, name: str, *overrides: str, **variables: str) -> RunFolder:
        size = ("--cluster", "local", f"cluster.tasks_per_node={RANKS}")
        if self.lab is not None:
            limits = ("cluster.time_min=30", "cluster.signal_s=20", "cluster.partition=low")
            size = ("--cluster", "slurm", f"cluster.nodes={RANKS}", *limits)
        done = self.cldctl("submit", "toy", *SMALL, *size, *overrides, "--name", name, **variables)
        assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return RunFolder(self.runs / name)

    def status(self, name: str, timeout: float = 120) -> dict[str, Any]:
        """What `status` says; where it fails, only why."""
        done = self.cldctl("status", name, "--json", timeout=timeout)
        if done.returncode != 0:
            return {"state": "UNKNOWN", "reason": f"exit code {done.returncode}: {done.stderr[-2000:]}"}
        return dict(json.loads(done.stdout)[0])

    def describe(self) -> str:
        """For messages: the end of every log, and what Slurm says."""
        files = sorted([*self.runs.glob("*/attempts.jsonl"), *self.runs.glob("*/logs/*.err"),
                        *self.runs.glob("*/logs/*.out")])  # fmt: skip
        texts = [f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}" for path in files]
        return "\n".join(texts) + ("" if self.lab is None else self.lab.slurm.describe())


@contextlib.contextmanager
def local(seed: int) -> Iterator[Stage]:
    """Jobs that are processes of this machine."""
    with tempfile.TemporaryDirectory(prefix="cldctl-chaos") as text:
        runs, orders = _folders(Path(text))
        try:
            yield Stage(runs, orders, Faults(Path(text) / "control", runs, seed))
        finally:
            end_all(runs)


@contextlib.contextmanager
def on_slurm(seed: int, slurm: SlurmCluster) -> Iterator[Stage]:
    """Jobs of a throw-away Slurm that is up."""
    with tempfile.TemporaryDirectory(prefix="cldctl-chaos") as text:
        runs, orders = _folders(Path(text))
        slurm.configure(kill_wait=KILL_WAIT_S, grace_time=15)
        try:
            yield Stage(runs, orders, Faults(Path(text) / "control", runs, seed), Lab(slurm, runs))
        finally:
            # The processes of a job end with it.
            slurm.reset()


def _folders(root: Path) -> tuple[Path, Path]:
    for name in ("runs", "orders"):
        (root / name).mkdir()
    return (root / "runs").resolve(), root / "orders"
