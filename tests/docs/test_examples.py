"""The files of `examples/`: they can be read, their commands are accepted, and they do what the
exit codes say."""

import os
import re
import shlex
import signal
import subprocess
import sys
from unittest.mock import Mock

import pytest
import yaml

from cld_core.errors import NotFoundError
from cld_core.run import RunFolder
from cld_core.run.lease import local_holder
from cld_core.train import __main__ as training
from tests.support.paths import MISBEHAVING, ROOT
from tests.support.tools import ONE, program, signal_handlers, wait_for

EXAMPLES = ROOT / "examples"
JOBSET = EXAMPLES / "kubernetes/jobset.yaml"
SKYPILOT = EXAMPLES / "skypilot/train.yaml"
PBS = EXAMPLES / "pbs/train.pbs"
_COMMAND = re.compile(r"python -m cld_core\.train (.+?)(?: &)?$", re.MULTILINE)


def jobset():
    jobset, claim = yaml.safe_load_all(JOBSET.read_text())
    (ranks,) = jobset["spec"]["replicatedJobs"]
    job = ranks["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    return jobset, claim, ranks, job, pod, container


def command_of(example):
    if example == JOBSET:
        *_, container = jobset()
        assert container["command"][:3] == ["python", "-m", "cld_core.train"]
        return [*container["command"][3:], *container["args"]]
    text = (
        yaml.safe_load(example.read_text())["run"] if example == SKYPILOT else example.read_text()
    )
    return shlex.split(_COMMAND.search(text)[1])


@pytest.mark.parametrize("example", [JOBSET, SKYPILOT, PBS], ids=lambda path: path.parent.name)
def test_the_command_and_its_recipe_are_accepted(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train", *command_of(example)])
    monkeypatch.setattr(
        "cld_core.ranks.join", Mock(side_effect=NotFoundError("as far as the other ranks"))
    )
    with signal_handlers():
        training.main()
    assert capsys.readouterr().err == "error: as far as the other ranks\n"


def test_a_jobset_knows_the_exit_codes_and_its_ranks():
    whole, claim, ranks, job, pod, container = jobset()
    action = {
        code: rule["action"]
        for rule in job["podFailurePolicy"]["rules"]
        for code in rule.get("onExitCodes", {"values": ["preempted"]})["values"]
    }
    assert action == {2: "FailJob", 3: "FailJob", 75: "Ignore", "preempted": "Ignore"}
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never"), (
        "what else fails is the JobSet's to count"
    )
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    name = whole["metadata"]["name"]
    assert env["MASTER_ADDR"] == f"{name}-{ranks['name']}-0-0.{name}"
    assert int(env["WORLD_SIZE"]) == job["completions"] == job["parallelism"]
    assert pod["terminationGracePeriodSeconds"] > 30, (
        "the default is too short for a large checkpoint"
    )
    (volume,) = pod["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_a_job_of_skypilot_ends_as_its_ranks_do(tmp_path):
    task = yaml.safe_load(SKYPILOT.read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    places = "$RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE"
    program(tmp_path / "python", f'#!/bin/bash\necho "{places}" >> ranks; exit $((RANK * 25))')
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SKYPILOT_NUM_GPUS_PER_NODE": "4"}
    done = subprocess.run(["bash", "-c", task["run"]], env=env, cwd=tmp_path)
    assert done.returncode == 75
    ranks = (tmp_path / "ranks").read_text().splitlines()
    assert sorted(ranks) == [f"{rank} {rank} 4 4" for rank in range(4)]


@pytest.fixture
def pbs(tmp_path):
    """Starts the script as a node of PBS does, with a text in place of mpirun and one that notes
    what is submitted."""
    (tmp_path / "nodes").write_text("n1\nn1\nn2\nn2\n")
    program(tmp_path / "qsub", '#!/bin/bash\necho "$@" >> submitted')
    (tmp_path / "python").symlink_to(sys.executable)
    path = f"{tmp_path}:{os.environ['PATH']}"
    env = {
        **os.environ,
        "PBS_O_WORKDIR": str(tmp_path),
        "PBS_NODEFILE": str(tmp_path / "nodes"),
        "PATH": path,
    }

    def start(mpirun, **variables):
        program(tmp_path / "mpirun", f"#!/bin/bash\n{mpirun}\n")
        return subprocess.Popen(["bash", tmp_path / "train.pbs"], env={**env, **variables})

    (tmp_path / "train.pbs").write_text(PBS.read_text())
    return start


@pytest.mark.parametrize(("code", "submitted"), [(0, False), (75, True), (1, False), (2, False)])
def test_a_job_of_pbs_submits_the_next_one_if_it_is_to_start_again(pbs, tmp_path, code, submitted):
    assert pbs(f'echo "$MASTER_ADDR $MASTER_PORT" > meeting; exit {code}').wait(timeout=60) == code
    assert (tmp_path / "meeting").read_text() == "n1 29500\n"
    assert (tmp_path / "submitted").exists() is submitted
    assert not submitted or (tmp_path / "submitted").read_text() == "train.pbs\n"


def test_a_job_of_pbs_that_reaches_its_limit_has_saved(pbs, tmp_path):
    words = shlex.join(
        ["--recipe", "toy", *ONE, *MISBEHAVING, "train.steps=100000", "train.log_every=1"]
    )
    process = pbs(
        f'PYTHONPATH={ROOT} exec "{sys.executable}" -m cld_core.train runs/mine {words}',
        CLDCTL_TEST_PACE="0.2",
        OMP_NUM_THREADS="1",
    )
    run = RunFolder(tmp_path / "runs" / "mine")
    wait_for(lambda: run.exists and run.progress().get("step", 0) > 0, timeout=300)
    # As `timeout` does when it is time.
    os.kill(local_holder(run.leases)["pid"], signal.SIGUSR2)
    assert process.wait(timeout=300) == 75
    assert (tmp_path / "submitted").read_text() == "train.pbs\n"
    (attempt,) = run.ledger.history().attempts
    assert run.checkpoint_steps()[-1] == attempt.last_step
