"""Marks beside runs: every write is announced before it happens, and no announcement is lost."""

import pytest

from cld_core.run import change_marks
from cld_core.run.events import Cancelled
from tests.support.made_up import run_with
from tests.support.other_users import open_folder

__all__ = ["open_folder"]


@pytest.fixture(autouse=True)
def _another_process():
    change_marks._marked.clear()


def test_an_event_marks_its_run_first(tmp_path, monkeypatch):
    run = run_with(tmp_path / "a", 10)
    seen = []
    monkeypatch.setattr(
        "cld_core.run.ledger.append_line", lambda path, line: seen.append(change_marks.tokens(tmp_path))
    )
    run.ledger.append(Cancelled(job_id="1"))
    assert list(seen[0]) == ["a"]


def test_the_ledger_of_an_evaluation_marks_the_run(tmp_path):
    run = run_with(tmp_path / "a", 10)
    change_marks.mark_of(run.evals / "elbo-1" / "jobs.jsonl")
    assert list(change_marks.tokens(tmp_path)) == ["a"]


def test_a_process_marks_a_run_once_in_a_while_and_replaces_its_own_mark(tmp_path, monkeypatch):
    run = run_with(tmp_path / "a.b", 10)
    change_marks.mark(run.path)
    first = change_marks.tokens(tmp_path)
    change_marks.mark(run.path)
    assert change_marks.tokens(tmp_path) == first
    monkeypatch.setattr(change_marks, "_AGAIN_S", 0.0)
    change_marks.mark(run.path)
    second = change_marks.tokens(tmp_path)
    assert (list(second), len(second["a.b"])) == (["a.b"], 1)
    assert second != first


def test_of_two_that_mark_at_the_same_time_one_mark_stays(tmp_path, monkeypatch):
    """The second one lists and marks between the list and the mark of the first."""
    run = run_with(tmp_path / "a", 10)
    change_marks.mark(run.path)
    list_tokens = change_marks.tokens
    before = list_tokens(tmp_path)["a"]
    change_marks._marked.clear()

    def interrupted(root):
        monkeypatch.setattr(change_marks, "tokens", list_tokens)
        found = list_tokens(root)
        change_marks.mark(run.path)
        change_marks._marked.clear()
        return found

    monkeypatch.setattr(change_marks, "tokens", interrupted)
    change_marks.mark(run.path)
    after = change_marks.tokens(tmp_path)["a"]
    assert after
    assert not set(after) & set(before)


def test_where_there_is_no_run_or_no_right_nothing_happens(tmp_path):
    (tmp_path / "folder").mkdir()
    change_marks.mark(tmp_path / "folder")
    assert not (tmp_path / change_marks.FOLDER).exists()
    run = run_with(tmp_path / "a", 10)
    (tmp_path / change_marks.FOLDER).write_text("a file")
    change_marks.mark(run.path)
    assert (tmp_path / change_marks.FOLDER).read_text() == "a file"
