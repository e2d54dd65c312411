"""The ranks of a job: their devices, their shares of a batch, and the file where they meet."""

import contextlib
import errno
import ipaddress
import os
import re
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist

from cld_core import ranks as distributed
from cld_core import rendezvous
from cld_core.errors import LeaseLostError, SaveError, UsageError
from cld_core.ranks import Consensus, RankError, Ranks, alone, join
from cld_core.rendezvous import Place
from cld_core.run.shards import share
from cld_core.stop import StopCode
from tests.support.recipes import toy_recipe
from tests.support.spawned import spawned


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
    assert alone(Place(local_rank=3), gpu=True).device == torch.device("cuda", 1), (
        "each rank may see its own GPU only"
    )
    assert alone(second, gpu=True).lacks_gpu(True) is None


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
    ranks = alone(Place(), gpu=False)
    alone(Place(world_size=2, local_world_size=2), gpu=False)
    ranks.use_cores(None)
    ranks.use_cores(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone(Place(world_size=2, local_world_size=2), gpu=False)
    ranks.use_cores(2)
    assert threads == [4, 1], "a process on its own keeps torch's default, and the environment wins"


def test_a_batch_smaller_than_the_world_is_refused():
    words = r"a batch of 2 cannot be divided among 3 ranks\. Raise train\.batch_size"
    with pytest.raises(UsageError, match=words):
        Ranks(0, 3).rows(2)


@pytest.mark.parametrize(
    ("key", "uses"),
    [
        ("tasks_per_node=2", False),
        ("gpus_per_node=2", True),
        ("gres=gpu:a100:2", True),
        ("gres=license:1", False),
        ("sbatch_args=[--gpus-per-task=1]", True),
    ],
)
def test_what_requests_gpus(key, uses):
    assert toy_recipe(f"cluster.{key}").cluster.uses_gpu is uses


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("timeout_s", "expected"), [(7200.5, 7200.5), (30.0, 600.0)])
def test_every_group_waits_as_long_as_the_recipe_says_but_no_less_than_ten_minutes(
    monkeypatch, timeout_s, expected
):
    waits = []
    heartbeat = "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"
    for name in ("rendezvous", "init_process_group", "new_group"):
        made = iter([(dist.HashStore(), 0, 2)] * 2)
        monkeypatch.setattr(
            dist, name, lambda *_, timeout, made=made, **__: waits.append(timeout) or made
        )
    monkeypatch.setenv(heartbeat, "5")
    place = Place(0, 2, init_method="file:///meeting")
    join(place, gpu=True, timeout_s=timeout_s)
    assert [wait.total_seconds() for wait in waits] == [expected] * 3
    assert os.environ[heartbeat] == "5", "the user's"
    monkeypatch.delenv(heartbeat)
    join(place, gpu=True, timeout_s=timeout_s)
    assert int(os.environ[heartbeat]) >= expected
    monkeypatch.delenv(heartbeat)


def test_gloo_listens_where_the_other_machines_are(monkeypatch):
    """Rank 0 is on the machine of the meeting point, whose own name is 127.0.1.1; rank 1 is not."""
    towards = ({"10.0.0.8": "10.0.0.7"}, {"n0": "10.0.0.8"})
    machines = (
        {"lo": ["127.0.0.1"], "ib0": ["10.0.0.7"]},
        {"lo": ["127.0.0.1"], "eth1": ["10.0.0.8"]},
    )
    store = dist.HashStore()
    chosen = {}
    for rank in (1, 0):
        monkeypatch.delenv(rendezvous.GLOO, raising=False)
        monkeypatch.setattr(rendezvous, "source_towards", towards[rank].get)
        monkeypatch.setattr(rendezvous, "interfaces", lambda rank=rank: machines[rank])
        distributed._let_gloo_be_reached(Ranks(rank, 2, init_method="tcp://n0:29500"), store)
        chosen[rank] = os.environ.pop(rendezvous.GLOO)
    assert chosen == {0: "ib0", 1: "eth1"}


