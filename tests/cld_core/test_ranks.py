"""The ranks of a job: which device each uses, its share of a batch, and the file where they meet."""

import os

import pytest
import torch
import torch.multiprocessing as multiprocessing

from cld_core.errors import UsageError
from cld_core.place import Place
from cld_core.ranks import Ranks, alone, join
from cld_core.recipe import load
from tests.support.paths import RECIPES


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_is_used_only_if_one_was_requested():
    second = Place(local_rank=1)
    assert alone(second, gpu=True).device == torch.device("cuda", 1)
    assert alone(second, gpu=False).device == torch.device("cpu")
    assert alone(Place(), gpu=True).device == torch.device("cuda", 0)
    assert alone(Place(local_rank=3), gpu=True).device == torch.device("cuda", 1), "each rank may see its own GPU only"
    assert alone(second, gpu=True).lacks_gpu(True) is None


def test_the_place_stays_as_it_was_given():
    place = Place(rank=3, world_size=4, local_rank=1, local_world_size=2, init_method="file:///meeting")
    ranks = alone(place, gpu=False)
    assert (ranks.rank, ranks.world_size, ranks.local_rank, ranks.local_world_size) == (3, 4, 1, 2)
    assert ranks.init_method == "file:///meeting"
    assert ranks.control is None


def test_the_place_is_exported_as_torchrun_does(monkeypatch):
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    place = Place(rank=3, world_size=4, local_rank=1, local_world_size=2)
    alone(place, gpu=False)
    assert [os.environ[name] for name in names] == ["3", "4", "1", "2"]
    assert Place.from_environment() == place


def test_processes_on_one_machine_share_its_cores(monkeypatch):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    alone(Place(), gpu=False)
    alone(Place(world_size=2, local_world_size=2), gpu=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone(Place(world_size=2, local_world_size=2), gpu=False)
    assert threads == [4], "a process on its own keeps torch's default, and the environment wins"


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_the_rows_of_all_ranks_are_the_batch(world_size):
    rows = [range(10)[Ranks(rank, world_size).rows(10)] for rank in range(world_size)]
    assert [row for share in rows for row in share] == list(range(10))
    assert {len(share) for share in rows} <= {10 // world_size, -(-10 // world_size)}


def test_a_batch_smaller_than_the_world_is_refused():
    with pytest.raises(UsageError, match=r"a batch of 2 cannot be divided among 3 ranks\. Raise train\.batch_size"):
        Ranks(0, 3).rows(2)


def _talk(rank: int, meeting: str, out: str) -> None:
    torch.set_num_threads(1)
    ranks = join(Place(rank, 2, init_method=f"file://{meeting}"), gpu=False)
    said = (ranks.from_first("hello" if ranks.is_first else None), ranks.mean(float(rank)), ranks.gather(rank))
    torch.save(said, f"{out}.{rank}")
    ranks.leave()


def test_ranks_meet_at_a_file_talk_and_leave_nothing(tmp_path):
    multiprocessing.spawn(_talk, args=(str(tmp_path / "meeting"), str(tmp_path / "out")), nprocs=2)
    first, second = (torch.load(tmp_path / f"out.{rank}") for rank in range(2))
    assert first == ("hello", 0.5, [0, 1])
    assert second == ("hello", 0.5, None)
    assert not (tmp_path / "meeting").exists()


def test_a_missing_gpu_is_a_warning():
    ranks = Ranks()
    assert "GPUs were requested, but torch" in ranks.lacks_gpu(True)
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
