"""Evaluations: independent of their division, resumable, with shared rows and exact bounds."""

import math
import shutil
import time
from dataclasses import replace

import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from cld_core.analytic import gaussian
from cld_core.checkpoint import write
from cld_core.config import load, registry
from cld_core.config.eval import ElboSpec
from cld_core.config.network import MlpSpec
from cld_core.config.train import EmaSpec
from cld_core.data.source import source
from cld_core.errors import NotFoundError
from cld_core.evaluate.likelihood import raised_by_tolerance
from cld_core.evaluate.request import periodic_request, request_of
from cld_core.evaluate.rows import to_tensorboard
from cld_core.files import read_object, write_json
from cld_core.likelihood import likelihood
from cld_core.metrics import metric
from cld_core.model import Model
from cld_core.plugins import Variant
from cld_core.ranks import Ranks
from cld_core.run import RunFolder
from cld_core.run.checkpoints import remove, weights_file
from cld_core.run.evaluations import EvalRequest, Evaluation, remarks, unnamed_rows
from cld_core.run.work import evaluations_of
from cld_core.sde import CLD, build
from tests.support.made_up import run_with
from tests.support.numeric import noise_of, seeded
from tests.support.recipes import toy_recipe
from tests.support.tools import trained

from . import on_images
from .on_images import gather

# How accurate the bounds are does not matter here.
LOOSE = ("eval.elbo.rtol=0.01", "eval.elbo.atol=0.01")


@pytest.fixture
def run(toy, no_pictures):
    return toy


def computed(run, *overrides, shards=1, metrics=("elbo",)):
    return on_images.computed(run, metrics, *LOOSE, *overrides, shards=shards)


def bounds(work):
    return gather(work)["elbo"]["elbo"]


def test_shards_do_not_change_a_bit_of_the_report_and_batches_only_rounding(run, chunks):
    chunks(10)
    results = []
    for shards, batch in ((1, 2048), (3, 2048), (7, 2048), (7, 4)):
        metrics = ("elbo", "loss", "w2")
        work = computed(run, f"eval.batch_size={batch}", shards=shards, metrics=metrics)
        assert work.request.shards == shards
        results.append((bounds(work), work.report))
        shutil.rmtree(run.evals)
        run.evals.mkdir()
    (one, report), *_, (other, in_small_batches) = results
    varies = ("created", "rows")
    for _, same in results[1:3]:
        assert same["rows"] == report["rows"], "the bytes of all chunks"
        assert {**same, **dict.fromkeys(varies)} == {**report, **dict.fromkeys(varies)}
    assert_allclose(other, one, rtol=1e-5, atol=1e-5)
    assert in_small_batches["elbo"]["nll"] == pytest.approx(report["elbo"]["nll"], rel=1e-6)
    assert report["elbo"]["n"] == 70


def test_rows_of_another_evaluation_are_not_computed_again(run, ranges, chunks):
    """Nor with more metrics, more examples, another number of shards or another batch size."""
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
    assert_array_equal(bounds(more)[:70], bounds(first))

    computed(run, "eval.elbo.velocities=2")
    assert len(ranges) == 2 + 5, "with other settings nothing is the same"


def test_shards_of_a_replaced_checkpoint_are_missing(run, chunks):
    chunks(16)
    work = computed(run, shards=3)
    assert work.is_done
    assert work.missing() == work.to_start() == []
    assert work.rows_done() == (70, 70)
    sidecar = run.checkpoint_file(20).with_suffix(".json")
    write_json(sidecar, {**read_object(sidecar), "weights": {"bytes": 1, "sha256": "other"}})
    assert not work.is_done
    assert work.missing() == work.to_start() == [0, 1, 2]
    assert work.rows_done() == (0, 70)
    sidecar.unlink()
    assert work.is_done, "a checkpoint that was removed leaves its numbers valid"
    assert work.missing() == []


def test_the_report_and_its_picture(toy):
    work = computed(toy, "eval.elbo.velocities=3")
    elbo = work.report["elbo"]
    assert work.report["checkpoint_step"] == 20
    assert elbo["stderr"] > 0
    assert elbo["nfe_mean"] > 10
    assert elbo["true_entropy"] == pytest.approx(-1.40265, abs=1e-4)
    assert elbo["gap"] > 0
    source = Model.from_run(toy.path).source
    # The same examples are on both sides.
    truth = source.density.log_density(source.test_data(0, 0, elbo["n"])).mean()
    assert elbo["gap"] == pytest.approx(elbo["nll"] + float(truth), abs=1e-9)
    assert elbo["nll_importance"] <= elbo["nll"]
    assert (work.folder / "samples.png").stat().st_size > 1000


def test_a_request_is_read_back_as_it_was_stored(run):
    keys = ["sampling.method=sscs", "sampling.sscs_order=2", "eval.elbo.probe=gaussian"]
    recipe = load(run.recipe_file, keys)
    request = request_of(recipe, ("elbo", "loss"), 20)
    assert EvalRequest.load(request.save(run)) == request
    assert request.retries == recipe.train.max_retries


