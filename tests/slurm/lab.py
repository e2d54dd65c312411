"""Runs of cldctl on the test cluster: the command line with its environment, and waiting for states."""

import json
import os
import signal
import sys
from unittest import mock

from cld_core.files import write_text
from cld_core.run import RunFolder
from cld_core.run.lease import local_holder
from cldctl.runs.state import OVER
from tests.support import tools
from tests.support.paths import MISBEHAVING
from tests.support.tools import wait_for

# A toy on two nodes with one rank each that trains until it is told to stop.
ENDLESS = (
    *MISBEHAVING,
    *tools.SMALL,
    "cluster.tasks_per_node=1",
    "train.checkpoint_every=200",
    "train.steps=100000000",
    "train.on_resume=exact",
    "cluster.nodes=2",
    "cluster.time_min=30",
    "cluster.signal_s=20",
)


def give(orders, rank, what):
    """Tell a rank of a run on the data set `misbehaving` what to do.

    The file is written atomically: a rank checks up to a hundred times a second, and removes what it reads.
    """
    write_text(orders / f"rank{rank}", what)


class Lab:
    """cldctl on ``slurm``, with its runs under ``runs`` and ``more`` variables."""

    def __init__(self, slurm, runs):
        self.slurm, self.runs = slurm, runs
        self.more = {}

    def cldctl(self, *arguments, code=0, timeout=120):
        """Run the command line; fails if the exit code is not ``code``."""
        command = [sys.executable, "-m", "cldctl", *arguments]
        done = self.slurm.run(command, timeout, check=False, env=self.environment)
        assert code is None or done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    @property
    def environment(self):
        # Tests wait for what Slurm says at this moment, unless they are about how often it is asked.
        return {
            "CLDCTL_RUNS": str(self.runs),
            "CLDCTL_ASK_EVERY_S": "0",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        } | self.more

    def submit(self, name, *overrides, partition="low"):
        """Submit a run and return its folder."""
        self._invoke("submit", "toy", *ENDLESS, f"cluster.partition={partition}", *overrides, "--name", name)
        return RunFolder(self.runs / name)

    def status(self, name):
        return json.loads(self._invoke("status", name, "--json").stdout)[0]

    def kill(self, name):
        """SIGKILL to the rank that owns a run, as the OOM killer would."""
        os.kill(local_holder(RunFolder(self.runs / name).leases)["pid"], signal.SIGKILL)

    def _invoke(self, *arguments):
        """As `cldctl`, in this process: starting Python and torch takes seconds of processor."""
        with mock.patch.dict(os.environ, self.slurm.env | self.environment, clear=True):
            return tools.invoke(*arguments, runs=self.runs)

    def until(self, name, what, wanted, timeout=90):
        """The status once ``wanted`` is true of it."""
        seen = {}

        def look():
            seen.update(self.status(name))
            return dict(seen) if wanted(seen) else None

        ledger = self.runs / name / "attempts.jsonl"
        return wait_for(
            look, timeout, 0.5, what=what,
            last_seen=lambda: f"{seen}\n{ledger.read_text()}\n{self.slurm.describe()}",
        )  # fmt: skip

    def training(self, name, attempt=0, steps=30):
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

    def ended(self, name, timeout=90):
        """The status once the run is over."""
        return self.until(name, f"{name} to end", lambda row: row["state"] in OVER, timeout)
