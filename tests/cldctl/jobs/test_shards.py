"""How sharded work is divided over tasks, and what a task does with its pieces."""

import pytest

from cld_core.errors import CheckpointError
from cld_core.run.events import JobRef
from cld_core.stop import StopFlag
from cldctl.clusters.base import InJob
from cldctl.clusters.debug import DebugCluster
from cldctl.jobs import shards
from cldctl.jobs.shards import Piece, ShardsWork, divided


def test_a_task_a_shard_and_shared_tasks_if_a_submission_cannot_have_so_many():
    missing = [("a", [0, 1, 2]), ("b", [0, 1]), ("c", [])]
    assert divided(missing, 9) == [
        (Piece("a", (0,)),),
        (Piece("a", (1,)),),
        (Piece("a", (2,)),),
        (Piece("b", (0,)),),
        (Piece("b", (1,)),),
    ]
    assert divided(missing, 2) == [(Piece("a", (0, 2)), Piece("b", (1,))), (Piece("a", (1,)), Piece("b", (0,)))]


def test_a_piece_that_fails_leaves_the_others_alone(monkeypatch):
    computed = []

    class Made:
        def __init__(self, folder):
            self.name = folder.name

        def compute(self, ranks, should_stop, only):
            computed.append((self.name, only))
            if self.name == "b":
                raise CheckpointError("b is damaged. Fix it.")
            return True

    monkeypatch.setattr(shards, "open_work", Made)
    pieces = (Piece("a", (0,)), Piece("b", (0,)), Piece("c", (1, 2)))
    job = InJob(cluster=DebugCluster(), ref=JobRef(cluster="debug", job_id="1"))
    with pytest.raises(CheckpointError, match="b is damaged"):
        ShardsWork(pieces, gpu=False)._compute(job, StopFlag())
    assert computed == [("a", (0,)), ("b", (0,)), ("c", (1, 2))]
