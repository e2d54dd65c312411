"""Samples and numbers during training: pictures in folder and TensorBoard, and what is said of unusual results."""

import errno
import io
import os

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cld_core import pictures
from cld_core.errors import UsageError
from cld_core.evaluate.features import FeatureRows
from cld_core.evaluate.statistics import Statistics, StatsRequest
from cld_core.ranks import Ranks
from cld_core.run import events
from cld_core.run.events import Remarked
from tests.cld_core.train.conftest import attempt
from tests.support.extractor import TINY
from tests.support.images import run_folder
from tests.support.spoiled import spoil

STEP = 2
QUICK = (f"train.steps={STEP}", "sampling.nfe=3", "periodic.batch_size=3", "eval.samples=7")


@pytest.fixture
def trained(tmp_path, data, capsys):
    """Trains a run with the periodic work that is asked for, and returns what it printed."""

    def train(*due: str, settings: tuple[str, ...] = ()) -> list[str]:
        run = run_folder(tmp_path, data, *QUICK, *TINY, *settings)
        stats = StatsRequest.of(run.recipe(), None, features=False, shards=1).save()
        assert Statistics(stats).compute(Ranks())
        run.ledger.append(events.Requested(steps=STEP, overrides=due))
        assert attempt(run).cause == "finished"
        return capsys.readouterr().out.splitlines()

    return train


def test_pictures_with_samples_that_are_not_finite(trained, monkeypatch):
    spoil(monkeypatch, [0, 4])
    assert "step 2: 2 of 5 samples are not finite" in trained("periodic.samples_every=2", "periodic.samples=5")


def test_too_many_of_them_and_there_is_no_fid_this_time(trained, monkeypatch):
    spoil(monkeypatch, [0, 4])
    lines = trained("periodic.fid_every=2", "periodic.fid_samples=7")
    (line,) = [line for line in lines if "FID" in line]
    assert line.startswith("no FID this time: 2 of 7 samples are not finite, a fraction of 0.286, but")


def test_an_extractor_that_is_gone_ends_no_training(trained, monkeypatch):
    def gone(*_):
        raise UsageError("the weights are gone")

    monkeypatch.setattr(FeatureRows, "__init__", gone)
    assert "no FID this time: the weights are gone" in trained("periodic.fid_every=2", "periodic.fid_samples=7")


def test_a_few_of_them_are_named_beside_the_fid(trained, monkeypatch):
    spoil(monkeypatch, [0, 4])
    lines = trained("periodic.fid_every=2", "periodic.fid_samples=7", settings=("eval.max_nonfinite=0.3",))
    assert "step 2: 2 of 7 samples are not finite" in lines
    assert any(line.startswith("step 2: FID ") for line in lines)


def test_a_bound_that_starts_where_training_did(trained):
    loose = ("eval.elbo.rtol=0.05", "eval.elbo.atol=0.05", "objective.loss_eps=0.001")
    lines = trained("periodic.elbo_every=2", "periodic.elbo_points=2", settings=loose)
    said = "step 2: the bound starts at t = 0.001, because training used no smaller t (objective.loss_eps)"
    assert [line for line in lines if "the bound starts" in line] == [said]
    assert any(line.startswith("step 2: likelihood bound of 2 test points: bpd") for line in lines)


DUE = ("periodic.samples_every=2", "periodic.samples=50", "sampling.method=em", "sampling.nfe=3")


def test_toy_samples_are_in_tensorboard(make):
    run = make("train.steps=4", *DUE)
    assert attempt(run).cause == "finished"
    board = EventAccumulator(str(run.tensorboard)).Reload()
    shown = board.Images("periodic/samples")
    assert [picture.step for picture in shown] == [2, 4]
    for picture in shown:
        with (
            Image.open(io.BytesIO(picture.encoded_image_string)) as in_board,
            Image.open(run.samples / f"step_{picture.step:08d}.png") as in_folder,
        ):
            assert "50 samples" in in_folder.text["Description"]
            assert np.array_equal(np.array(in_board), np.array(in_folder))


def test_a_picture_that_cannot_be_drawn_ends_no_training(make, monkeypatch):
    draw, calls = pictures.pixels, []

    def full_at_first(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return draw(*arguments)

    monkeypatch.setattr(pictures, "pixels", full_at_first)
    run = make("train.steps=4", *DUE)
    assert attempt(run).cause == "finished"
    assert [file.name for file in run.samples.glob("*.png")] == ["step_00000004.png"]
    dropped = [event for event in run.ledger.events() if isinstance(event, Remarked)]
    assert [(event.what, event.count) for event in dropped] == [("pictures", 1)]