def test_a_request_for_a_sampler_that_is_not_registered_here_is_not_read_as_another(run):
    recipe = load(run.recipe_file, ["sampling.method=em"])
    file = request_of(recipe, ("elbo",), 20).save(run) / "request.json"
    content = read_object(file)
    write_json(file, {**content, "sampling": {**content["sampling"], "method": "heun"}})
    (other,) = evaluations_of(run)
    assert other.request.sampling.method == "heun"


def test_rows_that_no_evaluation_names_go_after_a_day(run, monkeypatch):
    one = computed(run)
    other = computed(run, "eval.elbo.velocities=2")
    kept = one.rows("elbo").folder
    left = other.rows("elbo").folder
    shutil.rmtree(other.folder)
    assert unnamed_rows(run) == [], "a further request may need them"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 25 * 3600)
    assert unnamed_rows(run) == [left]
    assert kept.is_dir()


STEP = 40
SMALL = ("network.width=16", "network.layers=3", "train.steps=40", "train.batch_size=16")
KEPT = ("train.ema_lengths=[0.05,0.1]", "train.ema_every=2", "sampling.method=em", "sampling.nfe=2")


@pytest.fixture
def averaged(tmp_path):
    return trained(tmp_path / "mine", "toy_diamond", *SMALL, *KEPT, "eval.points=12")


def work(averaged, length, shards=3):
    request = request_of(averaged.recipe(), ("loss",), STEP, shards)
    return Evaluation(replace(request, ema=EmaSpec(length=length)).save(averaged))


def test_a_length_is_part_of_a_request(averaged):
    works = [work(averaged, length) for length in (None, 0.05, 0.07)]
    assert len({work.request.id for work in works}) == 3
    assert len({work.request.settings for work in works}) == 3
    assert len({work.rows("loss") for work in works}) == 3
    periodic = toy_recipe("ema.length=0.07", "train.ema_lengths=[0.1]", "periodic.elbo_every=5")
    assert periodic_request(periodic, "elbo").ema == EmaSpec()
    assert request_of(periodic, ("loss",), 5).ema == EmaSpec(length=0.07)


def test_looking_makes_no_average_and_a_checkpoint_that_is_gone_is_named(averaged):
    looked = work(averaged, 0.07)
    average = weights_file(averaged, STEP, 0.07)
    assert (looked.missing(), looked.rows_done(), looked.moved_at()) == ([0], (0, 12), None)
    assert not average.exists()
    remove(averaged, STEP)
    assert (looked.missing(), looked.rows_done(), looked.moved_at()) == ([0], (0, 12), None)
    words = r"no checkpoint of step 40 any more; there are: .*\. What was computed is kept; use"
    with pytest.raises(NotFoundError, match=words):
        looked.compute(Ranks())


def test_lost_snapshots_make_another_average(averaged, chunks):
    chunks(4)
    one = work(averaged, 0.07)
    assert one.compute(Ranks(), pieces=[0]).is_done
    whole = Model.from_run(averaged.path, STEP, "cpu", ema_length=0.07)
    assert one.missing() == [1, 2]
    averaged.snapshot_file(38).unlink()
    assert Evaluation(one.folder).missing() == [0, 1, 2], "rows of another average"
    for shard in range(3):
        assert Evaluation(one.folder).compute(Ranks(), pieces=[shard]).is_done
    report = one.report
    assert report["ema"]["length"] == 0.07
    assert report["ema"]["error"] > whole.ema_error
    assert work(averaged, None).compute(Ranks()).is_done
    assert "ema" not in work(averaged, None).report


def test_a_remark_on_a_bad_fit():
    assert remarks({"ema": {"length": 0.07, "error": 0.01}}) == []
    (remark,) = remarks({"ema": {"length": 0.07, "error": 0.05}})
    assert (
        "length 0.07 is reconstructed from stored ones; the relative error of its profile is 0.05"
        in remark
    )
    assert remarks({"ema": {"error": 0.05}}) == []


class Exact(torch.nn.Module):
    """In place of the MLP: the network whose score is that of Gaussian data."""

    def __init__(self, spec, data_shape, halves_in, halves_out):
        super().__init__()
        self.sde = build(toy_recipe("sde.beta0=6").sde)
        self.score = gaussian(0.5).score(self.sde)
        # As many tensors as a network of this many layers has at least.
        self.unused = torch.nn.ParameterList(torch.zeros(()) for _ in range(spec.layers))

    def forward(self, u, t):
        factor = self.sde.target(t.double(), "hsm")[:, 0]
        return -self.score(u.double(), t.double()) / factor


