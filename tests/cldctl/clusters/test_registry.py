"""The registry of clusters: every name can be loaded, and loading one loads nothing heavy."""

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
