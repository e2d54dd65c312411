"""Which device a rank works on, and what is said where that is not the one that was asked for."""

import pytest
import torch

from cld_core import ranks as distributed
from cld_core.recipe import load
from tests.support.paths import RECIPES


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_is_used_where_one_was_asked_for_only(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert distributed.alone(gpu=True).device == torch.device("cuda", 1)
    assert distributed.alone(gpu=False).device == torch.device("cpu")
    assert distributed.debugging(gpu=True).device == torch.device("cuda", 0)
    assert distributed.alone(gpu=True).lacks_gpu(True) is None


def test_without_a_gpu_that_was_asked_for_it_says_so():
    ranks = distributed.debugging(gpu=True)
    assert "GPUs were asked for, but torch" in ranks.lacks_gpu(True)
    assert ranks.lacks_gpu(False) is None


@pytest.mark.parametrize(
    ("overrides", "uses"),
    [
        ([], False),
        (["cluster.tasks_per_node=2"], False),
        (["cluster.gpus_per_node=2"], True),
        (["cluster.gres=gpu:a100:2"], True),
        (["cluster.gres=license:1"], False),
        (["cluster.sbatch_args=[--gpus-per-task=1]"], True),
    ],
)
def test_what_asks_for_gpus(overrides, uses):
    assert load(RECIPES / "toy.yaml", ["cluster.tasks_per_node=1", *overrides]).cluster.uses_gpu is uses
