"""Cancel beats requeue: whatever a job is doing when it is cancelled, nothing brings it back."""

import shutil
import subprocess
import sys

import pytest

from cld_core.run import RunFolder
from cld_core.run.events import Started
from cld_core.run.state import OVER
from tests.support.tools import program, wait_for

# Where a job is: in the setup; at work; its Python decides what follows a crash; its batch script
# asks for a requeue, without an answer; the same, and Slurm hears it after the cancellation.
CASES = [
    ("setup", "cancel"),
    ("setup", "scancel"),
    ("work", "cancel"),
    ("work", "scancel"),
    ("decision", "cancel"),
    ("decision", "scancel"),
    ("away", "scancel"),
    ("late", "cancel"),
]
# hold PHASE: if there is a file for the phase of this job, renames it, waits until it is gone, and
# fails.
HOLD = """\
#!/bin/sh
file={folder}/$1-$SLURM_JOB_NAME-${{SLURM_ARRAY_TASK_ID-}}
[ -e "$file" ] || exit 0
mv "$file" "$file.held"
while [ -e "$file.held" ]; do sleep 0.1; done
exit 1
"""
# In front of Python. SIGTERM ends what decides no earlier than it would end Python, which heeds it.
CONTAINER = """\
#!/bin/sh
case "$*" in *cldctl.jobs.aftermath*) trap "" TERM; {hold} decision; trap - TERM ;; esac
exec "$@"
"""
# Only the requeue has no arguments.
SCONTROL = """\
#!/bin/sh
if [ $# = 0 ]; then
    {hold} late
    {hold} away || {{ echo "Unable to contact slurm controller (connect failure)" >&2; exit 1; }}
fi
exec {scontrol} "$@"
"""


class Stage:
    """Jobs that can be held in a phase."""

    def __init__(self, lab, folder):
        self.lab = lab
        self.holds = folder / "holds"
        self.holds.mkdir()
        hold = program(folder / "hold", HOLD.format(folder=self.holds))
        container = program(folder / "container", CONTAINER.format(hold=hold))
        scontrol = program(
            folder / "bin/scontrol", SCONTROL.format(hold=hold, scontrol=shutil.which("scontrol"))
        )
        self.overrides = (
            f"cluster.container={container}",
            f"cluster.setup=['export PATH={scontrol.parent}:$PATH', '{hold} setup']",
        )

    def wait_held(self, phase, key):
        held = self.holds / f"{phase}-{key}.held"
        wait_for(held.exists, timeout=60, what=held.name, last_seen=self.lab.slurm.describe)

    def reach(self, phase, name, key):
        """Bring a run into a phase; returns its job."""
        if phase == "setup":
            self.wait_held(phase, key)
            return self.lab.status(name)["job_id"]
        job = self.lab.training(name)["job_id"]
        if phase == "decision":
            self.lab.kill(name)
        if phase in ("away", "late"):
            self.lab.slurm.run(["scancel", "--signal=USR2", job])
        if phase != "work":
            self.wait_held(phase, key)
        return job

    def cancel(self, way, name, job):
        """Begin to cancel a run; returns the command, which stays until the run has ended."""
        command = (
            ["scancel", job]
            if way == "scancel"
            else [sys.executable, "-m", "cldctl", "cancel", name]
        )
        quiet = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "text": True,
        }
        return subprocess.Popen(command, env=self.lab.slurm.env | self.lab.environment, **quiet)


@pytest.mark.parametrize("kind", ["jobs", "tasks"])
def test_nothing_comes_back(lab, tmp_path, kind):
    # What is held in a phase is let go here, not killed by Slurm, however busy the machine is.
    lab.slurm.configure(kill_wait=120)
    stage = Stage(lab, tmp_path)
    names = [
        f"{phase}-{way}" if kind == "jobs" else f"mine-seed{n}"
        for n, (phase, way) in enumerate(CASES)
    ]
    keys = [f"{name}-" if kind == "jobs" else f"mine-{n}" for n, name in enumerate(names)]
    for (phase, _), key in zip(CASES, keys, strict=True):
        (stage.holds / f"{phase}-{key}").touch()
    if kind == "jobs":
        for name in names:
            lab.submit(name, *stage.overrides)
    else:
        lab.sweep(len(CASES), *stage.overrides)

    jobs = []
    commands = []
    for (phase, way), name, key in zip(CASES, names, keys, strict=True):
        job = stage.reach(phase, name, key)
        commands.append(stage.cancel(way, name, job))
        wait_for(
            lambda job=job: lab.slurm.job_state(job) != "RUNNING",
            timeout=60,
            what=f"{name} to be cancelled",
        )
        (stage.holds / f"{phase}-{key}.held").unlink(missing_ok=True)
        jobs.append(job)
    for command in commands:
        said = command.communicate(timeout=120)[0]
        assert command.returncode == 0, said
    lab.slurm.wait_idle(90)
    for (phase, _), name, job in zip(CASES, names, jobs, strict=True):
        assert lab.slurm.job_state(job) == "CANCELLED", name
        # The last one was in the queue again for a moment, where Slurm heard the request after the
        # cancellation.
        assert int(lab.slurm.job_info(job)["Restarts"]) == (phase == "late"), name
        starts = [
            event
            for event in RunFolder(lab.runs / name).ledger.events()
            if isinstance(event, Started)
        ]
        assert len(starts) == (0 if phase == "setup" else 1), name
        assert lab.status(name)["state"] in (("CANCELLED",) if phase == "work" else OVER), name
