"""Samples of toy runs during training: the picture in the run's folder is also in TensorBoard."""

import errno
import io
import os

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cld_core import pictures
from cld_core.config import load
from cld_core.ranks import Ranks
from cld_core.run import RunFolder
from cld_core.run.events import Dropped
from cld_core.stop import StopFlag
from cld_core.train import session
from tests.support.paths import RECIPES

SMALL = ("network.width=16", "network.layers=3", "train.batch_size=16", "train.steps=4")
DUE = ("periodic.samples_every=2", "periodic.samples=50", "sampling.method=em", "sampling.nfe=3")


def test_toy_samples_are_in_tensorboard(tmp_path):
    recipe = load(RECIPES / "toy.yaml", [*SMALL, *DUE])
    run = RunFolder.create(tmp_path / "mine", recipe, {"created": 1.0})
    assert session.run(run, Ranks(), StopFlag(), job_id="test").cause == "finished"
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


def test_a_picture_that_cannot_be_drawn_ends_no_training(tmp_path, monkeypatch):
    draw, calls = pictures.pixels, []

    def full_at_first(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return draw(*arguments)

    monkeypatch.setattr(pictures, "pixels", full_at_first)
    run = RunFolder.create(tmp_path / "mine", load(RECIPES / "toy.yaml", [*SMALL, *DUE]), {"created": 1.0})
    assert session.run(run, Ranks(), StopFlag(), job_id="test").cause == "finished"
    assert [file.name for file in run.samples.glob("*.png")] == ["step_00000004.png"]
    dropped = [event for event in run.ledger.events() if isinstance(event, Dropped)]
    assert [(event.what, event.count) for event in dropped] == [("pictures", 1)]
