"""A command that is typed inside of a job passes nothing of it on."""

import os

from cldctl.clusters.slurm import outer

INSIDE = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "2", "SLURMD_NODENAME": "n1"}
KEPT = {"SLURM_CONF": "/etc/slurm.conf", "SLURM_CLUSTERS": "big", "SBATCH_ACCOUNT": "lab"}


def known():
    return {name: os.environ[name] for name in (*INSIDE, *KEPT, "SLURM_HINT") if name in os.environ}


def set_all(monkeypatch, variables):
    for name in (*INSIDE, *KEPT):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_what_is_of_the_job_is_hidden_and_comes_back(monkeypatch):
    set_all(monkeypatch, {**INSIDE, **KEPT})
    before = known()
    with outer.hidden():
        assert known() == KEPT
    assert known() == before


def test_outside_of_a_job_everything_stays(monkeypatch):
    set_all(monkeypatch, {**KEPT, "SLURM_HINT": "nomultithread"})
    with outer.hidden():
        assert known() == {**KEPT, "SLURM_HINT": "nomultithread"}
