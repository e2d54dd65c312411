"""Evaluations: independent of how they are divided, resumable, and rows of others are not computed again."""

import shutil
import time
from dataclasses import replace

import numpy as np
import pytest

from cld_core.config import load
from cld_core.config.train import EmaSpec
from cld_core.errors import NotFoundError
from cld_core.evaluate.request import periodic_request, request_of
from cld_core.files import read_object, write_json
from cld_core.model import Model
from cld_core.ranks import Ranks
from cld_core.run.checkpoints import remove, weights_file
from cld_core.run.evaluations import EvalRequest, Evaluation, remarks, unnamed_rows
from cld_core.run.work import evaluations_of
from tests.support.paths import RECIPES
from tests.support.tools import trained

from .on_images import gather

# How accurate the bounds are does not matter here.
LOOSE = ("eval.elbo.rtol=0.01", "eval.elbo.atol=0.01")


@pytest.fixture
def run(toy, no_pictures):
    return toy


def evaluation(run, *overrides, shards=1, metrics=("elbo",)):
    request = request_of(load(run.recipe_file, [*LOOSE, *overrides]), metrics, 20, shards)
    return Evaluation(request.save(run))


def computed(run, *overrides, shards=1, metrics=("elbo",)):
    work = evaluation(run, *overrides, shards=shards, metrics=metrics)
    assert work.compute(Ranks())
    return work


def bounds(work):
    return gather(work)["elbo"]["elbo"]


def test_shards_do_not_change_a_bit_of_the_report_and_batches_only_rounding(run, chunks):
    chunks(10)
    results = []
    for shards, batch in ((1, 2048), (3, 2048), (7, 2048), (7, 4)):
        work = computed(run, f"eval.batch_size={batch}", shards=shards, metrics=("elbo", "loss", "w2"))
        assert work.request.shards == shards
        results.append((bounds(work), work.report))
        shutil.rmtree(run.evals)
        run.evals.mkdir()
    (one, report), *_, (other, in_small_batches) = results
    varies = ("created", "rows")
    for _, same in results[1:3]:
        assert same["rows"] == report["rows"], "the bytes of all chunks"
        assert {**same, **dict.fromkeys(varies)} == {**report, **dict.fromkeys(varies)}
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)
    assert in_small_batches["elbo"]["nll"] == pytest.approx(report["elbo"]["nll"], rel=1e-6)
    assert report["elbo"]["n"] == 70


def test_rows_of_another_evaluation_are_not_computed_again(run, ranges, chunks):
    """More metrics, more examples, another number of shards or batch size: only what is nowhere is computed."""
    chunks(16)
    first = computed(run, shards=2)
    ranges.clear()
    both = computed(run, "eval.batch_size=5", shards=3, metrics=("elbo", "loss"))
    assert ranges == []
    assert both.report["elbo"] == first.report["elbo"]
    assert both.report["loss"]["n"] == 70

    more = computed(run, "eval.samples=90")
    assert ranges == [(70, 80), (80, 90)], "the rest of the last chunk, and another one"
    assert more.report["elbo"]["n"] == 90
    np.testing.assert_array_equal(bounds(more)[:70], bounds(first))

    computed(run, "eval.elbo.velocities=2")
    assert len(ranges) == 2 + 5, "with other settings nothing is the same"


def test_shards_of_a_replaced_checkpoint_are_missing(run, chunks):
    chunks(16)
    work = computed(run, shards=3)
    assert (work.missing(), work.is_done, work.to_start(), work.rows_done()) == ([], True, [], (70, 70))
    sidecar = run.checkpoint_file(20).with_suffix(".json")
    write_json(sidecar, {**read_object(sidecar), "weights": {"bytes": 1, "sha256": "other"}})
    assert (work.missing(), work.is_done, work.to_start(), work.rows_done()) == ([0, 1, 2], False, [0, 1, 2], (0, 70))
    sidecar.unlink()
    assert work.is_done, "a checkpoint that was cleared away leaves its numbers valid"
    assert work.missing() == []


def test_the_report_says_what_it_promises(toy):
    run = toy  # with its pictures
    work = computed(run, "eval.elbo.velocities=3")
    elbo = work.report["elbo"]
    assert work.report["checkpoint_step"] == 20
    assert elbo["stderr"] > 0
    assert elbo["nfe_mean"] > 10
    assert elbo["true_entropy"] == pytest.approx(-1.40265, abs=1e-4)
    assert elbo["gap"] > 0
    source = Model.from_run(run.path).source
    truth = source.density.log_density(source.test_data(0, 0, elbo["n"])).mean()
    assert elbo["gap"] == pytest.approx(elbo["nll"] + float(truth), abs=1e-9), "the same examples on both sides"
    assert elbo["nll_importance"] <= elbo["nll"]
    assert (work.folder / "samples.png").stat().st_size > 1000


