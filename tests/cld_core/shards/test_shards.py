"""Sharded work: what is complete, what is computed again, how it resumes, and when it is merged."""

import errno
import itertools
import json
import os

import pytest

from cld_core.errors import NotFoundError
from cld_core.files import read_json
from cld_core.ranks import Ranks
from cld_core.shards import KINDS, open_work, state
from cld_core.shards.merging import Merged, MergeError
from tests.support.clock import Clock

from .squares import Squares, SquaresComputation, SquaresRequest

SUM = sum(i * i for i in range(20))


@pytest.fixture
def folder(tmp_path):
    SquaresRequest(n=20, shards=3, batch_size=4, files={}).store(tmp_path / "work")
    return tmp_path / "work"


def result(folder):
    return (read_json(folder / "sum.json") or {}).get("squares")


def complete(folder) -> Squares:
    """Work whose shards are all complete, but not merged."""
    work = Squares(folder)
    assert work.compute(Ranks())
    (folder / "sum.json").unlink()
    work.computed.clear()
    return work


def test_the_process_that_finds_all_shards_complete_merges(folder):
    work = Squares(folder)
    assert work.missing() == work.to_start() == [0, 1, 2]
    assert work.compute(Ranks(rank=1, world_size=2))
    assert (work.missing(), work.rows_done(), result(folder)) == ([0, 2], (7, 20), None)
    assert work.compute(Ranks(rank=0, world_size=2))
    assert (work.missing(), work.is_done, work.to_start(), result(folder)) == ([], True, [], SUM)
    assert work.computed == [(6, 10), (10, 13), (0, 4), (4, 6), (13, 17), (17, 20)]


@pytest.mark.parametrize("damage", ["lost", "short"])
@pytest.mark.parametrize("shard", [0, 1, 2])
def test_a_lost_or_short_file_is_missing_and_its_task_repairs_it(folder, shard, damage):
    """The state file says that it is complete, but the numbers are not there."""
    work = complete(folder)
    file = folder / "shards" / f"0000{shard}-squares.npz"
    if damage == "lost":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    assert work.missing() == work.to_start() == [shard]
    assert work.compute(Ranks(), only=work.to_start())
    assert {first for first, _ in work.computed} <= set(range(*work.request.ranges(shard)["squares"]))
    assert (work.missing(), result(folder)) == ([], SUM)


def test_if_only_merging_is_left_one_task_does_it(folder):
    work = complete(folder)
    assert (work.missing(), work.to_start()) == ([], [0])
    assert work.compute(Ranks(), only=work.to_start())
    assert (work.computed, result(folder)) == ([], SUM)


def test_a_shard_resumes_at_its_next_batch_whatever_an_interrupted_one_left(folder):
    work = Squares(folder)
    assert not work.compute(Ranks(), lambda: len(work.computed) >= 1, only=[0])
    rows = folder / "shards" / "00000-squares.rows"
    rows.write_bytes(rows.read_bytes() + b"torn")
    assert work.rows_done() == (4, 20)
    assert work.compute(Ranks())
    assert work.computed[:2] == [(0, 4), (4, 6)]
    assert not rows.exists()
    assert result(folder) == SUM


def test_every_row_is_reviewed_once_it_is_saved_and_a_refusal_ends_the_work(folder, monkeypatch):
    seen, limit = [], 10

    def review(self, kind, rows):
        seen.extend(rows["square"].tolist())
        if len(seen) > limit:
            raise MergeError("enough")

    monkeypatch.setattr(SquaresComputation, "review", review)
    work = Squares(folder)
    with pytest.raises(MergeError, match="enough"):
        work.compute(Ranks())
    assert seen == [i * i for i in range(13)], "of a shard that is sealed and one that is not"
    assert work.computed == [(0, 4), (4, 6), (6, 10), (10, 13)]
    assert work.missing() == [1, 2]
    seen.clear()
    with pytest.raises(MergeError, match="enough"):
        Squares(folder).compute(Ranks())
    assert seen == [i * i for i in range(6, 17)]
    limit = 20
    seen.clear()
    again = Squares(folder)
    assert again.compute(Ranks())
    assert (seen, again.computed) == ([i * i for i in range(13, 20)], [(17, 20)])
    assert result(folder) == SUM


def test_rows_that_were_damaged_on_the_disk_are_computed_again(folder):
    work = Squares(folder)
    assert not work.compute(Ranks(), lambda: len(work.computed) >= 1, only=[0])
    rows = folder / "shards" / "00000-squares.rows"
    rows.write_bytes(b"\xff" + rows.read_bytes()[1:])
    assert work.compute(Ranks())
    assert work.computed[:3] == [(0, 4), (0, 4), (4, 6)]
    assert result(folder) == SUM


