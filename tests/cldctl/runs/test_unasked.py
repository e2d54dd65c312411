"""A run whose ledger is gone, or that never had one, says so and can be resumed."""

import time

import pytest

from cld_core.errors import UsageError
from cld_core.files import read_json, write_json
from cld_core.run.events import Requested, Submitted
from cldctl.runs import home
from cldctl.runs.resume import Continuation, resume
from cldctl.runs.status import status_of
from cldctl.runs.survey import Answers
from tests.support.made_up import run_with
from tests.support.scripted import Scripted, trained


def state(run):
    row = status_of(run, Answers({}))
    return row.state, row.reason


def test_a_ledger_that_was_deleted(tmp_path, scripted):
    run = trained(run_with(tmp_path / "mine", 10, 20), "1", "gone")
    run.ledger.path.unlink()
    found, reason = state(run)
    assert found == "LOST"
    assert "ledger attempts.jsonl is missing; `cldctl resume mine` continues from the checkpoint of step 20" in reason
    starts = []
    resume(run, Continuation(), Scripted(), lambda _, recipe, start, *more: starts.append(start))
    assert starts == [20]
    assert [type(event) for event in run.ledger.events()] == [Requested, Submitted]


def test_a_command_that_was_killed_before_it_asked_for_a_job(tmp_path, scripted, monkeypatch):
    run = run_with(tmp_path / "mine")
    reason = "the submission was interrupted before it asked for a job; `cldctl resume mine` does"
    assert state(run) == ("FAILED", reason)
    write_json(run.identity_file, {**read_json(run.identity_file), "group": "seeds"})
    for locked in (run.path, run.path.parent / ".groups/seeds"):
        monkeypatch.setattr(home, "is_locked", lambda folder, locked=locked: folder == locked)
        assert state(run) == ("PENDING", None), "it is being submitted"
        monkeypatch.undo()
    write_json(run.identity_file, {**read_json(run.identity_file), "created": time.time()})
    assert state(run) == ("PENDING", None), "it may still be about to ask"
    with pytest.raises(UsageError, match="mine is pending"):
        resume(run, Continuation(), Scripted(), lambda *about: None)
