"""The ranks of a job: which device each uses, its share of a batch, and the file where they meet."""

import os
import signal
import time

import psutil
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from cld_core import network
from cld_core import ranks as distributed
from cld_core.errors import UsageError
from cld_core.place import Place
from cld_core.ranks import Ranks, alone, join
from cld_core.recipe import load
from tests.support.paths import RECIPES
from tests.support.tools import held_port, wait_for


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
    ranks = join(Place(rank, 2, init_method=f"file://{meeting}"), gpu=False, timeout_s=600.0)
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


@pytest.fixture
def groups(monkeypatch):
    """The timeouts, in seconds, of what `join` sets up, without setting it up."""
    seen = {}

    def rendezvous(*_, timeout):
        seen["meeting"] = timeout.total_seconds()
        yield dist.HashStore(), 0, 2

    def remember(name):
        return lambda *_, timeout, **__: seen.update({name: timeout.total_seconds()})

    monkeypatch.setattr(dist, "rendezvous", rendezvous)
    monkeypatch.setattr(dist, "init_process_group", remember("default"))
    monkeypatch.setattr(dist, "new_group", remember("control"))
    return seen


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("timeout_s", "expected"), [(7200.5, 7200.5), (30.0, 600.0)])
def test_every_group_waits_as_long_as_the_recipe_says_but_no_less_than_ten_minutes(
    groups, monkeypatch, timeout_s, expected
):
    monkeypatch.setenv("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", "5")
    join(Place(0, 2, init_method="file:///meeting"), gpu=True, timeout_s=timeout_s)
    assert groups == dict.fromkeys(("meeting", "default", "control"), expected)
    assert os.environ["TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"] == "5", "the user's"
    monkeypatch.delenv("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC")
    join(Place(0, 2, init_method="file:///meeting"), gpu=True, timeout_s=timeout_s)
    assert int(os.environ["TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"]) >= expected
    monkeypatch.delenv("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC")


# Seconds; two processes that are ready meet in far less.
SHORT_S, LONG_S = 3.0, 300.0


def _add_up(rank: int, meeting: str, pipe) -> None:
    """Join with the long limit and then with the short one; each time, talk to the other rank when the test says so."""
    torch.set_num_threads(1)
    distributed._PATIENCE_S = 0.0
    pipe.send("loaded")
    for limit in (LONG_S, SHORT_S):
        pipe.recv()
        ranks = join(Place(rank, 2, init_method=f"file://{meeting}.{limit}"), gpu=False, timeout_s=limit)
        pipe.send("joined")
        pipe.recv()
        try:
            pipe.send(ranks.mean(float(rank)))
        except RuntimeError as error:
            pipe.send(f"failed: {error}")
        ranks.leave()


