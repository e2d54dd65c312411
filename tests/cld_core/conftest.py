"""A run that has not begun, and a set of small images."""

import pytest

from tests.support.images import make_images
from tests.support.made_up import run_with


@pytest.fixture
def run(tmp_path):
    return run_with(tmp_path / "mine")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data") / "set")
