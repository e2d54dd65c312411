"""Tests that need a GPU, `make test-gpu`. Where torch sees none, they are skipped.

CLDCTL_TEST_DEVICE=cpu tries the tests themselves on a processor, with small networks and without
generated code.
"""

import os
from pathlib import Path

import pytest
import torch

from cld_core.nets import execution
from tests.support import tracing
from tests.support.images import image_recipe

HERE = Path(__file__).parent
DEVICE = torch.device(os.environ.get("CLDCTL_TEST_DEVICE", "cuda"))
ON_GPU = DEVICE.type == "cuda"


def pytest_collection_modifyitems(items):
    """Mark every test of this folder, so that `-m "not gpu"` leaves them out."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session", autouse=True)
def device():
    """What is tested."""
    if ON_GPU and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    return DEVICE


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    """The recipe of a name with the rows that one of its GPUs gets; processors compute float16 too
    slowly."""
    work = tmp_path_factory.mktemp("images")

    def recipe(name, *changes):
        own = () if ON_GPU else ("train.precision=fp32",)
        return image_recipe(work, name, *own, *changes, small=not ON_GPU, gpus=int(ON_GPU))

    return recipe


@pytest.fixture(autouse=True)
def memory_is_free(monkeypatch):
    """Nothing of the test before is left on the card."""
    if not ON_GPU:
        monkeypatch.setattr(execution, "BACKEND", tracing.differentiate)
    yield
    torch.compiler.reset()
    if ON_GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