@pytest.fixture
def two_ranks(tmp_path):
    """Two processes with `_add_up`, and a pipe to each."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for rank in range(2):
        ours, theirs = context.Pipe()
        process = context.Process(target=_add_up, args=(rank, str(tmp_path / "meeting"), theirs), daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(psutil.Process(process.pid))
    yield processes, pipes
    for process in processes:
        process.kill()


def received(pipes) -> list:
    assert all(pipe.poll(120) for pipe in pipes), "a rank does not answer"
    return [pipe.recv() for pipe in pipes]


def suspend(process: psutil.Process) -> None:
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: process.status() == psutil.STATUS_STOPPED)


@pytest.mark.slow
def test_a_suspended_job_goes_on_if_the_limit_is_longer(two_ranks):
    """As with PreemptMode=SUSPEND: clocks run on while processes are stopped."""
    processes, pipes = two_ranks
    first, second = pipes
    assert received(pipes) == ["loaded"] * 2
    for pipe in pipes:
        pipe.send("join")
    assert received(pipes) == ["joined"] * 2
    suspend(processes[1])
    first.send("talk")
    second.send("talk")
    time.sleep(0.5)
    suspend(processes[0])
    time.sleep(1.5 * SHORT_S)
    for process in processes:
        process.send_signal(signal.SIGCONT)
    assert received(pipes) == [0.5] * 2

    for pipe in pipes:
        pipe.send("join")
    assert received(pipes) == ["joined"] * 2
    suspend(processes[1])
    first.send("talk")
    (answer,) = received([first])
    assert "failed" in answer
    assert "imed out" in answer


def test_gloo_listens_where_the_other_machines_are(monkeypatch):
    """Rank 0 is on the machine that the ranks meet at, whose own name is 127.0.1.1; rank 1 is on another one."""
    towards = {"n0": "127.0.0.1", "10.0.0.8": "10.0.0.7"}, {"n0": "10.0.0.8"}
    machines = {"lo": ["127.0.0.1"], "ib0": ["10.0.0.7"]}, {"lo": ["127.0.0.1"], "eth1": ["10.0.0.8"]}
    store, chosen = dist.HashStore(), {}
    for rank in (1, 0):
        monkeypatch.delenv(network.GLOO, raising=False)
        monkeypatch.setattr(network, "source_towards", towards[rank].get)
        monkeypatch.setattr(network, "interfaces", lambda rank=rank: machines[rank])
        distributed._let_gloo_be_reached(Ranks(rank, 2, init_method="tcp://n0:29500"), store)
        chosen[rank] = os.environ.pop(network.GLOO)
    assert chosen == {0: "ib0", 1: "eth1"}


@pytest.mark.parametrize(
    ("ranks", "own", "before"),
    [
        (Ranks(0, 2, init_method="tcp://n0:29500"), "10.0.0.7", "mine"),
        (Ranks(0, 2, local_world_size=2, init_method="tcp://n0:29500"), "10.0.0.7", None),
        (Ranks(0, 2, init_method="file:///meeting"), "10.0.0.7", None),
        (Ranks(0, 2, init_method="tcp://n0:29500"), "10.0.0.9", None),
        (Ranks(0, 2, init_method="tcp://n0:29500"), None, None),
        (Ranks(0, 2, init_method="tcp://n0:29500"), "127.0.0.1", None),
    ],
    ids=["the user's choice", "one machine", "a file", "no such interface", "no route", "all on this machine"],
)
def test_gloo_is_left_alone(monkeypatch, ranks, own, before):
    monkeypatch.delenv(network.GLOO, raising=False)
    if before is not None:
        monkeypatch.setenv(network.GLOO, before)
    monkeypatch.setattr(network, "source_towards", lambda host: own)
    monkeypatch.setattr(network, "interfaces", lambda: {"lo": ["127.0.0.1"], "eth0": ["10.0.0.7"]})
    store = dist.HashStore()
    store.set("cldctl/address/1", "")
    distributed._let_gloo_be_reached(ranks, store)
    assert os.environ.get(network.GLOO) == before


def outside() -> str | None:
    """An address of this machine that is not loopback, if it has one."""
    for addresses in network.interfaces().values():
        for address in addresses:
            if ":" not in address and not network.is_loopback(address):
                return address
    return None


def _meet(rank: int, host: str, port: int, out: str) -> None:
    torch.set_num_threads(1)
    ranks = join(Place(rank, 2, init_method=f"tcp://{host}:{port}"), gpu=False, timeout_s=600.0)
    mean = ranks.mean(float(rank))
    listening = {c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    torch.save((mean, os.environ.get(network.GLOO), listening), f"{out}.{rank}")
    ranks.leave()


@pytest.mark.skipif(outside() is None, reason="this machine has a loopback address only")
def test_two_processes_talk_through_the_address_of_this_machine(tmp_path, monkeypatch):
    """Rank 0 meets the other one at a name that is loopback to it, as on the machine of the meeting point."""
    monkeypatch.delenv(network.GLOO, raising=False)
    host = outside()
    context = multiprocessing.get_context("spawn")
    with held_port() as port:
        hosts = ("localhost", host)
        ranks = [context.Process(target=_meet, args=(r, hosts[r], port, str(tmp_path / "out"))) for r in range(2)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
    interface = network.interface_with(host, network.interfaces())
    for rank in range(2):
        mean, chosen, listening = torch.load(tmp_path / f"out.{rank}", weights_only=False)
        assert (mean, chosen) == (0.5, interface)
        assert host in listening
        assert not any(network.is_loopback(address) for address in listening), listening