def test_shards_of_another_request_do_not_count(folder):
    complete(folder)
    SquaresRequest(n=21, shards=3, batch_size=4, files={}).store(folder)
    work = Squares(folder)
    assert (work.missing(), work.rows_done()) == ([0, 1, 2], (0, 21))
    assert work.compute(Ranks())
    assert result(folder) == SUM + 400


def test_work_that_was_begun_keeps_its_shards_and_learns_the_rest(folder):
    SquaresRequest(n=20, shards=7, batch_size=9, retries=1, files={"weights": "/here"}).store(folder)
    in_force = SquaresRequest(n=20, shards=3, batch_size=9, retries=1, files={"weights": "/here"})
    assert SquaresRequest.load(folder) == in_force


def test_a_kind_with_fewer_rows_than_shards(tmp_path):
    SquaresRequest(n=20, few=2, shards=5, batch_size=4, files={}).store(tmp_path)
    work = Squares(tmp_path)
    assert [shard for shard in range(5) if "few" in work.request.ranges(shard)] == [2, 4]
    assert work.compute(Ranks())
    assert read_json(tmp_path / "sum.json")["few"] == 1


def test_gaps_overlaps_and_strangers_are_refused(folder):
    work = complete(folder)
    file = folder / "shards" / "00001.json"
    content = json.loads(file.read_text())
    part = content["work"]["squares"]
    for change, words in (
        ({"work": {"squares": {**part, "first": 7}}}, r"a gap between 6 and 7.*Remove .*shards"),
        ({"work": {"squares": {**part, "first": 5}}}, "an overlap between 5 and 6"),
        ({"work": {"squares": {**part, "done": 3}}}, "9 to 13 of the squares are missing"),
        ({"work": {}}, "a gap between 6 and 13"),
        ({"checkpoint": "other"}, "made with different checkpoints"),
        ({"request": "squares-1-0"}, "shard 1 belongs to another request, squares-1-0"),
    ):
        file.write_text(json.dumps({**content, **change}))
        with pytest.raises(MergeError, match=words):
            list(Merged(work).parts("squares"))
    (folder / "shards" / "00002.json").unlink()
    file.write_text(json.dumps(content))
    with pytest.raises(MergeError, match="13 to 20 of the squares are missing"):
        Merged(work)


def test_kinds_are_found_by_their_request(folder, monkeypatch):
    with pytest.raises(NotFoundError, match="made by another version"):
        open_work(folder)
    with pytest.raises(NotFoundError, match="there is no request here"):
        open_work(folder / "shards")
    monkeypatch.setitem(KINDS, "squares", "tests.cld_core.shards.squares:Squares")
    assert isinstance(open_work(folder), Squares)
    (folder / "request.json").write_text('{"kind": "squares", "shards": 1}')
    with pytest.raises(NotFoundError, match=r"another version of cldctl .*files is missing"):
        open_work(folder)


@pytest.fixture
def disk(monkeypatch):
    """Let every n-th flush of a file to the disk fail, whatever it belongs to."""
    real, count = os.fsync, itertools.count(1)

    def let(every: int, error: int = errno.ENOSPC) -> None:
        def fsync(descriptor):
            if next(count) % every == 0:
                raise OSError(error, os.strerror(error))
            real(descriptor)

        monkeypatch.setattr("os.fsync", fsync)

    monkeypatch.setattr("cld_core.files.time", Clock())
    return let


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.ESTALE, errno.EIO])
@pytest.mark.parametrize("every", [3, 4, 5])
def test_a_disk_that_fails_now_and_then_costs_no_row(folder, disk, every, error):
    work = Squares(folder)
    disk(every, error)
    assert work.compute(Ranks())
    assert result(folder) == SUM
    assert sum(last - first for first, last in work.computed) == 20, "nothing is computed twice"


def test_a_disk_that_stays_full_ends_the_task_and_the_next_start_continues(folder, disk, monkeypatch):
    work = Squares(folder)
    disk(1)
    with pytest.raises(OSError, match="No space left"):
        work.compute(Ranks())
    monkeypatch.undo()
    assert work.compute(Ranks())
    assert result(folder) == SUM


def test_a_shard_can_be_seen_to_be_computed_before_its_first_batch_is_done(folder, monkeypatch):
    """``--follow`` says so, though a batch may take minutes."""
    work, seen = Squares(folder), []

    def rows(self, kind, first, last):
        seen.append((state.begun(work.shards), work.rows_done()[0]))
        return computed(self, kind, first, last)

    computed = SquaresComputation.rows
    monkeypatch.setattr(SquaresComputation, "rows", rows)
    assert work.compute(Ranks())
    assert seen[0] == ({0}, 0)
    assert ({0, 1, 2}, 13) in seen
    assert result(folder) == SUM
