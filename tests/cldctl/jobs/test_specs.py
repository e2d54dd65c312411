"""What jobs ask of a cluster."""

import pytest

from cld_core.checkpoint.files import FORMAT, Content, Sidecar
from cld_core.config import load
from cld_core.run import RunFolder
from cldctl.clusters.debug import DebugCluster
from cldctl.jobs import specs
from tests.support.paths import RECIPES

TOY = RECIPES / "toy.yaml"


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "mine", load(TOY), {"created": 1.0})


def saved(run: RunFolder, step: int, seconds: float) -> None:
    sidecar = Sidecar(format=FORMAT, step=step, state=Content(0, ""), seconds=seconds)
    sidecar.write(run.checkpoint_file(step).with_suffix(".json"))


def test_the_notice_comes_from_measured_saves_for_training_and_shards_alike(run):
    def notices(recipe):
        training = specs.training(run, recipe, DebugCluster())
        shards = specs.sharded([run.evals / "e"], recipe.cluster, DebugCluster(), run=run)
        return {training.notice_s, shards.notice_s}

    assert notices(run.recipe()) == {90}
    saved(run, 10, 2.0)
    saved(run, 20, 100.0)
    assert notices(run.recipe()) == {360}
    assert notices(load(TOY, ["cluster.signal_s=45"])) == {45}
    statistics = specs.sharded([run.evals / "e"], run.recipe().cluster, DebugCluster())
    assert statistics.notice_s == 90, "no save was measured"
    assert specs.measured_saves([run]).slowest_s == 100.0


def test_a_task_of_shards_is_one_process(run):
    size = load(TOY, ["cluster.nodes=2", "cluster.gpus_per_node=8"]).cluster
    spec = specs.sharded([run.evals / "e"], size, DebugCluster(), run=run, parallel=5)
    assert (spec.size.nodes, spec.size.ranks_per_node, spec.size.gpus_per_node, spec.parallel) == (1, 1, 1, 5)


def test_an_aftermath_is_told_what_ended_and_by_which_launcher(run):
    spec = specs.training(run, run.recipe(), DebugCluster())
    module, kind, folder, logs, launcher = spec.aftermath
    assert (module, kind, folder, logs) == ("cldctl.jobs.aftermath", "training", str(run.path), str(run.logs))
    assert launcher == "cldctl.clusters.debug:DebugCluster"
