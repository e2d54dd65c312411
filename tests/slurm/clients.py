"""What users do with Slurm (submit, query, wait), as methods of a cluster."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from .config import NODES
from .errors import SlurmTestError, search_path
from .polling import wait_until

ENDED = frozenset(
    {"CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"}
)


class SlurmClients:
    """Client calls, each with a time limit, for the cluster whose slurm.conf is in `root`."""

    root: Path

    @property
    def env(self) -> dict[str, str]:
        """Environment for client calls: this cluster's SLURM_CONF, and nothing of any other Slurm."""
        foreign = ("SLURM", "SBATCH_", "SALLOC_", "SRUN_", "SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        return clean | {"SLURM_CONF": str(self.root / "slurm.conf"), "PATH": search_path()}

    def run(
        self,
        command: str | Sequence[str],
        timeout: float = 30,
        *,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a client (no shell; a string is split as a shell would split it), for at most `timeout` seconds.

        `env` is added to `self.env`. With `check`, raises SlurmTestError with what the command printed if it
        fails. Always raises SlurmTestError on a timeout.
        """
        argv = shlex.split(command) if isinstance(command, str) else list(command)
        try:
            done = subprocess.run(
                argv,
                env=self.env | dict(env or {}),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise SlurmTestError(f"`{shlex.join(argv)}` took more than {timeout:g} s") from error
        if check and done.returncode != 0:
            raise SlurmTestError(f"`{shlex.join(argv)}` ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def sbatch(self, *options: str, wrap: str | None = None) -> str:
        """Submit a job and return its id. `options`: sbatch's own, then a script unless `wrap` is given."""
        wrapped = [] if wrap is None else ["--wrap", wrap]
        # Later options win: unless the caller passes --output, no slurm-N.out is left behind.
        done = self.run(["sbatch", "--parsable", "--output=/dev/null", *wrapped, *options])
        return done.stdout.strip().split(";")[0]

    def job_state(self, job_id: str) -> str:
        """Slurm's long name of a job's state (PENDING, RUNNING, ...); "" for an unknown job."""
        return self._squeue(job_id, "%T")

    def job_info(self, job_id: str) -> dict[str, str]:
        """`scontrol show job` as a dict; {} for an unknown job."""
        done = self.run(["scontrol", "--oneliner", "show", "job", job_id], check=False)
        pairs = (word.split("=", 1) for word in done.stdout.split() if "=" in word)
        return {pair[0]: pair[1] for pair in pairs}

    def wait_state(self, job_id: str, states: str | Collection[str], timeout: float = 30) -> str:
        """Wait until the job is in one of `states` and return that state."""
        wanted = {states} if isinstance(states, str) else set(states)

        def state_if_wanted() -> str | None:
            state = self.job_state(job_id)
            return state if state in wanted else None

        state = wait_until(
            state_if_wanted,
            timeout=timeout,
            what=f"job {job_id} to be {' or '.join(sorted(wanted))}",
            last_seen=lambda: f"{self.job_state(job_id)} {self._squeue(job_id, '%r')}",
        )
        assert state is not None
        return state

    def wait_end(self, job_id: str, timeout: float = 60) -> str:
        """Wait until the job has ended for good and return its last state."""
        return self.wait_state(job_id, ENDED, timeout)

    def wait_requeued(self, job_id: str, restarts: int = 1, timeout: float = 60) -> None:
        """Wait until Slurm has requeued the job `restarts` times; by then it may be pending or running again."""
        wait_until(
            lambda: int(self.job_info(job_id).get("Restarts", 0)) >= restarts,
            timeout=timeout,
            what=f"requeue number {restarts} of job {job_id}",
            last_seen=self.describe,
        )

    def expire(self, job_id: str, seconds: int = 1) -> None:
        """Move a running job's time limit to `seconds` from now; Slurm checks limits only every 30 s."""
        self.run(["scontrol", "update", f"jobid={job_id}", f"EndTime=now+{seconds}seconds"])

    def preempt_all(self, seconds: int, how: str = "--partition=high") -> str:
        """Submit a job that takes every node for `seconds`, on `high` or as ``how`` says; return its id immediately."""
        return self.sbatch(
            how, f"--nodes={len(NODES)}", "--exclusive", "--job-name=preempt",
            wrap=f"sleep {seconds}",
        )  # fmt: skip

    def node_state(self, name: str) -> str:
        """Slurm's long name of a node's state: idle, mixed, allocated, down*, ..."""
        return self.run(["sinfo", "-h", "-N", "-p", "low", "-n", name, "-o", "%T"]).stdout.strip()

    def describe(self) -> str:
        """Nodes and jobs as Slurm shows them, for error messages."""
        nodes = self.run(["sinfo", "-N", "-p", "low", "-o", "%N %T %E"], check=False).stdout
        jobs = self.run(["squeue", "-o", "%i %P %T %r %N"], check=False).stdout
        return f"\n{nodes}{jobs}"

    def _squeue(self, job_id: str, form: str) -> str:
        done = self.run(["squeue", "-h", "--states=all", "-j", job_id, "-o", form], check=False)
        return done.stdout.strip()
