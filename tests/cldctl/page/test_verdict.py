"""The first sentence of a page, and what it says to type."""

from pathlib import Path

import pytest

from cld_core.run import RunFolder
from cldctl.page.places import Places
from cldctl.page.results import Tile
from cldctl.page.verdict import verdict
from cldctl.runs.failing import FirstFailure
from cldctl.runs.status import RunStatus
from cldctl.runs.why import Why
from tests.support.made_up import run_with

BEST = [Tile(label="FID", value="2.250", made="step 8,000")]


def said(run: RunFolder, headline: str, best=(), failed=None, **row):
    row = RunStatus(name=run.name, path=str(run.path), **row)
    answer = Why(row=row, headline=headline, failed=failed, next=["eval mine", "report mine"], changed=["new driver"])
    return verdict(answer, list(best), Places(run))


@pytest.fixture
def run(tmp_path):
    return run_with(tmp_path / "mine", 10)


def test_a_run_that_trains_says_when_it_will_be_done(run):
    found = said(run, "it trains on n1, step 2 of 8", BEST, state="RUNNING", step=2, steps=8, eta_s=7_500.0)
    assert found.sentence == "Running: it trains on n1, step 2 of 8; about 2h05m left."
    assert found.progress == 25.0
    assert found.warnings == ["new driver"]


def test_a_run_that_is_done_names_its_best_number_and_no_report(run):
    found = said(run, "all 8 steps are done", BEST, state="FINISHED", step=8, steps=8)
    assert found.sentence == "Finished: all 8 steps are done. Best FID: 2.250."
    assert len(found.commands) == 1
    assert found.commands[0].startswith("cldctl eval mine")
    assert said(run, "all 8 steps are done", state="FINISHED").progress is None


def test_an_error_of_the_past_is_no_news_of_a_run_that_trains(run):
    failed = FirstFailure(3, 1, "n1", "OSError: disk", 1.0, ("first", "last"), run.logs / "7_1_log.err")
    found = said(run, "it crashed", failed=failed, state="FAILED")
    assert found.failure == "Rank 1 failed first on n1, in attempt 3: OSError: disk"
    assert found.lines == ("first", "last")
    assert said(run, "it trains", failed=failed, state="RUNNING").failure == ""


def test_who_failed_first_may_be_unknown_and_its_log_elsewhere(run):
    failed = FirstFailure(3, None, None, None, None, ("secret",), Path("/var/log/messages"))
    found = said(run, "it crashed", failed=failed, state="LOST")
    assert found.failure == "Attempt 3 failed; which rank failed first is unknown."
    assert found.lines == ()
