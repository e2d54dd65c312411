"""Marks beside runs: every write is announced before it happens, and no announcement is lost."""

import pytest

from cld_core.run import changes
from cld_core.run.events import Cancelled
from tests.support.made_up import run_with
from tests.support.other_users import open_folder

__all__ = ["open_folder"]


@pytest.fixture(autouse=True)
def _another_process():
    changes._marked.clear()


def test_an_event_marks_its_run_first(tmp_path, monkeypatch):
    run = run_with(tmp_path / "a", 10)
    seen = []
    monkeypatch.setattr("cld_core.run.ledger.append_line", lambda path, line: seen.append(changes.tokens(tmp_path)))
    run.ledger.append(Cancelled(job_id="1"))
    assert list(seen[0]) == ["a"]


def test_the_ledger_of_an_evaluation_marks_the_run(tmp_path):
    run = run_with(tmp_path / "a", 10)
    changes.mark_of(run.evals / "elbo-1" / "jobs.jsonl")
    assert list(changes.tokens(tmp_path)) == ["a"]


def test_a_process_marks_a_run_once_in_a_while_and_replaces_its_own_mark(tmp_path, monkeypatch):
    run = run_with(tmp_path / "a.b", 10)
    changes.mark(run.path)
    first = changes.tokens(tmp_path)
    changes.mark(run.path)
    assert changes.tokens(tmp_path) == first
    monkeypatch.setattr(changes, "_AGAIN_S", 0.0)
    changes.mark(run.path)
    second = changes.tokens(tmp_path)
    assert (list(second), len(second["a.b"])) == (["a.b"], 1)
    assert second != first


def test_of_two_that_mark_at_the_same_time_one_mark_stays(tmp_path, monkeypatch):
    """The second one lists and marks between the list and the mark of the first."""
    run = run_with(tmp_path / "a", 10)
    changes.mark(run.path)
    before, list_tokens = changes.tokens(tmp_path)["a"], changes._tokens
    changes._marked.clear()

    def interrupted(folder):
        monkeypatch.setattr(changes, "_tokens", list_tokens)
        found = list_tokens(folder)
        changes.mark(run.path)
        changes._marked.clear()
        return found

    monkeypatch.setattr(changes, "_tokens", interrupted)
    changes.mark(run.path)
    after = changes.tokens(tmp_path)["a"]
    assert after
    assert not set(after) & set(before)


def test_where_there_is_no_run_or_no_right_nothing_happens(tmp_path):
    (tmp_path / "folder").mkdir()
    changes.mark(tmp_path / "folder")
    assert not (tmp_path / changes.FOLDER).exists()
    run = run_with(tmp_path / "a", 10)
    (tmp_path / changes.FOLDER).write_text("a file")
    changes.mark(run.path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / changes.FOLDER).unlink()
    (tmp_path / changes.FOLDER).symlink_to(elsewhere)
    changes.mark(run.path)
    assert not list(elsewhere.iterdir())