def test_an_interrupted_shard_resumes_at_its_next_batch(run, ranges):
    work = evaluation(run, "eval.batch_size=16")
    assert not work.compute(Ranks(), should_stop=lambda: len(ranges) >= 2)
    again = evaluation(run, "eval.batch_size=24")
    assert again.folder == work.folder, "another batch size is the same evaluation"
    assert again.compute(Ranks())
    assert ranges == [(0, 16), (16, 32), (32, 56), (56, 70)]
    before = again.report
    assert again.compute(Ranks())
    assert again.report == before, "nothing is left to do"


def test_a_request_is_read_back_as_it_was_asked(run):
    recipe = load(run.recipe_file, ["sampling.method=sscs", "sampling.sscs_order=2", "eval.elbo.probe=gaussian"])
    request = request_of(recipe, ("elbo", "loss"), 20)
    assert EvalRequest.load(request.save(run)) == request
    assert request.retries == recipe.train.max_retries


def test_a_request_for_a_sampler_that_is_not_registered_here_is_not_read_as_another(run):
    work = evaluation(run, "sampling.method=em")
    file = work.folder / "request.json"
    content = read_object(file)
    write_json(file, {**content, "sampling": {**content["sampling"], "method": "heun"}})
    (other,) = evaluations_of(run)
    assert other.request.sampling.method == "heun"


def test_rows_that_no_evaluation_names_go_after_a_day(run, monkeypatch):
    one = computed(run)
    other = computed(run, "eval.elbo.velocities=2")
    kept, left = one.rows("elbo").folder, other.rows("elbo").folder
    shutil.rmtree(other.folder)
    assert unnamed_rows(run) == [], "somebody may ask again"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 25 * 3600)
    assert unnamed_rows(run) == [left]
    assert kept.is_dir()


STEP = 40
SMALL = ("network.width=16", "network.layers=3", "train.steps=40", "train.batch_size=16", "eval.points=12")
KEPT = ("train.ema_lengths=[0.05,0.1]", "train.ema_every=2", "sampling.method=em", "sampling.nfe=2")


@pytest.fixture
def averaged(tmp_path):
    return trained(tmp_path / "mine", "toy_diamond", *SMALL, *KEPT)


def work(averaged, length, shards=3):
    request = replace(request_of(averaged.recipe(), ("loss",), STEP, shards), ema=EmaSpec(length=length))
    return Evaluation(request.save(averaged))


def test_a_length_is_part_of_what_is_asked(averaged):
    usual, short, long = (work(averaged, length).request for length in (None, 0.05, 0.07))
    assert len({request.id for request in (usual, short, long)}) == 3
    assert len({request.settings for request in (usual, short, long)}) == 3
    assert len({work(averaged, length).rows("loss") for length in (None, 0.05, 0.07)}) == 3
    periodic = load(RECIPES / "toy.yaml", ["ema.length=0.07", "train.ema_lengths=[0.1]", "periodic.elbo_every=5"])
    assert periodic_request(periodic, "elbo").ema == EmaSpec()
    assert request_of(periodic, ("loss",), 5).ema == EmaSpec(length=0.07)


def test_looking_makes_no_average_and_a_checkpoint_that_is_gone_is_named(averaged):
    looked, average = work(averaged, 0.07), weights_file(averaged, STEP, 0.07)
    assert (looked.missing(), looked.rows_done(), looked.moved_at()) == ([0], (0, 12), None)
    assert not average.exists()
    remove(averaged, STEP)
    assert (looked.missing(), looked.rows_done(), looked.moved_at()) == ([0], (0, 12), None)
    words = r"no checkpoint of step 40 any more; there are: .*\. What was computed is kept; use another step\."
    with pytest.raises(NotFoundError, match=words):
        looked.compute(Ranks())


def test_lost_snapshots_make_another_average(averaged, chunks):
    chunks(4)
    one = work(averaged, 0.07)
    assert one.compute(Ranks(), only=[0])
    whole = Model.from_run(averaged.path, STEP, "cpu", ema_length=0.07)
    assert one.missing() == [1, 2]
    averaged.snapshot_file(38).unlink()
    assert Evaluation(one.folder).missing() == [0, 1, 2], "rows of another average"
    for shard in range(3):
        assert Evaluation(one.folder).compute(Ranks(), only=[shard])
    report = one.report
    assert report["ema"]["length"] == 0.07
    assert report["ema"]["error"] > whole.ema_error
    assert work(averaged, None).compute(Ranks())
    assert "ema" not in work(averaged, None).report


def test_readers_are_told_of_a_bad_fit():
    assert remarks({"ema": {"length": 0.07, "error": 0.01}}) == []
    assert remarks({"ema": {"length": 0.07, "error": 0.05}}) == [
        "the average of length 0.07 is made of others, with a relative error of its profile of 0.05"
    ]
    assert remarks({"ema": {"error": 0.05}}) == []
