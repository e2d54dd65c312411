"""A run that has not begun, and a set of small images."""

import pytest

from cld_core.config import load
from cld_core.run import RunFolder
from tests.support.images import make_images
from tests.support.paths import TOY


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "mine", load(TOY), {"created": 1.0})


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data") / "set")
