"""Which pages of runs are written once more."""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cld_core.run import RunFolder
from cld_core.run.events import Noted
from cldctl.page import freshness, one_run
from cldctl.runs import survey
from cldctl.runs.status import RunStatus, status_of
from tests.support.reported import everything
from tests.support.tools import invoke


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """A run of which nothing has changed for an hour."""
    made = everything(tmp_path / "runs" / "mine", points=2)
    before = time.time() - 3600
    for path in made.path.rglob("*"):
        os.utime(path, (before, before))
    return made


def row_of(run) -> RunStatus:
    return status_of(run, survey.of_runs([run]))


def write(run) -> None:
    freshness.write(run, lambda: one_run.page(run))


def test_a_page_stays_until_something_happens(run):
    assert not freshness.is_up_to_date(run, row_of(run), follow=False), "there is none"
    write(run)
    assert freshness.is_up_to_date(run, row_of(run), follow=False)
    assert [file.name for file in run.path.glob(".report*")] == []
    run.ledger.append(Noted(note="looks good"))
    assert not freshness.is_up_to_date(run, row_of(run), follow=False)


@pytest.mark.parametrize("arguments", [("mine",), ("--all", "--pages")])
def test_what_is_noted_while_a_page_is_made_is_in_the_next_one(run, monkeypatch, arguments):
    make = one_run.page

    def page(run, *, follow=False):
        made = make(run, follow=follow)
        run.ledger.append(Noted(note="came late"))
        return made

    monkeypatch.setattr(one_run, "page", page)
    invoke("report", *arguments, runs=run.path.parent)
    assert not freshness.is_up_to_date(run, row_of(run), follow=False)


def test_a_page_of_an_evaluation_that_is_alive_is_old_whatever_becomes_of_it(run, monkeypatch):
    last = row_of(run)
    first, *others = last.evals
    alive = replace(last, evals=[{**first, "state": "PENDING"}, *others])
    stopped = replace(last, evals=[{**first, "state": "STOPPED"}, *others])
    found = one_run.why(run)
    monkeypatch.setattr(one_run, "why", lambda run: replace(found, row=alive))
    write(run)
    assert not freshness.is_up_to_date(run, alive, follow=False)
    assert not freshness.is_up_to_date(run, stopped, follow=False), "a scheduler alone has ended it"


def test_a_page_of_another_version_or_of_other_folders_is_old(run, monkeypatch):
    write(run)
    assert not freshness.is_up_to_date(run, row_of(run), follow=True)
    monkeypatch.setattr(freshness, "__version__", "0.0.1")
    assert not freshness.is_up_to_date(run, row_of(run), follow=False)


@pytest.mark.parametrize("name", ["figures.py", "templates/page.css"])
def test_a_page_that_other_code_made_is_old(run, monkeypatch, tmp_path, name):
    write(run)
    changed = shutil.copytree(Path(freshness.__file__).parent, tmp_path / "page")
    monkeypatch.setattr(freshness, "__file__", str(changed / "freshness.py"))
    monkeypatch.setattr(freshness, "_package", freshness._package.__wrapped__)
    assert freshness.is_up_to_date(run, row_of(run), follow=False), "a copy of the same code"
    with (changed / name).open("a") as file:
        file.write("\n")
    assert not freshness.is_up_to_date(run, row_of(run), follow=False)


@pytest.mark.parametrize("content", ["", "<!doctype html>", "<meta name='generator'>" * 500])
def test_a_page_without_a_mark_is_old(run, content):
    freshness.write(run, lambda: content)
    assert not freshness.is_up_to_date(run, row_of(run), follow=False)
