"""The look at each machine before training: what it finds, and that it leaves nothing behind."""

import json
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from cld_core.errors import UnfitError
from cld_core.ranks import Ranks
from cld_core.rendezvous import Place
from cld_core.train import health
from cld_core.train.health import IN_A_ROW, Interval, Stragglers
from tests.support.failing import FULL_DISK
from tests.support.spawned import start


def check(folder, **changes):
    health.alone(folder, Place(rank=3), **{"gpu": False, "allotted": True, "node": "n7", **changes})


def test_a_healthy_machine_passes_and_nothing_is_left(tmp_path):
    before = torch.get_rng_state()
    check(tmp_path, gpu=True, allotted=False)
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(torch.get_rng_state(), before), "the numbers of a training do not change"


def test_a_machine_without_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(health, "HOST_BYTES", 2**62)
    with pytest.raises(UnfitError, match=r"n7: memory: only \d+ MiB of memory are free") as error:
        check(tmp_path)
    assert (error.value.check, error.value.hosts) == ("memory", {3: "n7"})


def test_a_disk_that_is_full_for_a_while_is_not_the_machines_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_bytes", Mock(side_effect=FULL_DISK))
    check(tmp_path)


def test_a_gpu_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(UnfitError, match="n7: gpu: the job was given a GPU, and torch sees none"):
        check(tmp_path, gpu=True)
    check(tmp_path, gpu=True, allotted=False)


def test_products_are_compared_with_whole_numbers(monkeypatch):
    assert health.product(torch.device("cpu")) is None
    multiplied = torch.Tensor.__matmul__

    def wrong(left, right):
        result = multiplied(left, right)
        return result + 1 if result.is_floating_point() else result

    monkeypatch.setattr(torch.Tensor, "__matmul__", wrong)
    assert "has 262144 wrong numbers of 262144" in health.product(torch.device("cpu"))


def test_a_check_that_hangs_is_given_up(tmp_path, monkeypatch):
    stuck = threading.Event()
    monkeypatch.setattr(health, "_memory", stuck.wait)
    monkeypatch.setattr(
        health, "_within", lambda seconds, work, within=health._within: within(0.05, work)
    )
    with pytest.raises(UnfitError, match="n7: memory: no answer within 0 s"):
        check(tmp_path)
    stuck.set()


def _rank(rank, meeting, out):
    place = Place(
        rank=rank,
        world_size=3,
        local_rank=rank,
        local_world_size=3,
        init_method=f"file://{meeting}",
    )
    settings = {"gpu": False, "timeout_s": 60.0, "allotted": False, "node": f"n{rank}"}
    ranks = health.join(Path(out), place, check=True, **settings)
    said = [Stragglers(ranks, ["n0", "n1", "n2"]).compare([0.1, 0.2, 0.1][rank])]
    right = health._sum

    def wrong(ranks):
        return right(ranks) or ("512 of 512 sums are wrong" if ranks.rank == 2 else None)

    health._sum = wrong
    try:
        health.together(ranks, node=f"n{rank}")
    except UnfitError as error:
        said += [str(error), error.check, sorted(error.hosts.items())]
    Path(out, f"{rank}.json").write_text(json.dumps(said))
    ranks.leave()


def test_what_ranks_find_out_together(tmp_path):
    """They compare their times, which rank 0 reports; a rank that adds up wrongly is named on
    all."""
    start(_rank, 3, str(tmp_path / "meeting"), str(tmp_path))
    said = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    line = "own step time: median 100 ms, slowest rank 1 on n1 200 ms (2.0x), fastest 100 ms"
    assert [entry[0] for entry in said] == [[line, None], None, None]
    wrong = ["n2: all-reduce: 512 of 512 sums are wrong", "all-reduce", [[2, "n2"]]]
    assert [entry[1:] for entry in said] == [wrong] * 3


@pytest.mark.parametrize(
    ("fast_s", "warnings"), [(0.0, []), (90.0, ["the clock of n1 is wrong by +90 s"])]
)
def test_clocks_are_compared_once_all_ranks_have_come(monkeypatch, fast_s, warnings):
    """A rank that waits 70 s for a slower one has no wrong clock."""
    now = 1000.0

    def barrier(group):
        nonlocal now
        now += 70.0

    def gather(answers, own, group):
        answers[:] = [own, ("n1", None, now + fast_s)]

    monkeypatch.setattr(health, "_sum", lambda ranks: None)
    monkeypatch.setattr(health.time, "time", lambda: now)
    monkeypatch.setattr(health.dist, "barrier", barrier)
    monkeypatch.setattr(health.dist, "all_gather_object", gather)
    assert health.together(Ranks(world_size=2), node="n0") == warnings


def of(*hosts):
    return Stragglers(Ranks(world_size=len(hosts)), hosts)


def test_a_rank_that_is_slow_several_times_in_a_row_is_named():
    ranks = of("n1", "n2", "n3")
    said = [ranks.judge([0.1, 0.1, 0.15])[1] for _ in range(IN_A_ROW)]
    assert said == [None] * (IN_A_ROW - 1) + ["rank 2 on n3 is slow: 1.5 times the median"]
    assert ranks.judge([0.1, 0.1, 0.1])[1] is None
    assert ranks.judge([0.1, 0.1, 0.15])[1] is None, "it begins again"


def test_a_single_rank_has_nobody_to_be_compared_with():
    assert Stragglers(Ranks(), ["n1"]).compare(Interval(Ranks()).take_own_time()) is None
