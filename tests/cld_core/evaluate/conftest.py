"""Trained runs that several files of tests evaluate: on images, and on toy data."""

import functools
import shutil

import pytest
import torch

from cld_core import pictures
from cld_core.evaluate.features import FeatureRows
from cld_core.evaluate.likelihood import ElboRows
from cld_core.run import RunFolder
from tests.support.chunks import cut
from tests.support.extractor import TINY
from tests.support.images import make_images, run_folder
from tests.support.tools import train
from tests.support.tools import trained as trained_run

from .on_images import SETTINGS, stats_of

SMALL = [
    "network.width=16",
    "network.layers=3",
    "train.steps=20",
    "train.batch_size=16",
    "eval.samples=70",
]
# For the pictures: samples of a network that has hardly been trained need not be accurate.
SMALL += ["sampling.rtol=0.01", "sampling.atol=0.01"]


@pytest.fixture(scope="package")
def trained(tmp_path_factory):
    """A run on 8x8 images, whose samples a tiny extractor looks at, and the statistics of its
    training set."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("features")
    run = train(run_folder(root, make_images(root / "set"), *SETTINGS, *TINY))
    stats_of(run)
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy that a test may spoil."""
    return RunFolder(shutil.copytree(trained.path, tmp_path / "run"))


@pytest.fixture
def chunks(monkeypatch):
    """Cut rows into chunks of so many, instead of hundreds."""
    return functools.partial(cut, monkeypatch)


@pytest.fixture
def ranges(monkeypatch):
    """The ranges of rows that are computed, of likelihood bounds and of features."""
    ranges = []

    def watch(kind, compute):
        monkeypatch.setattr(
            kind,
            "compute",
            lambda self, first, last: ranges.append((first, last)) or compute(self, first, last),
        )

    for kind in (ElboRows, FeatureRows):
        watch(kind, kind.compute)
    return ranges


@pytest.fixture
def no_pictures(monkeypatch):
    """Evaluations leave out their pictures, which take longer than the numbers."""
    monkeypatch.setattr(pictures, "samples", lambda *args, **more: None)


@pytest.fixture(scope="package")
def trained_toy(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("runs") / "mine", "toy_diamond", *SMALL).path


@pytest.fixture
def toy(trained_toy, tmp_path):
    """A copy that a test may spoil, with a checkpoint of step 20."""
    return RunFolder(shutil.copytree(trained_toy, tmp_path / "mine"))
