"""Runs of cldctl on the test cluster: the command line with its environment, and waiting for states."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from cld_core.files import write_text
from cld_core.run import RunFolder
from tests.support import tools
from tests.support.paths import MISBEHAVING
from tests.support.tools import wait_for

from .cluster import SlurmCluster

# A toy on two nodes with one rank each that trains until it is told to stop.
ENDLESS = (
    *MISBEHAVING,
    *("network.width=16", "network.layers=3", "train.batch_size=16", "train.log_every=5", "eval.samples=64"),
    *("train.checkpoint_every=200", "train.steps=100000000", "train.on_resume=exact"),
    *("cluster.nodes=2", "cluster.time_min=30", "cluster.signal_s=20"),
)


def give(orders: Path, rank: int, what: str) -> None:
    """Tell a rank of a run on the data set `misbehaving` what to do.

    The file is written atomically: a rank checks up to a hundred times a second, and removes what it reads.
    """
    write_text(orders / f"rank{rank}", what)


class Lab:
    """cldctl on ``slurm``, with its runs under ``runs``."""

    def __init__(self, slurm: SlurmCluster, runs: Path) -> None:
        self.slurm, self.runs = slurm, runs

    def cldctl(self, *arguments: str, code: int | None = 0, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run the command line; fails if the exit code is not ``code``."""
        command = [sys.executable, "-m", "cldctl", *arguments]
        done = self.slurm.run(command, timeout, check=False, env=self._environment)
        assert code is None or done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    @property
    def _environment(self) -> dict[str, str]:
        # Tests wait for what Slurm says at this moment, unless they are about how often it is asked.
        return {"CLDCTL_RUNS": str(self.runs), "CLDCTL_ASK_EVERY_S": "0", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def submit(self, name: str, *overrides: str, partition: str = "low") -> RunFolder:
        """Submit a run and return its folder."""
        self.cldctl("submit", "toy", *ENDLESS, f"cluster.partition={partition}", *overrides, "--name", name)
        return RunFolder(self.runs / name)

    def status(self, name: str) -> dict[str, Any]:
        """In this process: starting Python takes half a second of processor."""
        with mock.patch.dict(os.environ, self.slurm.env | self._environment, clear=True):
            return tools.status(self.runs, name)

    def until(self, name: str, what: str, wanted: Callable[[dict[str, Any]], Any], timeout: float = 90) -> Any:
        """The status once ``wanted`` is true of it."""
        seen: dict[str, Any] = {}

        def look() -> dict[str, Any] | None:
            seen.update(self.status(name))
            return dict(seen) if wanted(seen) else None

        ledger = self.runs / name / "attempts.jsonl"
        return wait_for(
            look, timeout, 0.5, what=what,
            last_seen=lambda: f"{seen}\n{ledger.read_text()}\n{self.slurm.describe()}",
        )  # fmt: skip

    def training(self, name: str, attempt: int = 0, steps: int = 30) -> dict[str, Any]:
        """The status once attempt number ``attempt`` has trained for some steps."""
        return self.until(
            name,
            f"attempt {attempt} of {name} to train",
            lambda row: (
                row["state"] == "RUNNING"
                and len(row["attempts"]) == attempt + 1
                and (row["attempts"][-1]["last_step"] or 0) >= row["attempts"][-1]["first_step"] + steps
            ),
        )

    def ended(self, name: str, timeout: float = 90) -> dict[str, Any]:
        """The status once the run is over."""
        over = ("STOPPED", "FAILED", "CANCELLED", "FINISHED", "LOST")
        return self.until(name, f"{name} to end", lambda row: row["state"] in over, timeout)
