"""Ranks that are processes meet at a file, and talk."""

import torch
import torch.multiprocessing as multiprocessing

from cld_core.ranks import Consensus, join
from cld_core.rendezvous import Place
from cld_core.stop import StopCode


def _talk(rank: int, meeting: str, out: str) -> None:
    torch.set_num_threads(1)
    ranks = join(Place(rank, 2, init_method=f"file://{meeting}"), gpu=False, timeout_s=600.0)
    said = (ranks.on_first(lambda: "hello"), ranks.gather(rank))
    said = (*said, ranks.sums(torch.tensor([1.0, float(rank)])).tolist())
    consensus = Consensus(ranks)
    consensus.begin(StopCode.NONE if ranks.is_first else StopCode.USR2)
    torch.save((*said, int(consensus.result())), f"{out}.{rank}")
    ranks.leave()


def test_ranks_meet_at_a_file_talk_and_leave_nothing(tmp_path):
    multiprocessing.spawn(_talk, args=(str(tmp_path / "meeting"), str(tmp_path / "out")), nprocs=2)
    first, second = (torch.load(tmp_path / f"out.{rank}") for rank in range(2))
    assert first == ("hello", [0, 1], [2.0, 1.0], StopCode.USR2)
    assert second == ("hello", None, [2.0, 1.0], StopCode.USR2)
    assert not (tmp_path / "meeting").exists()
