"""Evaluations of averages of other lengths: their identity, and what becomes of lost snapshots."""

from dataclasses import replace

import pytest

from cld_core.checkpoint.files import remove, weights_file
from cld_core.config import load
from cld_core.config.train import EmaSpec
from cld_core.errors import NotFoundError
from cld_core.evaluate.evaluation import Evaluation
from cld_core.evaluate.request import EvalRequest
from cld_core.model import Model
from cld_core.ranks import Ranks
from cld_core.run import RunFolder
from tests.support.paths import RECIPES
from tests.support.tools import trained

STEP = 40
SMALL = ("network.width=16", "network.layers=3", "train.steps=40", "train.batch_size=16", "eval.points=12")
KEPT = ("train.ema_lengths=[0.05,0.1]", "train.ema_every=2", "sampling.method=em", "sampling.nfe=2")


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return trained(tmp_path / "mine", "toy_diamond", *SMALL, *KEPT)


def work(run: RunFolder, length: float | None, shards: int = 3) -> Evaluation:
    request = replace(EvalRequest.of(run.recipe(), ("loss",), STEP, shards), ema=EmaSpec(length=length))
    return Evaluation(request.save(run))


def test_a_length_is_part_of_what_is_asked(run):
    usual, short, long = (work(run, length).request for length in (None, 0.05, 0.07))
    assert len({request.id for request in (usual, short, long)}) == 3
    assert len({request.settings for request in (usual, short, long)}) == 3
    assert len({work(run, length).rows("loss") for length in (None, 0.05, 0.07)}) == 3
    periodic = load(RECIPES / "toy.yaml", ["ema.length=0.07", "train.ema_lengths=[0.1]", "periodic.elbo_every=5"])
    assert EvalRequest.periodic(periodic, "elbo").ema == EmaSpec()
    assert EvalRequest.of(periodic, ("loss",), 5).ema == EmaSpec(length=0.07)


def test_looking_makes_no_average_and_a_checkpoint_that_is_gone_is_named(run):
    looked, average = work(run, 0.07), weights_file(run, STEP, 0.07)
    assert (looked.missing(), looked.rows_done(), looked.moved_at()) == ([0], (0, 12), None)
    assert not average.exists()
    remove(run, STEP)
    assert (looked.missing(), looked.rows_done(), looked.moved_at()) == ([0], (0, 12), None)
    words = r"no checkpoint of step 40 any more; there are: .*\. What was computed is kept; use another step\."
    with pytest.raises(NotFoundError, match=words):
        looked.compute(Ranks())


def test_lost_snapshots_make_another_average(run, chunks):
    chunks(4)
    one = work(run, 0.07)
    assert one.compute(Ranks(), only=[0])
    whole = Model.from_run(run.path, STEP, "cpu", ema_length=0.07)
    assert one.missing() == [1, 2]
    run.snapshot_file(38).unlink()
    assert Evaluation(one.folder).missing() == [0, 1, 2], "rows of another average"
    for shard in range(3):
        assert Evaluation(one.folder).compute(Ranks(), only=[shard])
    report = one.report
    assert report["ema"]["length"] == 0.07
    assert report["ema"]["error"] > whole.ema_error
    assert work(run, None).compute(Ranks())
    assert "ema" not in work(run, None).report
