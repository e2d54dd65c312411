"""Which pages of runs are written once more."""

from dataclasses import replace

import pytest

from cld_core.run import RunFolder
from cld_core.run.events import Noted
from cldctl.page import one_run
from cldctl.runs import survey
from cldctl.runs.status import RunStatus, status_of
from tests.support.reported import everything
from tests.support.tools import invoke


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return everything(tmp_path / "runs" / "mine", points=2)


def row_of(run) -> RunStatus:
    return status_of(run, survey.of_runs([run]))


def write(run) -> None:
    one_run.page_of(run).write_text(one_run.page(run))


def test_a_page_stays_until_something_happens(run):
    assert not one_run.is_up_to_date(run, row_of(run), follow=False), "there is none"
    write(run)
    assert one_run.is_up_to_date(run, row_of(run), follow=False)
    run.ledger.append(Noted(note="looks good"))
    assert not one_run.is_up_to_date(run, row_of(run), follow=False)


@pytest.mark.parametrize("arguments", [("mine",), ("--all", "--pages")])
def test_what_is_noted_while_a_page_is_made_is_in_the_next_one(run, monkeypatch, arguments):
    explain = one_run.why

    def why(run):
        found = explain(run)
        run.ledger.append(Noted(note="came late"))
        return found

    monkeypatch.setattr(one_run, "why", why)
    invoke("report", *arguments, runs=run.path.parent)
    assert not one_run.is_up_to_date(run, row_of(run), follow=False)


def test_a_page_of_an_evaluation_that_is_alive_is_old_whatever_becomes_of_it(run, monkeypatch):
    last = row_of(run)
    first, *others = last.evals
    alive = replace(last, evals=[{**first, "state": "PENDING"}, *others])
    stopped = replace(last, evals=[{**first, "state": "STOPPED"}, *others])
    found = one_run.why(run)
    monkeypatch.setattr(one_run, "why", lambda run: replace(found, row=alive))
    write(run)
    assert not one_run.is_up_to_date(run, alive, follow=False)
    assert not one_run.is_up_to_date(run, stopped, follow=False), "a scheduler alone has ended it"


def test_a_page_of_another_version_or_of_other_folders_is_old(run, monkeypatch):
    write(run)
    assert not one_run.is_up_to_date(run, row_of(run), follow=True)
    monkeypatch.setattr(one_run, "__version__", "0.0.1")
    assert not one_run.is_up_to_date(run, row_of(run), follow=False)


@pytest.mark.parametrize("content", ["", "<!doctype html>"])
def test_a_page_without_a_mark_is_old(run, content):
    one_run.page_of(run).write_text(content)
    assert not one_run.is_up_to_date(run, row_of(run), follow=False)
