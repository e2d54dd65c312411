"""The index is right whatever happens to a run, and does not read again what has not changed."""

import json
import shutil

import pytest

from cld_core.files import write_json
from cld_core.run import RunFolder
from cld_core.run.tunings import TuneRequest, Tuning
from cldctl.runs import index, survey
from cldctl.runs.index import Index
from cldctl.runs.resume import resumable
from cldctl.runs.selection import label
from cldctl.runs.status import status_or_reason
from tests.support.made_up import bound, ended, given_up, note, queued, started
from tests.support.scripted import over, settle


@pytest.fixture
def root(tmp_path, scripted):
    """Runs that ended long ago: a, b and c."""
    root = tmp_path / "runs"
    for number, name in enumerate("abc"):
        over(root / name, str(number), 10, 20, cause=("finished", "preempted", "crashed")[number])
    settle(root)
    return root


@pytest.fixture
def looked(root, monkeypatch):
    """The runs that a new command reads, and the states that it shows; these are the same without
    an index."""
    read = []

    def noted(run, *known):
        read.append(run.name)
        return status_or_reason(run, *known)

    def look():
        read.clear()
        with monkeypatch.context() as patch:
            patch.setattr(index, "status_or_reason", noted)
            rows = Index(root).look().rows
        runs = [RunFolder(root / row.name) for row in rows]
        answers = survey.of_runs(runs)
        again = [status_or_reason(run, answers).to_dict() for run in runs]
        assert [row.to_dict() for row in rows] == json.loads(json.dumps(again))
        return sorted(read), {row.name: row.state for row in rows}

    return look


STATES = {"a": "FINISHED", "b": "STOPPED", "c": "FAILED"}


def test_runs_that_are_over_are_read_once_and_a_lost_index_changes_nothing(root, looked):
    assert looked() == (["a", "b", "c"], STATES)
    rows = Index(root).look().rows
    assert looked() == ([], STATES)
    index._file_for(root).unlink()
    assert Index(root, fresh=True).look().rows == rows


def _evaluate(run):
    bound(run, 20, 1.0, n=10, nfe_mean=1)


def _ask_for_tuning(run):
    request = TuneRequest.of(run.recipe(), 20, 5, points=8, budget_min=1.0, seed=0)
    return Tuning(request.store(run.tuned / request.id))


def _tune(run):
    work = _ask_for_tuning(run)
    note(work, queued("0", 0))


CHANGES = {
    "tuned": _tune,
    "resumed": lambda run: run.ledger.append(queued("0")),
    "noted": lambda run: label(run, "good", ["t"]),
    "evaluated": _evaluate,
    "edited by hand": lambda run: write_json(run.progress_file, run.progress() | {"loss": 3.0}),
    "replaced": lambda run: (shutil.rmtree(run.path), over(run.path, "0", 10, cause="crashed")),
}


@pytest.mark.parametrize("how", CHANGES)
def test_what_changes_is_read_again(root, looked, how):
    looked()
    CHANGES[how](RunFolder(root / "a"))
    read, _ = looked()
    assert read == ["a"]


def test_work_that_is_not_finished_is_compared_and_what_is_asked_for_again_is_read(
    root, looked, scripted
):
    run = RunFolder(root / "a")
    _tune(run)
    scripted.phases["0"] = "gone"
    settle(root)
    assert looked()[0] == ["a", "b", "c"]
    assert looked()[0] == [], "it has stopped"
    tuning = _ask_for_tuning(run)
    assert looked()[0] == ["a"]
    settle(root)
    looked()
    note(tuning, given_up("often"))
    assert looked()[0] == ["a"]


def test_what_may_change_is_read_each_time(root, looked, scripted):
    looked()
    run = RunFolder(root / "a")
    note(run, queued("9"), started(1, 20, job_id="9"))
    scripted.phases["9"] = "running"
    settle(root / "a")
    for _ in range(2):
        assert looked() == (["a"], STATES | {"a": "RUNNING"})
    note(run, ended("preempted", 30, attempt=1))
    scripted.phases["9"] = "gone"
    for _ in range(2):
        assert looked() == (["a"], STATES | {"a": "STOPPED"}), "it has just changed"


def test_while_a_scheduler_is_away_nothing_new_is_remembered(looked, scripted):
    scripted.away.add("scripted")
    for _ in range(2):
        assert looked()[0] == ["a", "b", "c"], "nobody knows whether their jobs live"


def test_removed_renamed_swapped_new_and_unreadable_runs(root, looked):
    shutil.rmtree(root / "c")
    looked()
    for old, new in (("a", "d"), ("b", "a")):
        (root / old).rename(root / new)
    assert looked() == (["a", "d"], {"a": "STOPPED", "d": "FINISHED"})
    write_json(root / "a" / "run.json", {"format": 99, "created": 1.0})
    found = Index(root).look()
    assert {row.name: row.is_readable for row in found.rows} == {"a": False, "d": True}
    (root / "linked").symlink_to(root / "d")
    settle(root)
    for _ in range(2):
        assert {"a", "linked"} <= set(looked()[0]), "what a link leads to may be replaced"


def test_whatever_is_wrong_with_the_file_it_counts_as_empty(root, looked):
    for damage in (
        lambda file: file.write_bytes(file.read_bytes()[:-10]),
        lambda file: file.write_text("[]"),
        lambda file: file.write_bytes(file.read_bytes().replace(b"FINISHED", b"CANCELLED")),
        lambda file: file.chmod(0o666),
    ):
        looked()
        damage(index._file_for(root))
        assert looked() == (["a", "b", "c"], STATES)


def test_who_resumes_all_asks_about_runs_that_are_remembered(root, scripted):
    Index(root).look()
    scripted.away.add("scripted")
    runs, skipped = resumable(root)
    assert (runs, [it.exit_code for it in skipped]) == ([], [4, 4])
