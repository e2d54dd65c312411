"""What a run does at the moment, from its own report."""

import time

import pytest

from cld_core.files import write_json
from cld_core.run.events import Ended, JobRef, Requeued, Started, Submitted
from cldctl.runs import survey
from cldctl.runs.status import status_of
from tests.support.made_up import run_with
from tests.support.scripted import Scripted, trained


def looked_at(run):
    return status_of(run, survey.of_runs([run]))


def report(run, **known):
    write_json(run.progress_file, {"attempt": 0, "step": 12, "steps": 100, "time": time.time(), **known})


@pytest.mark.parametrize("phase", ["training", "saving", "evaluating", "drawing samples"])
def test_a_training_says_what_it_does(tmp_path, scripted, phase):
    run = trained(run_with(tmp_path / "a", 10), "1")
    report(run, phase=phase, loss=2.0, smoothed_loss=1.5)
    row = looked_at(run)
    assert (row.state, row.phase, row.loss, row.smoothed_loss) == ("RUNNING", phase, 2.0, 1.5)


def test_before_its_first_report_it_is_starting(tmp_path, scripted):
    run = run_with(tmp_path / "a", 10)
    run.ledger.append(Submitted(job=JobRef(cluster="scripted", job_id="1", logs=str(run.logs))))
    Scripted.phases["1"] = "pending"
    assert looked_at(run).phase == "waiting for the queue"
    Scripted.phases["1"] = "running"
    assert looked_at(run).phase == "starting"
    run.ledger.append(Started(attempt=0, job_id="1", step=0))
    report(run, attempt=0, phase="saving")
    run.ledger.append(Ended(attempt=0, cause="preempted", step=12))
    run.ledger.append(Requeued(job_id="1", cause="preempted"))
    Scripted.phases["1"] = "pending"
    assert looked_at(run).phase == "waiting for the queue"
    Scripted.phases["1"] = "running"
    run.ledger.append(Started(attempt=1, job_id="1", step=12))
    assert looked_at(run).phase == "starting", "the report is of the attempt before"


def test_a_run_that_is_over_does_nothing(tmp_path, scripted):
    run = trained(run_with(tmp_path / "a", 10), "1", "gone")
    report(run, phase="saving")
    run.ledger.append(Ended(attempt=0, cause="finished", step=100))
    assert looked_at(run).phase is None
