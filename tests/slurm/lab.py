"""Runs of cldctl on the test cluster: the command line, its environment, waiting for states."""

import json
import os
import signal
from unittest import mock

from cld_core.files import write_text
from cld_core.run import RunFolder
from cld_core.run.lease import local_holder
from cld_core.run.state import OVER
from cldctl.clusters.slurm import submit
from tests.support import tools
from tests.support.paths import MISBEHAVING
from tests.support.tools import wait_for

# A toy on one node that trains until it is told to stop, and saves before the tests disturb it.
ENDLESS = (
    *MISBEHAVING,
    *tools.SMALL,
    "cluster.tasks_per_node=1",
    "train.checkpoint_every=20",
    "train.steps=100000000",
    "train.on_resume=exact",
    "cluster.time_min=30",
    "cluster.signal_s=20",
)
# For what one rank does not show: each start of a rank takes two seconds of processor.
PAIR = "cluster.nodes=2"


def give(orders, rank, what):
    """Tell a rank of a run on the data set `misbehaving` what to do.

    The file is written atomically: a rank checks up to a hundred times a second, and removes what
    it reads.
    """
    write_text(orders / f"rank{rank}", what)


class Lab:
    """cldctl on ``slurm``, with its runs under ``runs`` and ``more`` variables."""

    def __init__(self, slurm, runs):
        self.slurm = slurm
        self.runs = runs
        self.more = {}

    def cldctl(self, line, *words, code=0):
        """Run the command line in this process, since starting Python and torch takes seconds."""
        # A command, in a process of its own, asks once what Slurm's limits are.
        submit.forget()
        with mock.patch.dict(os.environ, self.slurm.env | self.environment, clear=True):
            return tools.invoke(line, *words, code=code)

    @property
    def environment(self):
        # Tests wait for what Slurm says at this moment, unless they are about how often it is
        # asked.
        return {
            "CLDCTL_RUNS": str(self.runs),
            "CLDCTL_ASK_EVERY_S": "0",
            "OMP_NUM_THREADS": "1",
            # Runs that train while a test waits leave the processor to others.
            "CLDCTL_TEST_PACE": "0.04",
        } | self.more

    def submit(self, name, *overrides, partition="low"):
        """Submit a run and return its folder."""
        partition = f"cluster.partition={partition}"
        self.cldctl(f"submit toy --name {name}", *ENDLESS, partition, *overrides)
        return RunFolder(self.runs / name)

    def sweep(self, seeds, *overrides, options=""):
        """Submit the group `mine` of so many runs, and return their names."""
        values = ",".join(map(str, range(seeds)))
        line = f"submit toy --name mine --sweep train.seed={values} {options}"
        self.cldctl(line, *ENDLESS, "cluster.partition=low", *overrides)
        return [f"mine-seed{seed}" for seed in range(seeds)]

    def status(self, name):
        return json.loads(self.cldctl(f"status {name} --json").stdout)[0]

    def kill(self, name):
        """SIGKILL to the rank that owns a run, as the OOM killer would."""
        os.kill(local_holder(RunFolder(self.runs / name).leases)["pid"], signal.SIGKILL)

    def until(self, name, what, wanted, timeout=90):
        """The status once ``wanted`` is true of it."""
        seen = {}

        def look():
            seen.update(self.status(name))
            return dict(seen) if wanted(seen) else None

        return wait_for(
            look, timeout, 0.5, what=what, last_seen=lambda: f"{seen}\n{self._seen(name)}"
        )

    def _seen(self, name):
        return f"{RunFolder(self.runs / name).ledger.path.read_text()}\n{self.slurm.describe()}"

    def training(self, name, attempt=0):
        """The status once attempt number ``attempt`` has trained for some steps, and saved."""
        run = RunFolder(self.runs / name)

        def has_trained():
            # Looking at the files takes less than asking Slurm, and most of the waiting is for the
            # start of a job.
            attempts = run.ledger.history().attempts
            progress = run.progress()
            began = attempts and attempts[-1].attempt == progress.get("attempt") == attempt
            return began and progress["step"] >= attempts[-1].first_step + 30

        what = f"attempt {attempt} of {name} to train"
        wait_for(has_trained, 90, 0.2, what=what, last_seen=lambda: self._seen(name))
        return self.until(
            name,
            what,
            lambda row: row["state"] == "RUNNING" and len(row["attempts"]) == attempt + 1,
        )

    def ended(self, name, timeout=90):
        """The status once the run is over."""
        return self.until(name, f"{name} to end", lambda row: row["state"] in OVER, timeout)
