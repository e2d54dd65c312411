"""The test cluster itself: it behaves as the docs and the code assume that Slurm does."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

from . import machine, probe
from .cluster import SlurmCluster
from .errors import SlurmTestError
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


@pytest.mark.usefixtures("slurm")
def test_names_of_nodes_resolve() -> None:
    done = subprocess.run(["getent", "hosts", "n1"], capture_output=True, text=True, timeout=10, check=False)
    assert done.stdout.startswith("127.0.0.1"), done


def test_preemption_with_user_signal_sends_it_to_every_rank_and_requeues(slurm: SlurmCluster, tmp_path: Path) -> None:
    slurm.configure(user_signal=True, grace_time=60)
    job = submit_probe(slurm, tmp_path, "--signal=USR2@60", nodes=2, stop_on="SIGUSR2")
    slurm.preempt_all(1)
    wait_start(tmp_path, restart=1, nodes=2)
    for rank in range(2):
        assert asked_to_stop(tmp_path, rank=rank) == {"SIGUSR2"}
    assert slurm.job_info(job)["Restarts"] == "1"


@pytest.mark.parametrize("partition", ["low", "low0"])
def test_preemption_without_user_signal_sends_term(slurm: SlurmCluster, tmp_path: Path, partition: str) -> None:
    slurm.configure(grace_time=60)
    job = submit_probe(slurm, tmp_path, "--signal=USR2@60", partition=partition, stop_on="SIGTERM")
    slurm.preempt_all(1)
    slurm.wait_requeued(job)
    assert asked_to_stop(tmp_path) == {"SIGTERM"}


def test_preemption_by_cancel_is_final(slurm: SlurmCluster, tmp_path: Path) -> None:
    job = submit_probe(slurm, tmp_path, partition="cancel", stop_on="SIGTERM")
    slurm.preempt_all(1)
    assert slurm.wait_end(job) == "PREEMPTED"
    slurm.wait_idle()
    assert probe.signals(tmp_path, 1, 0) == []


def test_a_job_that_may_not_be_requeued_is_gone_after_preemption(slurm: SlurmCluster, tmp_path: Path) -> None:
    slurm.configure(requeue=False)
    job = submit_probe(slurm, tmp_path, stop_on="SIGTERM")
    slurm.preempt_all(1)
    assert slurm.wait_end(job) == "PREEMPTED"


def test_the_ends_of_time_limit_and_grace_time(slurm: SlurmCluster, tmp_path: Path) -> None:
    """Slurm checks time limits only every 30 s; the other job ends meanwhile."""
    slurm.configure(grace_time=2, kill_wait=1)
    (tmp_path / "limited").mkdir()
    (tmp_path / "stubborn").mkdir()
    limited = submit_probe(slurm, tmp_path / "limited", "-wn4", partition="high", stop_on="SIGTERM")
    stubborn = submit_probe(slurm, tmp_path / "stubborn", "-wn1")
    slurm.expire(limited)
    slurm.sbatch("-phigh", "--exclusive", "-wn1", wrap="sleep 1")
    slurm.wait_requeued(stubborn)
    assert slurm.wait_end(limited) == "TIMEOUT"
    for job in ("limited", "stubborn"):
        assert asked_to_stop(tmp_path / job) == {"SIGTERM"}


def test_default_time_limit_of_short(slurm: SlurmCluster) -> None:
    job = slurm.sbatch("-pshort", "--hold", wrap="true")
    assert slurm.job_info(job)["TimeLimit"] == "00:01:00"


def test_a_dead_node_requeues_its_job_elsewhere(slurm: SlurmCluster, tmp_path: Path) -> None:
    job = submit_probe(slurm, tmp_path, "--exclude=n3,n4")
    node = slurm.job_info(job)["NodeList"]
    slurm.kill_node(node)
    assert "down" in slurm.node_state(node)
    wait_start(tmp_path, restart=1)
    assert slurm.job_info(job)["NodeList"] == {"n1": "n2", "n2": "n1"}[node]
    assert probe.signals(tmp_path, 0, 0) == ["start"], "a power cut sends no signals"
    slurm.restore_node(node)
    assert slurm.node_state(node) == "idle"


def test_jobs_survive_the_controller(slurm: SlurmCluster, tmp_path: Path) -> None:
    running = submit_probe(slurm, tmp_path)
    waiting = slurm.sbatch("--hold", wrap="true")
    slurm.kill_controller()
    with pytest.raises(SlurmTestError, match="took more than"):
        slurm.run("squeue", timeout=1)
    slurm.start_controller()
    assert slurm.job_state(running) == "RUNNING"
    assert slurm.job_state(waiting) == "PENDING"


def test_squeue_works_without_accounting(slurm: SlurmCluster) -> None:
    job = slurm.sbatch(wrap="true")
    slurm.wait_end(job)
    ask = ["sacct", "-X", "-n", "-P", "-o", "State", "-j", job]
    wait_until(lambda: slurm.run(ask).stdout.strip() == "COMPLETED", timeout=20, what="sacct to know the job")
    slurm.stop_accounting()
    assert slurm.run(ask, check=False).returncode != 0
    assert slurm.job_state(job) == "COMPLETED"
    later = slurm.sbatch(wrap="true")
    assert slurm.wait_end(later) == "COMPLETED"
    slurm.start_accounting()
    slurm.run(ask)


def test_a_cluster_without_accounting_says_so(slurm: SlurmCluster) -> None:
    slurm.configure(accounting=False)
    done = slurm.run("sacct", check=False)
    assert (done.returncode, done.stderr.strip()) == (1, "Slurm accounting storage is disabled")


def test_configure_restores_defaults(slurm: SlurmCluster) -> None:
    slurm.configure(user_signal=True, grace_time=7, kill_wait=3, requeue=False)
    shown = slurm.run("scontrol show config").stdout
    assert "preempt_send_user_signal" in shown
    assert "KillWait                = 3 sec" in shown
    assert "GraceTime=7 " in slurm.run("scontrol show partition low").stdout
    slurm.configure()
    assert "preempt_send_user_signal" not in slurm.run("scontrol show config").stdout
    assert "GraceTime=10 " in slurm.run("scontrol show partition low").stdout


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


def test_up_status_down_by_hand(tmp_path: Path) -> None:
    with SlurmCluster(tmp_path / "s", accounting=False, keep=True):
        assert json.loads((tmp_path / "s" / "owner.json").read_text()) is None
        assert not machine.is_stale(tmp_path / "s")
        with pytest.raises(SlurmTestError, match="slurm-down"):
            SlurmCluster(tmp_path / "s", accounting=False).start()
    assert not (tmp_path / "s").exists()
