"""Sharded work: what is complete, what is computed again, how it resumes, and when it is merged."""

import errno
import itertools
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cld_core import files
from cld_core.errors import CldError, NotFoundError
from cld_core.files import read_object
from cld_core.ranks import Ranks
from cld_core.run import work as works
from cld_core.run.shards import Rows
from cld_core.run.work import KINDS, open_work
from tests.support.failing import FULL_DISK, Failing
from tests.support.squares import SquareRows, Squares, SquaresRequest, SquaresTask
from tests.support.stopping import StopWhen

N = 22
SUM = sum(i * i for i in range(N))


@pytest.fixture(scope="module", autouse=True)
def known():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS, "squares", (Squares, SquaresTask.compute))
        yield


def stored(folder, n=N, shards=3, batch_size=3, few=0):
    request = SquaresRequest(n=n, few=few, batch_size=batch_size, files={})
    return request.in_shards(shards).store(folder)


@pytest.fixture
def folder(tmp_path):
    return stored(tmp_path / "work")


def result(folder):
    return read_object(folder / "sum.json").get("squares")


def chunks(folder):
    return sorted(path.name for path in (folder.parent / "rows" / "squares").iterdir())


def complete(folder):
    """Work whose shards are all complete, but not merged."""
    work = Squares(folder)
    assert work.compute(Ranks()).is_done
    (folder / "sum.json").unlink()
    work.computed.clear()
    return work


def test_the_process_that_finds_all_shards_complete_merges(folder):
    work = Squares(folder)
    assert work.missing() == work.to_start() == [0, 1, 2]
    assert work.compute(Ranks(rank=1, world_size=2)).is_done
    assert (work.missing(), work.rows_done(), result(folder)) == ([0, 2], (8, 22), None)
    assert work.compute(Ranks(rank=0, world_size=2)).is_done
    assert (work.missing(), work.is_done, work.to_start(), result(folder)) == ([], True, [], SUM)
    # Batches end with their chunk.
    assert work.computed[:5] == [(8, 11), (11, 12), (12, 15), (15, 16), (0, 3)]
    assert work.computed[-3:] == [(16, 19), (19, 20), (20, 22)]
    files = [f"{number:06d}-000004.npz" for number in range(5)]
    assert chunks(folder) == [*files, "000005-000002.npz"]


@settings(max_examples=40)
@given(
    n=st.integers(1, 30),
    few=st.integers(0, 6),
    shards=st.integers(1, 9),
    batch=st.integers(1, 9),
    data=st.data(),
)
def test_no_division_and_no_interruption_changes_the_result(n, few, shards, batch, data):
    with tempfile.TemporaryDirectory() as place:
        alone = stored(Path(place) / "alone" / "work", n, 1, few=few)
        assert Squares(alone).compute(Ranks()).is_done
        folder = stored(Path(place) / "divided" / "work", n, shards, batch, few)
        begun = stored(Path(place) / "divided" / "before", max(n - 5, 1), 2, few=few)
        assert Squares(begun).compute(Ranks(), pieces=[0]).is_done
        while not (work := Squares(folder)).is_done:
            only = data.draw(st.sets(st.sampled_from(work.to_start()), min_size=1), label="shards")
            steps = data.draw(st.integers(1, 5), label="batches before it is stopped")
            stop = StopWhen(lambda: len(work.computed) >= steps)  # noqa: B023 (called at once)
            work.compute(Ranks(), stop, only)
        # With the digests of chunks.
        assert read_object(folder / "sum.json") == read_object(alone / "sum.json")


def test_more_rows_compute_those_that_are_not_there(folder, tmp_path):
    complete(folder)
    more = Squares(stored(tmp_path / "more", 30, 7, 4))
    assert more.rows_done() == (22, 30)
    assert more.compute(Ranks()).is_done
    assert more.computed == [(22, 24), (24, 28), (28, 30)], "the rest of a chunk, and further ones"
    less = Squares(stored(tmp_path / "less", 9, 2))
    assert (less.missing(), less.rows_done()) == ([], (9, 9))
    assert less.compute(Ranks(), pieces=less.to_start()).is_done
    assert (less.computed, result(less.folder)) == ([], sum(i * i for i in range(9)))


@pytest.mark.parametrize("damage", ["short", "changed", "empty", "fewer"])
def test_a_damaged_chunk_is_computed_again_by_the_task_that_merges(folder, damage, capsys):
    work = complete(folder)
    file = work.rows("squares").file(1, 4)
    content = file.read_bytes()
    if damage == "fewer":
        np.savez(file, square=np.arange(3))
    else:
        changed = content[:150] + bytes([content[150] ^ 1]) + content[151:]
        file.write_bytes({"short": content[:-1], "empty": b"", "changed": changed}[damage])
    assert work.to_start() == [0], "it has not been read yet"
    assert work.compute(Ranks(), pieces=[0]).is_done
    assert work.computed == [(4, 7), (7, 8)]
    assert result(folder) == SUM
    assert "damaged, and computed again" in capsys.readouterr().out


def test_a_chunk_resumes_at_its_next_batch(tmp_path):
    folder = stored(tmp_path / "work", batch_size=1)
    work = Squares(folder)
    assert not work.compute(Ranks(), StopWhen(lambda: len(work.computed) >= 3), [0]).is_done
    assert (chunks(folder), work.begun(), work.rows_done()) == (["000000-000003.npz"], {0}, (3, 22))
    assert work.compute(Ranks()).is_done
    assert work.computed[:5] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    assert result(folder) == SUM