# At beta = 6 the law at t = 1 is the prior to 1e-8, and the flow starts where the data are.
TIGHT = ("sde.beta0=6", "eval.elbo.rtol=1e-7", "eval.elbo.atol=1e-7", "eval.samples=40")
TIGHT += ("eval.elbo.eps=1e-7", "objective.loss_eps=1e-7")


def test_the_bound_of_a_gaussian_model_is_its_log_density_through_shards_merge_and_report(
    tmp_path, monkeypatch, no_pictures, chunks
):
    chunks(15)
    exact = Variant(MlpSpec, f"{__name__}:Exact")
    monkeypatch.setitem(registry.SECTIONS["network"].variants, "mlp", exact)
    recipe = toy_recipe("data.name=gaussian", *TIGHT)
    run = RunFolder.create(tmp_path / "exact", recipe, {"created": 1.0})
    weights = {f"unused.{layer}": torch.zeros(()) for layer in range(recipe.network.layers)}
    averages = {"average": weights, "updates": 0}
    write(run, 1, {"model": weights, "ema": averages, "model_digest": recipe.model_digest()})
    work = Evaluation(request_of(recipe, ("elbo",), 1, shards=3).save(run))
    assert work.compute(Ranks()).is_done
    x = source(recipe.data).dequantised_test_data(recipe.eval.seed, 0, 40)
    truth = gaussian(0.5).log_density(x).numpy()
    assert_allclose(gather(work)["elbo"]["elbo"], truth, rtol=0, atol=1e-5)
    elbo = work.report["elbo"]
    assert abs(elbo["nll"] + truth.mean()) < 1e-5
    assert abs(elbo["nll_importance"] + truth.mean()) < 1e-5
    assert abs(elbo["gap"]) < 1e-5
    assert abs(elbo["true_entropy"] - math.log(2.0 * math.pi * math.e * 0.25)) < 1e-9
    assert elbo["stderr"] > 0.05, "the data scatter, though nothing else does"


def test_a_remark_on_a_tolerance_that_raises_the_bound_by_a_tenth_of_its_error():
    """All that keeps the bound of normal data from the truth is the solver."""
    spec = ElboSpec(rtol=1e-4, atol=1e-4)
    sde = CLD()
    law = gaussian(0.5, 100)
    x = law.sample(16, seeded(2)).double()
    bound = likelihood(law.score(sde), sde, spec, noise_of(16, seed=1), x).elbo
    raised = raised_by_tolerance(sde, spec, 100)
    assert raised == pytest.approx(float((bound - law.log_density(x)).mean()), rel=0.2)
    section = {"unit": "nats", "tolerance_bias": -raised}
    assert metric("elbo").remark({**section, "stderr": 11 * raised}) is None
    assert "eval.elbo.rtol" in metric("elbo").remark({**section, "stderr": 9 * raised})


LATER = "objective.loss_eps=0.001"
RAISED = "the bound starts at t = 0.001, because training used no smaller t (objective.loss_eps)"


def toy_request(*overrides):
    return request_of(toy_recipe(*overrides), ("elbo",), 20)


def test_it_is_the_later_of_two_times():
    requests = [toy_request(), toy_request(LATER), toy_request(LATER, "eval.elbo.eps=0.01")]
    starts = [(request.elbo.eps, request.elbo_eps_asked) for request in requests]
    assert starts == [(1e-5, None), (1e-3, 1e-5), (1e-2, None)]
    assert toy_request(LATER).id == toy_request(LATER, "eval.elbo.eps=0.001").id, "they start alike"


def test_the_report_says_where_it_starts(toy, no_pictures, capsys):
    """Of a run whose network saw no t below 1e-3."""
    text = toy.recipe_file.read_text()
    toy.recipe_file.write_text(text.replace("loss_eps: 1.0e-05", "loss_eps: 0.001"))
    assert toy.recipe().objective.loss_eps == 1e-3
    work = on_images.computed(toy, ("elbo",), "eval.samples=10")
    assert (work.report["elbo"]["eps"], work.report["elbo"]["eps_asked"]) == (1e-3, 1e-5)
    assert remarks(work.report) == [RAISED]
    assert capsys.readouterr().out.splitlines().count(RAISED) == 1


def test_bounds_of_several_steps_are_one_curve(tmp_path, monkeypatch):
    # Files of one second are read in the order of a counter of the process, as texts: 10 comes
    # before 9.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    run = run_with(tmp_path / "mine", 20, 40)
    for step in (20, 40):
        report = {"elbo": {"nll": step / 16, "stderr": 0.5, "n": 512, "nfe_mean": 101.6}}
        to_tensorboard(run, request_of(run.recipe(), ("elbo",), step), report)
    (folder,) = run.tensorboard.iterdir()
    events = EventAccumulator(str(folder)).Reload()
    points = events.Scalars("evaluation/nll (n=512)")
    assert [(point.step, point.value) for point in points] == [(20, 1.25), (40, 2.5)]
    text = events.Tensors("evaluation/results/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "| 2.5 | 0.5 | 512 | 102 |" in text
