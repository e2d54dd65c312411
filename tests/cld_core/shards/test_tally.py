"""Counting complete shards by one look into their folder: cheap for a thousand tasks, and right whatever is lost."""

import json

import pytest

from cld_core import files
from cld_core.errors import IncompleteError
from cld_core.files import read_json
from cld_core.ranks import Ranks
from cld_core.shards import tally

from .squares import Squares, SquaresRequest

SHARDS = 1000


@pytest.fixture
def opens(monkeypatch):
    """The small files that are opened, by name."""
    names, real = [], files._descriptor
    monkeypatch.setattr(files, "_descriptor", lambda path, flags: names.append(path.name) or real(path, flags))
    return names


def stored(folder, shards, n):
    return SquaresRequest(n=n, shards=shards, batch_size=4, files={}).store(folder)


def states_read(opens):
    return sum(name.endswith(".json") and name not in ("request.json", "sum.json") for name in opens)


def task(folder, *shards):
    """What a task does: it knows the folder only."""
    return Squares(folder).compute(Ranks(), only=shards)


def stopped_task(folder, shard):
    """A task that is stopped after its first batch."""
    asked = iter([False])
    return Squares(folder).compute(Ranks(), lambda: next(asked, True), only=[shard])


@pytest.fixture
def work(tmp_path):
    """Three complete shards, which are not merged."""
    folder = stored(tmp_path / "work", 3, 20)
    assert task(folder, 0, 1, 2)
    (folder / "sum.json").unlink()
    return Squares(folder)


@pytest.fixture
def fleet(tmp_path):
    """A thousand shards, of which all but the last three are complete: copies of the first one."""
    folder = stored(tmp_path / "fleet", SHARDS, SHARDS)
    assert task(folder, 0)
    shards = folder / "shards"
    content, rows = read_json(shards / "00000.json"), (shards / "00000-squares.npz").read_bytes()
    for shard in range(1, SHARDS - 3):
        content["work"]["squares"] |= {"first": shard, "last": shard + 1}
        (shards / f"{shard:05d}.json").write_text(json.dumps(content))
        (shards / f"{shard:05d}-squares.npz").write_bytes(rows)
        tally.mark(shards, shard, {"request": content["request"]})
    return folder


def test_a_task_of_a_thousand_reads_as_many_files_as_one_of_three(fleet, opens):
    """And a look of `status` reads none of the states; only the last task reads them, before and while it merges."""
    for shard in (SHARDS - 3, SHARDS - 2):
        opens.clear()
        assert task(fleet, shard)
        assert len(opens) <= 10
        assert states_read(opens) <= 3
    opens.clear()
    work = Squares(fleet)
    assert (len(work.complete()), work.rows_done()) == (SHARDS - 1, (SHARDS - 1, SHARDS))
    assert (states_read(opens), len(opens)) == (0, 2), "the request, and whether it is done"
    opens.clear()
    assert task(fleet, SHARDS - 1)
    assert work.is_done
    assert states_read(opens) <= 2 * SHARDS + 3


@pytest.mark.parametrize("lost", ["00001.json", "00001-squares.npz"])
def test_a_shard_whose_file_is_lost_does_not_count(work, lost):
    assert work.complete() == {0, 1, 2}
    (work.shards / lost).unlink()
    assert work.complete() == {0, 2}
    assert work.rows_done() == (13, 20)
    assert work.missing() == [1]


def test_a_task_that_is_killed_before_it_leaves_its_mark_loses_nothing(work, monkeypatch):
    (work.shards / "00002.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(tally, "mark", lambda *shard: None)
        assert task(work.folder, 2)
    assert work.is_done


def test_a_file_that_was_cut_short_is_noticed_by_the_one_who_would_merge(work):
    file = work.shards / "00001-squares.npz"
    file.write_bytes(file.read_bytes()[:-1])
    assert work.complete() == {0, 1, 2}, "only a look"
    with pytest.raises(IncompleteError, match=r"not merged: files of shard 1 are .* Re-run the same `squares`"):
        task(work.folder, 0)
    assert not work.is_done
    assert work.complete() == {0, 2}, "from now on it is known"
    assert task(work.folder, 0), "and nobody tries again in vain"
    assert work.to_start() == [1]
    assert task(work.folder, 1)
    assert work.is_done


def test_a_shard_that_is_computed_again_does_not_count_meanwhile(work):
    """`--follow` would show 3 of 3 shards, and all rows, while one is computed again."""
    file = work.shards / "00001-squares.npz"
    file.write_bytes(file.read_bytes()[:-1])
    assert not stopped_task(work.folder, 1)
    assert (work.complete(), work.rows_done()) == ({0, 2}, (17, 20))
