"""A trained run on images, which the tests of features and of their inputs share."""

import shutil

import pytest
import torch

from cld_core.ranks import Ranks
from cld_core.run import RunFolder
from cld_core.stop import StopFlag
from cld_core.train import session
from tests.support.extractor import TINY
from tests.support.images import make_images, run_folder

from .on_images import SETTINGS, stats_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> RunFolder:
    """A run on 8x8 images, whose samples a tiny extractor looks at, and the statistics of its training set."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("features")
    run = run_folder(root, make_images(root / "set"), *SETTINGS, *TINY)
    session.run(run, Ranks(), StopFlag(), job_id="test")
    stats_of(run)
    return run


@pytest.fixture
def run(trained, tmp_path) -> RunFolder:
    """A copy that a test may spoil."""
    shutil.copytree(trained.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")