def save_error(number):
    error = SaveError("it could not be written", 10)
    error.__cause__ = OSError(number, os.strerror(number))
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LeaseLostError("job 7 has it"), 1),
        (UsageError("a batch of 2"), 2),
        (OSError(errno.ENOSPC, "the disk is full"), 75),
        (save_error(errno.ENOSPC), 75),
        (save_error(errno.EACCES), 1),
        (OSError(errno.EACCES, "it is another user's"), 1),
        (None, None),
    ],
)
def test_rank_0_works_and_an_error_there_is_met_by_the_others(error, code, monkeypatch):
    work = Mock(side_effect=error)
    sent = []

    def broadcast(box, src, group):
        if sent:
            box[:] = sent
        sent[:] = box

    monkeypatch.setattr(dist, "broadcast_object_list", broadcast)
    with pytest.raises(type(error)) if error else contextlib.nullcontext():
        Ranks(0, 2).on_first(work)
    match = re.escape(f"rank 0 could not continue: {error}")
    with pytest.raises(RankError, match=match) if error else contextlib.nullcontext() as caught:
        Ranks(1, 2).on_first(work)
    assert error is None or caught.value.exit_code == code
    work.assert_called_once_with()


MACHINE = {
    "lo": ["127.0.0.1", "::1"],
    "eth0": ["10.0.0.7", "fe80::1"],
    "ib0": ["172.16.3.7", "fd00::0:7"],
}


@pytest.mark.parametrize(
    ("init_method", "host"),
    [
        ("tcp://n1:9", "n1"),
        ("tcp://[fd00::7]:29500", "fd00::7"),
        ("file:///runs/meeting", None),
        ("env://", "host1"),
    ],
)
def test_where_processes_meet(init_method, host, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "host1")
    assert rendezvous.meeting_host(init_method) == host
    monkeypatch.delenv("MASTER_ADDR")
    assert rendezvous.meeting_host("env://") is None


def test_the_interface_with_an_address():
    named = {
        "10.0.0.7": "eth0",
        "172.16.3.7": "ib0",
        "fd00::7": "ib0",
        "127.0.0.1": "lo",
        "10.0.0.8": None,
    }
    assert {address: rendezvous.interface_with(address, MACHINE) for address in named} == named


def test_this_machine():
    found = rendezvous.interfaces()
    assert "127.0.0.1" in found[rendezvous.interface_with("127.0.0.1", found)]
    assert rendezvous.source_towards("127.0.1.1") is None
    for addresses in found.values():
        for address in addresses:
            ipaddress.ip_address(address)


def _talk(ranks):
    said = (ranks.on_first(lambda: "hello"), ranks.gather(ranks.rank))
    said = (*said, ranks.sums(torch.tensor([1.0, float(ranks.rank)])).tolist())
    consensus = Consensus(ranks)
    consensus.begin(StopCode.NONE, saves=ranks.is_first)
    said = (*said, int(consensus.result()), consensus.saves)
    consensus.begin(StopCode.NONE if ranks.is_first else StopCode.USR2, saves=ranks.is_first)
    return (*said, int(consensus.result()))


def test_ranks_meet_at_a_file_talk_and_leave_nothing(tmp_path):
    first, second = spawned(_talk, tmp_path, 2)
    assert first == ("hello", [0, 1], [2.0, 1.0], StopCode.NONE, True, StopCode.USR2)
    assert second == ("hello", None, [2.0, 1.0], StopCode.NONE, True, StopCode.USR2)
    assert not (tmp_path / "meeting").exists()


@pytest.mark.parametrize(("n", "parts"), [(0, 1), (1, 3), (7, 3), (70, 8), (1000, 999)])
def test_shares_cover_everything_in_order_and_differ_by_at_most_one(n, parts):
    shares = [share(n, part, parts) for part in range(parts)]
    assert [index for first, last in shares for index in range(first, last)] == list(range(n))
    sizes = [last - first for first, last in shares]
    assert max(sizes) - min(sizes) <= 1
