"""The registry of clusters: every name can be loaded, and loading one loads nothing heavy."""

import pytest

from cld_core.config import load
from cld_core.errors import RecipeError, UsageError
from cld_core.run import RunFolder
from cldctl import clusters
from cldctl.clusters import find
from cldctl.jobs import specs
from tests.support.paths import RECIPES


def test_every_name_is_a_cluster_of_that_name():
    assert [clusters.find(name).name for name in clusters.CLUSTERS] == list(clusters.CLUSTERS)


def test_a_name_that_is_not_registered():
    with pytest.raises(UsageError, match=r"--cluster cannot be 'lokal'; expected one of .*Did you mean 'local'\?"):
        clusters.find("lokal")


@pytest.mark.parametrize("cluster", ["local", "debug"])
@pytest.mark.parametrize(
    ("seen", "asked", "refused"), [("", 1, True), ("-1", 1, True), ("0", 1, False), ("", 0, False)]
)
def test_gpus_that_are_not_there_are_refused(tmp_path, monkeypatch, cluster, seen, asked, refused):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    recipe = load(RECIPES / "toy.yaml", [f"cluster.gpus_per_node={asked}"])
    spec = specs.training(RunFolder(tmp_path / "mine"), recipe, find(cluster))
    if refused:
        with pytest.raises(RecipeError, match=r"cluster.gpus_per_node' is 1.* set cluster.gpus_per_node=0"):
            find(cluster).check(spec)
    else:
        find(cluster).check(spec)
