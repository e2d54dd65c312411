"""The test cluster itself: it behaves as the docs and the code assume that Slurm does."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

from . import machine, probe
from .cluster import SlurmCluster
from .polling import wait_until
from .processes import Processes


def submit_probe(
    slurm: SlurmCluster, folder: Path, *options: str, partition: str = "low", nodes: int = 1, stop_on: str = ""
) -> str:
    """Submit a job with one probe per node, wait until all are running, and return its id."""
    task = shlex.join(["srun", sys.executable, probe.__file__, str(folder), f"--stop-on={stop_on}"])
    job = slurm.sbatch(f"-p{partition}", f"-N{nodes}", f"-n{nodes}", *options, wrap=task)
    wait_start(folder, restart=0, nodes=nodes)
    return job


def wait_start(folder: Path, *, restart: int, nodes: int = 1) -> None:
    wait_until(
        lambda: all("start" in probe.signals(folder, restart, rank) for rank in range(nodes)),
        timeout=40, what=f"start {restart} of {nodes} probes",
    )  # fmt: skip


def asked_to_stop(folder: Path, rank: int = 0) -> set[str]:
    """The signals of the first start, without SIGCONT, which Slurm also sends, but perhaps second or too late.

    Slurm may report the requeue before the probe has recorded why.
    """
    return wait_until(
        lambda: set(probe.signals(folder, 0, rank)) - {"start", "SIGCONT"},
        timeout=40, what="a signal that asks the probe to stop",
    )  # fmt: skip


def test_job_runs_on_two_nodes_and_gets_gpus(slurm: SlurmCluster, tmp_path: Path) -> None:
    output = tmp_path / "out"
    job = slurm.sbatch(
        "-N2", "-n2", "--gpus-per-node=1", f"-o{output}",
        wrap="srun sh -c 'echo $SLURM_PROCID $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES'",
    )  # fmt: skip
    assert slurm.wait_end(job) == "COMPLETED"
    assert sorted(output.read_text().split("\n")) == ["", "0 n1 0", "1 n2 0"]
    assert slurm.job_info(job)["NumNodes"] == "2"


def test_preemption_with_user_signal_sends_it_to_every_rank_and_requeues(slurm: SlurmCluster, tmp_path: Path) -> None:
    slurm.configure(user_signal=True, grace_time=60)
    job = submit_probe(slurm, tmp_path, "--signal=USR2@60", nodes=2, stop_on="SIGUSR2")
    slurm.preempt_all(1)
    wait_start(tmp_path, restart=1, nodes=2)
    for rank in range(2):
        assert asked_to_stop(tmp_path, rank=rank) == {"SIGUSR2"}
    assert slurm.job_info(job)["Restarts"] == "1"


def test_stop_ends_even_a_job_that_ignores_sigterm() -> None:
    with SlurmCluster(accounting=False) as cluster:
        root = cluster.root
        job = cluster.sbatch("-N4", "-n4", wrap="trap '' TERM; srun sh -c \"trap '' TERM; sleep 1000\"")
        cluster.wait_state(job, "RUNNING")
        assert len(cluster.processes.remaining()) > 6, "munged, slurmctld and four slurmd at least"
    assert Processes(root).remaining() == []
    assert not root.exists()


def test_a_crashed_test_run_is_cleaned_up_by_the_next() -> None:
    crash = (
        "import os; from tests.slurm.cluster import SlurmCluster;"
        "c = SlurmCluster(accounting=False).start();"
        "c.wait_state(c.sbatch(wrap='sleep 1000'), 'RUNNING');"
        "print(c.root, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", crash], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    root = Path(done.stdout.strip() or "/nonexistent")
    assert Processes(root).remaining(), done
    machine.sweep()
    assert Processes(root).remaining() == []
    assert not root.exists()
