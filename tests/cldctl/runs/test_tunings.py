"""Tunings among the jobs of a run, on a cluster that is made up."""

from pathlib import Path

import pytest

from cld_core.checkpoint.files import weights_digest
from cld_core.errors import UsageError
from cld_core.files import write_json
from cld_core.run import changes
from cld_core.run.events import JobRef, Submitted
from cld_core.solutions import FILE, Coefficients, Flow, Solution
from cld_core.tune.tuning import TuneRequest, Tuning
from cldctl.runs import cancel, logs, removal, survey
from cldctl.runs.index import Index
from cldctl.runs.status import status_of
from tests.support.old_runs import over, settle


@pytest.fixture
def run(tmp_path, scripted):
    return over(tmp_path / "a", "7", 10, 20)


@pytest.fixture
def tuning(run, scripted):
    """A tuning of the run whose job runs."""
    request = TuneRequest.of(run.recipe(), 20, 5, points=8, budget_min=1.0, seed=0)
    work = Tuning(request.store(run.tuned / request.id))
    job = JobRef(cluster="scripted", job_id="9", logs=str(work.folder / "logs"))
    work.ledger.append(Submitted(job=job, shards=(0,)))
    scripted.phases["9"] = "running"
    return work


def test_a_run_that_is_tuned_is_not_removed(run, tuning):
    with pytest.raises(UsageError, match=r"a: job 9 may still run or wait\. Nothing was removed\."):
        removal.plan([run])


def test_a_tuning_is_cancelled_with_its_run(run, tuning, scripted):
    (ending,) = endings = cancel.cancel([run])
    assert scripted.calls == [("cancel", ["9"])]
    cancel.wait(endings, lambda one: None, 60.0)
    assert tuning.ledger.history().cancelled == {"9"}
    assert cancel.outcome(ending) == "a: its tunings are cancelled"


def test_the_log_of_a_tuning_is_found_by_its_id(run, tuning):
    assert Path(logs.of_evaluation(run, tuning.name[:12], None, 0).job.logs).parent == tuning.folder


def solved(work: Tuning, kept: str = "grid") -> None:
    """Write a solution that is four times nearer to the flow than what is untuned."""
    coefficients = Coefficients((1.0, 0.5), (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)),) * 2)
    rms = {"untuned": 0.2, "grid": 0.05, "coefficients": 0.07, "<b>": 0.01}
    about = {"step": 20, "checkpoint": weights_digest(work.run, 20), "about": {}}
    flow = Flow(eps=1e-3, denoise=True)
    found = Solution(coefficients=coefficients, flow=flow, kept=kept, rms=rms, **about)
    write_json(work.folder / FILE, found.content())


def entry_of(run) -> dict:
    (entry,) = status_of(run, survey.of_runs([run])).tunings
    return entry


def test_status_tells_how_far_a_tuning_is_and_what_it_gained(run, tuning, scripted):
    rows = sum(tuning.request.sizes.values())
    entry = entry_of(run)
    assert (entry["id"], entry["nfe"], entry["state"]) == (tuning.name, 5, "RUNNING")
    assert (entry["rows_done"], entry["rows"], entry["kept"], entry["gain"]) == (0, rows, None, None)
    scripted.phases["9"] = "gone"
    entry = entry_of(run)
    assert (entry["state"], entry["cause"]) == ("STOPPED", "stopped")
    assert f"with 0 of {rows} steps complete; see the logs, then re-run `cldctl tune`" in entry["reason"]
    solved(tuning)
    entry = entry_of(run)
    assert (entry["state"], entry["rows_done"], entry["kept"], entry["reason"]) == ("FINISHED", rows, "grid", None)
    assert entry["rms"] == {"untuned": 0.2, "grid": 0.05, "coefficients": 0.07}
    assert entry["gain"] == pytest.approx(4.0)


def test_a_run_is_read_again_while_it_is_tuned_and_after_its_tuning_has_changed(
    run, tuning, scripted, tmp_path, monkeypatch
):
    monkeypatch.setenv("CLDCTL_CACHE", str(tmp_path / "cache"))
    settle(run.path.parent)

    def remembered() -> list[str]:
        Index(run.path.parent).look(check_s=0.0)
        return list(Index(run.path.parent)._entries)

    assert remembered() == [], "its job may write at any moment"
    scripted.phases["9"] = "gone"
    settle(run.path.parent)
    assert remembered() == ["a"]
    changes._marked.clear()
    tuning.ledger.append(Submitted(job=JobRef(cluster="scripted", job_id="10"), shards=(0,)))
    Index(run.path.parent).look(check_s=0.0)
    assert remembered() == [], "every line of its ledger is announced"
    scripted.phases["10"] = "gone"
    settle(run.path.parent)
    assert remembered() == ["a"]
    solved(tuning)
    Index(run.path.parent).look()
    assert remembered() == [], "a check finds what nobody announced"