def test_two_tasks_that_compute_the_same_chunks_lose_nothing(folder, monkeypatch):
    """Each batch of one is followed by one of the other, so that each is ahead in turn."""
    one = Squares(folder)
    other = Squares(folder)
    original = SquareRows.compute
    turns = iter(range(100))

    def compute(self, first, last):
        rows = original(self, first, last)
        if self.work is one:
            until = len(other.computed) + 1 + next(turns) % 3
            other.compute(Ranks(), StopWhen(lambda: len(other.computed) >= until))
        return rows

    monkeypatch.setattr(SquareRows, "compute", compute)
    assert one.compute(Ranks()).is_done
    assert result(folder) == SUM
    assert chunks(folder)[-1] == "000005-000002.npz"
    assert one.rows("squares").lengths() == {**dict.fromkeys(range(5), 4), 5: 2}


class Killed(BaseException):
    """In place of SIGKILL: it is not caught, and nothing is cleaned up."""


@pytest.mark.parametrize("call", ["replace", "fsync", "unlink"])
def test_a_task_that_is_killed_at_any_write_loses_nothing(tmp_path, monkeypatch, call):
    for at in itertools.count(1):
        folder = stored(tmp_path / str(at) / "work")
        with monkeypatch.context() as patch:
            killing = Failing(getattr(os, call), lambda number, at=at: number == at, Killed())
            patch.setattr(os, call, killing)
            try:
                Squares(folder).compute(Ranks())
                break
            except Killed:
                pass
        again = Squares(folder)
        assert again.compute(Ranks()).is_done
        assert result(folder) == SUM, f"killed at call {at} of {call}"
    assert at > 3


def test_rows_are_not_made_of_something_that_is_replaced_meanwhile(folder, monkeypatch):
    work = Squares(folder)
    places = iter("aab")
    monkeypatch.setattr(Squares, "rows", lambda self, kind: Rows(folder.parent / next(places), 4))
    with pytest.raises(CldError, match="was replaced"):
        work.compute(Ranks())
    assert work.computed == []


def test_work_that_was_begun_keeps_its_shards_and_takes_the_other_keys(folder):
    request = SquaresRequest(n=N, shards=5, batch_size=9, retries=1, files={"weights": "/here"})
    request.store(folder)
    assert SquaresRequest.load(folder) == replace(request, shards=3)


def test_a_kind_with_fewer_chunks_than_shards(tmp_path):
    folder = stored(tmp_path / "work", few=2, shards=100)
    work = Squares(folder)
    assert work.request.shards == len(work.missing()) == 6, "as many as there are chunks"
    assert len([shard for shard in range(6) if "few" in work.request.chunks(shard)]) == 1
    assert work.compute(Ranks()).is_done
    assert read_object(folder / "sum.json")["few"] == 1


def test_kinds_are_found_by_their_request(folder, monkeypatch):
    with monkeypatch.context() as unknown:
        unknown.delitem(KINDS, "squares")
        with pytest.raises(NotFoundError, match="made by another version"):
            open_work(folder)
    with pytest.raises(NotFoundError, match="there is no request here"):
        open_work(folder.parent)
    with pytest.raises(NotFoundError, match="there is no squares here"):
        Squares(folder.parent)
    assert isinstance(open_work(folder), Squares)
    (folder / "request.json").write_text('{"kind": "squares", "shards": 1}')
    with pytest.raises(NotFoundError, match=r"another version of cldctl .*batch_size is missing"):
        open_work(folder)


def test_an_error_of_the_file_system_does_not_mean_that_there_is_no_request(folder, monkeypatch):
    original = os.open
    failures = 0.0

    def opening(path, *arguments, **more):
        nonlocal failures
        if str(path).endswith("request.json") and failures > 0:
            failures -= 1
            raise OSError(errno.ESTALE, "Stale file handle")
        return original(path, *arguments, **more)

    monkeypatch.setattr(files.os, "open", opening)
    for read in (open_work, Squares, lambda folder: Squares(stored(folder, shards=5))):
        failures = 1
        assert read(folder).request.shards == 3, "work that was begun keeps its shards"
    monkeypatch.setattr(works, "READ_WITHIN_S", 0.0)
    failures = float("inf")
    with pytest.raises(OSError, match="Stale"):
        open_work(folder)


def test_a_disk_that_fails_now_and_then_costs_no_row_and_one_that_stays_full_ends_the_task(
    folder, monkeypatch, disk_clock
):
    work = Squares(folder)
    fsync = os.fsync
    monkeypatch.setattr("os.fsync", Mock(side_effect=FULL_DISK))
    with pytest.raises(OSError, match="No space left"):
        work.compute(Ranks())
    work.computed.clear()
    monkeypatch.setattr("os.fsync", Failing(fsync, lambda call: call % 3 == 0, FULL_DISK))
    assert work.compute(Ranks()).is_done
    assert result(folder) == SUM
    assert sum(last - first for first, last in work.computed) == N, "nothing is computed twice"


def test_work_shows_that_it_is_computed_before_its_first_batch_is_done(folder, monkeypatch):
    """Which may take minutes."""
    work = Squares(folder)
    original = SquareRows.compute
    seen = []

    def compute(self, first, last):
        seen.append(work.moved_at())
        return original(self, first, last)

    monkeypatch.setattr(SquareRows, "compute", compute)
    assert work.moved_at() is None
    assert work.compute(Ranks()).is_done
    assert seen[0] is not None
