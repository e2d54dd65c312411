"""Training on images: ranks, micro-batches, resumed epochs, precision, periodic work, progress."""

import math
import re
from unittest.mock import Mock

import pytest
import torch

from cld_core import pictures, seeds
from cld_core.checkpoint import load as load_checkpoint
from cld_core.errors import UsageError
from cld_core.evaluate import likelihood
from cld_core.evaluate.features import FeatureRows
from cld_core.evaluate.likelihood import ElboRows
from cld_core.evaluate.request import request_of
from cld_core.evaluate.rows import Table
from cld_core.model import Model
from cld_core.ranks import Ranks
from cld_core.stop import StopCode, StopFlag
from cld_core.train.step import Trainer
from tests.cld_core.evaluate.on_images import stats_of
from tests.cld_core.train.conftest import attempt, remarks
from tests.support.extractor import TINY
from tests.support.failing import FULL_DISK, Failing
from tests.support.images import make_images, run_folder, tiny_recipe
from tests.support.made_up import note, ordered, requested
from tests.support.recipes import shipped_recipe
from tests.support.spawned import spawned
from tests.support.spoiled import spoil
from tests.support.tools import same, stepped

STEPS = 20
LOOSE = ("eval.elbo.rtol=0.05", "eval.elbo.atol=0.05")


def pictures_of(run):
    return [file.name for file in run.samples.iterdir()]


def trained(recipe, ranks=None, steps=STEPS):
    made = Trainer(recipe, ranks or Ranks())
    made.warm_up()
    return stepped(made, steps)


def outcome(recipe, ranks=None):
    made = trained(recipe, ranks)
    return {"net": made.net.state_dict(), "loss": made.take_scalars()["loss"]}


def assert_only_rounding_differs(found, expected):
    """After 20 steps the weights agree except for rounding, which Adam's first steps magnify."""
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    torch.testing.assert_close(found["net"], expected["net"], rtol=1e-3, atol=1e-4)


def _outcomes(ranks, recipes):
    return [outcome(recipe, ranks) for recipe in recipes]


def test_two_ranks_and_micro_batches_train_as_one(data, tmp_path):
    """Shares of 3 and 2 images are weighed by their rows."""
    odd = "train.batch_size=5"
    augmented = "network.augment=0.5"
    recipes = (tiny_recipe(data, odd), tiny_recipe(data, odd, augmented, "train.micro_batch=2"))
    (whole, cut), others = spawned(_outcomes, tmp_path, 2, recipes)
    assert same(others, [whole, cut])
    assert_only_rounding_differs(whole, outcome(tiny_recipe(data, odd)))
    assert_only_rounding_differs(cut, outcome(tiny_recipe(data, odd, augmented)))


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.precision=bf16",),
        ("train.precision=fp16",),
        ("train.channels_last=true",),
        ("optim.name=adamw", "optim.weight_decay=0.01"),
        ("data.cache=disk",),
        ("network.dropout=0.2",),
        ("optim.impl=plain",),
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_option_trains_and_repeats_itself(data, overrides):
    """Into the third epoch."""
    recipe = tiny_recipe(data, *overrides)
    first, second = (trained(recipe, steps=8) for _ in range(2))
    assert same(first.state_dict(), second.state_dict())
    scalars = first.take_scalars()
    assert math.isfinite(scalars["loss"])
    assert scalars["memory_gib"] > 0
    assert scalars["data_wait_s"] >= 0
    for made in (first, second):
        made.close()


def test_periodic_work_leaves_pictures_and_numbers_and_training_unchanged(data, tmp_path, capsys):
    quick = ("sampling.nfe=3", "periodic.samples=5", "periodic.elbo_points=4")
    quick += ("periodic.batch_size=2", *LOOSE)
    due = ("periodic.samples_every=4", "periodic.elbo_every=4", "periodic.elbo_from=8")
    due += ("periodic.fid_every=4", "periodic.fid_from=8", "periodic.fid_samples=7")
    fid = (*TINY, "eval.samples=7")
    worked = run_folder(tmp_path, data, *quick, *fid, "train.on_resume=exact")
    stats_of(worked)
    (tmp_path / "plain").mkdir()
    plain = run_folder(tmp_path / "plain", data, "train.on_resume=exact")
    note(worked, requested(12, *due))
    for run in (worked, plain):
        attempt(run)
    assert sorted(pictures_of(worked)) == [f"step_{step:08d}.png" for step in (4, 8, 12)]
    out = capsys.readouterr().out
    assert "step 8: likelihood bound of 4 test points: bpd" in out
    assert "step 4: likelihood bound" not in out
    assert same(load_checkpoint(worked, 12), load_checkpoint(plain, 12))
    found = re.findall(r"step (\d+): FID (\S+) of 7 samples", out)
    assert [step for step, _ in found] == ["8", "12"]
    evaluation = ordered(worked, 12, "fid", 2)
    assert evaluation.compute(Ranks()).is_done
    assert float(found[1][1]) == pytest.approx(evaluation.report["fid"]["value"], abs=1e-4)


