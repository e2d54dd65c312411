"""`--follow` says how a run ended, and Ctrl-C leaves its job alone; `--watch` says what plain
`status` does."""

import time
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from cld_core.run.work import Training
from cldctl.cli.finish import finish_trainings
from cldctl.runs import follow
from cldctl.runs.index import Index
from cldctl.runs.selection import Selection
from cldctl.runs.start import PlannedWork, Submission
from cldctl.runs.status import status_of
from cldctl.runs.survey import Answers
from cldctl.show import runs
from cldctl.show.follow import View
from tests.support.made_up import ended, note, run_with
from tests.support.screen import screen
from tests.support.scripted import trained
from tests.support.tools import invoke

interrupt = Mock(side_effect=KeyboardInterrupt)


def test_interrupted_is_130_and_the_job_goes_on(scripted, monkeypatch):
    monkeypatch.setattr(
        follow, "time", SimpleNamespace(monotonic=time.monotonic, time=time.time, sleep=interrupt)
    )
    done = invoke(
        "submit toy --name mine --cluster scripted --follow",
        code=130,
    )
    assert "mine PENDING" in done.stderr
    assert "the jobs continue" in done.stderr
    assert scripted.calls == []


@pytest.mark.parametrize(
    ("cause", "state", "code"),
    [("cancelled", "CANCELLED", 5), ("crashed", "FAILED", 1), ("finished", "FINISHED", 0)],
)
def test_the_exit_code_says_how_a_run_ended(
    tmp_path, scripted, monkeypatch, capsys, cause, state, code
):
    run = trained(run_with(tmp_path / "mine", 10), "1", "gone")
    note(run, ended(cause, 10))
    started = Submission(works=[PlannedWork(work=Training(run.path))])
    assert finish_trainings(started, follow=True) == code
    said = capsys.readouterr().err
    assert f"{state} at step 10" in said
    for command in ("why", "logs", "resume"):
        assert (f"  cldctl {command} mine" in said.partition("next:\n")[2]) == (code != 0)
    assert ("cldctl sample mine" in said) == (code == 0), "what to type next"


def test_watching_says_that_a_scheduler_is_away(tmp_path, scripted, monkeypatch, capsys):
    run = trained(run_with(tmp_path / "mine", 10), "1", "running")
    scripted.away = {"scripted"}
    screen(monkeypatch, 80)
    monkeypatch.setattr(runs, "time", SimpleNamespace(time=time.time, sleep=interrupt))
    with pytest.raises(KeyboardInterrupt):
        runs.watch(runs.Query(Index(tmp_path), Selection(), chosen=[run]))
    shown = capsys.readouterr().out
    assert shown.index("nobody answers") < shown.index("mine"), "as plain `status` says"


def test_a_run_that_stalls_is_warned_of_once(tmp_path, capsys):
    run = run_with(tmp_path / "a", 10)
    row = status_of(run, Answers({}))
    view = View()
    for seconds in (181, 182):
        stalled = replace(row, state="RUNNING", reason=f"no report for {seconds} s")
        look = follow.WorkStates(Answers({}), ["RUNNING"], [stalled])
        view.draw([Training(run.path)], look, Submission())
    assert capsys.readouterr().err.count("no report") == 1
