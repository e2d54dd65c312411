"""Where a campaign takes place: on this machine alone, or on the throw-away Slurm."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from cld_core.run import RunFolder
from cldctl.clusters.local import _MODULE as MODULE
from tests.slurm.lab import Lab
from tests.slurm.processes import end
from tests.support.paths import MISBEHAVING
from tests.support.tools import SMALL

from .shim import Faults

RANKS = 2
# From SIGTERM to SIGKILL: a busy machine needs longer for a save than the 5 s of the tests of
# Slurm.
KILL_WAIT_S = 15
# How each process of a job knows its number.
_RANK = ("SLURM_PROCID", "SUBMITIT_LOCAL_GLOBALID")


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
    def comes_back(self):
        """Whether a job that was interrupted starts again automatically."""
        return self.lab is not None

    def start(self, *arguments, **variables):
        """Begin a command; its output can be read once it has ended."""
        own = {
            "CLDCTL_RUNS": str(self.runs),
            "CLDCTL_TEST_ORDERS": str(self.orders),
            "OMP_NUM_THREADS": "1",
            # What Slurm says is to be that of this moment.
            "COLUMNS": "200",
            "CLDCTL_ASK_EVERY_S": "0",
            **variables,
        }
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environment = {**(os.environ if self.lab is None else self.lab.slurm.env), **own}
        return subprocess.Popen(
            [sys.executable, "-m", "cldctl", *arguments], text=True, env=environment, **pipes
        )

    def cldctl(self, *arguments, timeout=240, **variables):
        """Run a command to its end, whatever its exit code."""
        with self.start(*arguments, **variables) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                err += f"\nkilled after {timeout:g} s"
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def submit(self, name, *overrides, **variables):
        size = ("--cluster", "local", f"cluster.tasks_per_node={RANKS}")
        if self.lab is not None:
            limits = ("cluster.time_min=30", "cluster.signal_s=20", "cluster.partition=low")
            size = (
                "--cluster",
                "slurm",
                f"cluster.nodes={RANKS}",
                "cluster.tasks_per_node=1",
                *limits,
            )
        small = (*SMALL, *MISBEHAVING, "train.on_resume=exact")
        done = self.cldctl("submit", "toy", *small, *size, *overrides, "--name", name, **variables)
        assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return RunFolder(self.runs / name)

    def status(self, name):
        """What `status` says; where it fails, only why."""
        done = self.cldctl("status", name, "--json", timeout=120)
        if done.returncode != 0:
            return {
                "state": "UNKNOWN",
                "reason": f"exit code {done.returncode}: {done.stderr[-2000:]}",
            }
        return dict(json.loads(done.stdout)[0])

    def describe(self):
        """For messages: the end of every log, and what Slurm says."""
        files = sorted(
            file
            for kind in ("attempts.jsonl", "logs/*.err", "logs/*.out")
            for file in self.runs.glob(f"*/{kind}")
        )
        texts = [f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}" for path in files]
        return "\n".join(texts) + ("" if self.lab is None else self.lab.slurm.describe())


@contextlib.contextmanager
def stage(seed, slurm=None):
    """Jobs that are processes of this machine, or those of a throw-away Slurm that is up."""
    with tempfile.TemporaryDirectory(prefix="cldctl-chaos") as text:
        runs, orders = (Path(text).resolve() / name for name in ("runs", "orders"))
        runs.mkdir()
        orders.mkdir()
        if slurm is not None:
            slurm.configure(kill_wait=KILL_WAIT_S, grace_time=15)
        try:
            yield Stage(
                runs, orders, Faults(Path(text) / "control", runs, seed), slurm and Lab(slurm, runs)
            )
        finally:
            if slurm is not None:
                slurm.reset()
            while found := processes_of(runs):
                end(found)


def processes_of(folder):
    """Processes with ``folder`` in their command line, environment or working directory, except for
    our own."""
    me = psutil.Process()
    spared = {me.pid, *(parent.pid for parent in me.parents())}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            texts = [*process.cmdline(), *process.environ().values(), process.cwd()]
            if process.pid not in spared and any(str(folder) in text for text in texts):
                found.append(process)
    return found


def ranks_of(run):
    """The living processes that train a run, by their numbers."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            command = process.cmdline()
            if (
                MODULE not in command
                or str(run.logs) not in command
                or "python" not in process.name()
            ):
                continue
            number = next(
                (value for name in _RANK if (value := process.environ().get(name)) is not None),
                None,
            )
            if number is not None and process.status() != psutil.STATUS_ZOMBIE:
                found.setdefault(int(number), []).append(process)
    return found
