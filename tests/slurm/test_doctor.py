"""`cldctl doctor` on the test cluster: partitions, containers, and a Slurm without an answer."""

import json
import os
import shutil

import pytest

from cld_core.config.cluster import ClusterSpec
from cldctl.clusters.base import Check, DoctorOptions
from cldctl.clusters.slurm import doctor
from cldctl.clusters.slurm.cluster import SlurmCluster
from tests.support.recipes import toy_recipe
from tests.support.tools import program, wait_for

from .containers import Containers
from .lab import Lab

NO_SAVES = {"job": False, "slowest_save_s": None, "notice_s": 90, "size": ClusterSpec()}
PARTITIONS = ("low", "low0", "cancel", "short", "high")


@pytest.fixture
def lab(slurm, tmp_path, monkeypatch):
    """Also sets the environment for calls from this process, which do not have to load torch."""
    for name, value in slurm.env.items():
        monkeypatch.setenv(name, value)
    return Lab(slurm, tmp_path / "runs")


def command(lab, options="", code=0):
    """The checks by name, from the command line."""
    report = json.loads(lab.cldctl(f"doctor --json {options}", code=code).stdout)
    return _by_name([Check(**check) for check in report["checks"]])


def checks(lab, **asked):
    """The checks of the cluster alone, from this process; without a job unless asked for."""
    return _by_name(list(SlurmCluster().checks(lab.runs, DoctorOptions(**{**NO_SAVES, **asked}))))


def _by_name(checks):
    return {check.name.replace(" (default)", ""): check for check in checks}


def test_every_partition_and_a_job_on_a_node(lab):
    found = command(lab)
    preemption = {name: found[f"partition {name}: preemption"] for name in PARTITIONS}
    assert {name: check.verdict for name, check in preemption.items()} == {
        "low": "ok", "low0": "ok", "cancel": "warn", "short": "ok", "high": "ok",
    }  # fmt: skip
    assert "SIGTERM at once, SIGKILL after 15 s" in preemption["low"].found
    assert "SIGTERM at once, SIGKILL after 5 s" in preemption["low0"].found
    assert "cluster.time_min" in found["partition short: time limit"].advice
    assert (
        found["accounting"].verdict
        == found["requeue"].verdict
        == found["--requeue"].verdict
        == "ok"
    )
    assert found["a job on a node"].verdict == found["runs folder on a node"].verdict == "ok"
    assert "that node is this machine" in found["runs folder on a node"].found, (
        "as all nodes of the test cluster are"
    )
    assert "4 nodes" in found["MASTER_ADDR"].found
    assert found["scontrol"].found == "answers here and on n1"
    bare = found["partition low: a job without --time and --mem"]
    assert (bare.verdict, "time limit 1 h, memory 900 MB (DefMemPerCPU)" in bare.found) == (
        "warn",
        True,
    ), bare
    assert "cluster.mem_gb" in bare.advice
    wait_for(lambda: not lab.slurm.run("squeue -h").stdout, what="the job to leave the queue")
    assert not list(lab.runs.parent.glob(".cldctl-doctor-*")), "it leaves nothing behind"


def test_a_job_that_does_not_start_in_time_is_cancelled(lab):
    lab.slurm.preempt_all(60)
    found = checks(lab, partition="high", job=True, wait_s=2)["a job on a node"]
    assert found.verdict == "warn"
    assert "--wait" in found.advice
    assert "cldctl-doctor" not in lab.slurm.run("squeue -h -o %j").stdout


def test_runs_on_a_disk_that_nodes_do_not_have(lab, monkeypatch):
    """All nodes are this machine, so the job is given another folder."""
    written = doctor.probe_script
    monkeypatch.setattr(
        doctor, "probe_script", lambda folder, *more: written(folder / "elsewhere", *more)
    )
    check = checks(lab, partition="low", job=True)["runs folder on a node"]
    assert (check.verdict, "does not see" in check.found) == ("fail", True)


def test_where_scontrol_can_be_reached(lab, tmp_path):
    """A container need not have it; the node must."""
    containers = Containers(tmp_path / "containers")

    def size(*overrides):
        return toy_recipe("cluster.partition=low", *overrides).cluster

    for overrides in (containers.apptainer, containers.pyxis):
        found = checks(lab, job=True, size=size(*overrides))
        assert found["a job on a node"].found.endswith("in the container")
        check = found["scontrol"]
        assert (check.verdict, "not in the container (there is none)" in check.found) == (
            "ok",
            True,
        ), check
    hidden = program(
        tmp_path / "bin" / "scontrol", "#!/bin/sh\necho 'scontrol: error: no' >&2\nexit 1\n"
    ).parent
    profile = tmp_path / "mine.yaml"
    profile.write_text(f"cluster:\n  setup:\n    - export PATH={hidden}:$PATH\n")
    check = command(lab, f"--profile {profile}", code=1)["scontrol"]
    assert (check.verdict, check.found) == (
        "fail",
        "answers here, but not on n1: scontrol: error: no",
    )
    assert "cluster.successor" in check.advice


def test_a_job_whose_container_or_setup_is_broken(lab):
    def job(**size):
        return checks(lab, partition="low", job=True, size=ClusterSpec(**size))["a job on a node"]

    check = job(container="/nowhere/apptainer exec image.sif")
    assert check.verdict == "fail"
    assert "in the container: " in check.found
    assert "same path" in check.advice
    check = job(setup=("module load nothing", "true"))
    assert (check.verdict, "fails in cluster.setup" in check.found) == ("fail", True), check


def test_a_site_that_wants_time_and_memory(lab, tmp_path, monkeypatch):
    """Its sbatch refuses a job without them, as a plug-in of slurmctld would."""
    real = shutil.which("sbatch")
    refusal = "echo 'sbatch: error: set --time and --mem' >&2; exit 1"
    text = f'#!/bin/sh\ncase "$*" in *--time=*--mem=*) exec {real} "$@" ;; esac\n{refusal}\n'
    monkeypatch.setenv(
        "PATH", str(program(tmp_path / "bin" / "sbatch", text).parent), prepend=os.pathsep
    )
    check = checks(lab, partition="low")["partition low: a job without --time and --mem"]
    assert (check.verdict, "set --time and --mem" in check.found) == ("warn", True)
    assert "cluster.time_min and cluster.mem_gb" in check.advice
