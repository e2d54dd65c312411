"""The registry of clusters: every name can be loaded, and loading one loads nothing heavy."""

import os
import subprocess
import sys

import pytest

from cld_core.errors import UsageError
from cldctl import clusters


def test_every_name_is_a_cluster_of_that_name():
    assert [clusters.find(name).name for name in clusters.CLUSTERS] == list(clusters.CLUSTERS)


def test_a_name_that_is_not_registered():
    with pytest.raises(UsageError, match=r"--cluster cannot be 'lokal'; expected one of .*Did you mean 'local'\?"):
        clusters.find("lokal")


def test_the_default_is_slurm_if_sbatch_and_a_configuration_are_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    (tmp_path / "slurm.conf").touch()
    assert clusters.default().name == "local"
    (tmp_path / "sbatch").touch(mode=0o755)
    assert clusters.default().name == "slurm"


def test_nothing_heavy_is_loaded():
    heavy = "('torch', 'numpy', 'scipy', 'submitit')"
    load = "from cldctl import clusters, machine; [clusters.find(name) for name in clusters.CLUSTERS]"
    code = f"import sys; {load}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=60)
    assert done.stdout.strip() == "[]", done
