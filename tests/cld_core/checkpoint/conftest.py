"""A run to write checkpoints into."""

import pytest
import torch

from cld_core.checkpoint import write
from cld_core.config import load
from cld_core.run import RunFolder
from tests.support.paths import RECIPES

TOY = RECIPES / "toy.yaml"


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "mine", load(TOY), {"created": 1.0})


def state(value=1.0):
    """A state whose averaged weights are half of the others; ``fixed`` is not trained."""
    return {
        "model": {"w": torch.full((100,), value), "fixed": torch.ones(2)},
        "ema": {"updates": 3, "average": {"w": torch.full((100,), value / 2)}},
        "nested": [{"a": torch.ones(3)}],
        "model_digest": "abc",
    }


def fill(run, *steps):
    for step in steps:
        write(run, step, state(step))