def test_a_request_to_stop_ends_periodic_work_between_two_batches(data, tmp_path, monkeypatch):
    flag = StopFlag()
    run = run_folder(tmp_path, data, "sampling.nfe=3", "periodic.batch_size=1", "train.steps=8")
    due = ("periodic.samples_every=4", "periodic.samples=50")
    note(run, requested(8, *due))
    original = Model.draw
    calls = []

    def drawing(self, n, **settings):
        calls.append(settings["first"])
        if len(calls) == 3:
            flag.request(StopCode.USR2)
        return original(self, n, **settings)

    monkeypatch.setattr(Model, "draw", drawing)
    assert attempt(run, flag)[0] == "terminated"
    assert calls == [0, 1, 2, 3]
    assert pictures_of(run) == []


def measured(made):
    """Loss and bits/dim of the averaged weights on test images, with equal times and noise."""
    model = Model(made.recipe, net=made.net.eval(), data=made.source)
    request = request_of(made.recipe, ("elbo",), 0)
    x = made.source.dequantised_test_data(0, 0, 40).repeat(20, 1, 1, 1)
    draws = made.loss.draw(seeds.generator(3), len(x), model.data_shape)
    with made.ema.in_place():
        with torch.no_grad():
            loss = float(made.loss.losses(model.score, x, draws).weighted.mean())
        rows = ElboRows(model, request).compute(0, 16)
        bits = likelihood.elbo(Table(model, request, rows))["bpd"]
    made.net.train()
    return loss, bits


def test_training_lowers_the_loss_and_the_bits(data):
    """The smoke recipe at 8x8; docs/reproducing.md has what it does at its full size."""
    keys = ("train.batch_size=16", "train.ema=0.9", "optim.lr=0.006", "optim.warmup_steps=0")
    made = Trainer(tiny_recipe(data, *LOOSE, *keys), Ranks())
    before = measured(made)
    after = measured(stepped(made, 110))
    assert after[0] < 0.8 * before[0], (before, after)
    # Rounding differs between processors, and with it how far 110 steps get.
    assert after[1] < before[1] - 0.4, (before, after)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("cifar10", 32),
        pytest.param("celebahq256_paper", 256, marks=pytest.mark.by_hand),
        ("celebahq256", 64),
    ],
)
def test_one_step_of_the_full_recipe_on_the_cpu(name, pixels, tmp_path):
    """Batch 1, float32; prints loss, time and memory, which docs/reproducing.md records.

    `celebahq256` is a deeper `celebahq256_paper`: images of fewer pixels pass all of its layers and
    parameters.
    """
    import time

    data = make_images(tmp_path / "set", size=pixels, splits={"train": 2, "validation": 1})
    overrides = ["data.name=folder", f"data.path={data}", f"data.size={pixels}"]
    overrides += [f"network.image_size={pixels}", "train.precision=fp32", "train.batch_size=1"]
    overrides += ["cluster.nodes=1", "cluster.gpus_per_node=0"]
    made = Trainer(shipped_recipe(name, *overrides), Ranks())
    started = time.perf_counter()
    made.step(0)
    seconds = time.perf_counter() - started
    scalars = made.take_scalars()
    print(f"\n{name}: loss {scalars['loss']:.1f}, {seconds:.1f} s, {scalars['memory_gib']:.2f} GiB")
    assert math.isfinite(scalars["loss"])
    assert math.isfinite(scalars["grad_norm"])


STEP = 2
FID = ("periodic.fid_every=2", "periodic.fid_samples=7")
QUICK = (f"train.steps={STEP}", "sampling.nfe=3", "periodic.batch_size=3", "eval.samples=7")


@pytest.fixture
def worked(tmp_path, data, capsys):
    """Trains a run with this periodic work, and returns the lines that it prints."""

    def train(*due, settings=()):
        run = run_folder(tmp_path, data, *QUICK, *TINY, *settings)
        stats_of(run)
        note(run, requested(STEP, *due))
        assert attempt(run)[0] == "finished"
        return capsys.readouterr().out.splitlines()

    return train


def test_too_many_of_them_and_there_is_no_fid_this_time(worked, monkeypatch):
    spoil(monkeypatch, [0, 4])
    lines = worked(*FID)
    (line,) = [line for line in lines if "FID" in line]
    words = "no FID this time: 2 of 7 samples are not finite, a fraction of 0.286, but"
    assert line.startswith(words)


def test_a_few_of_them_are_named_beside_the_fid_and_pictures(worked, monkeypatch):
    spoil(monkeypatch, [0, 4])
    due = ("periodic.samples_every=2", "periodic.samples=5", *FID)
    lines = worked(*due, settings=("eval.max_nonfinite=0.3",))
    assert {f"step 2: 2 of {number} samples are not finite" for number in (5, 7)} <= set(lines)
    assert any(line.startswith("step 2: FID ") for line in lines)


def test_an_extractor_that_is_gone_ends_no_training(worked, monkeypatch):
    gone = Mock(side_effect=UsageError("the weights are gone"))
    monkeypatch.setattr(FeatureRows, "__init__", gone)
    assert "no FID this time: the weights are gone" in worked(*FID)


DUE = ("periodic.samples_every=2", "periodic.samples=50", "sampling.method=em", "sampling.nfe=3")


def test_a_picture_that_cannot_be_drawn_ends_no_training(make, monkeypatch):
    failing = Failing(pictures.pixels, lambda call: call == 1, FULL_DISK)
    monkeypatch.setattr(pictures, "pixels", failing)
    run = make("train.steps=4", *DUE)
    assert attempt(run)[0] == "finished"
    assert pictures_of(run) == ["step_00000004.png"]
    assert [remark[:2] for remark in remarks(run)] == [("pictures", 1)]
