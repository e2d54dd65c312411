"""Tunings among the jobs of a run, on a cluster that is made up."""

from pathlib import Path

import pytest

from cld_core.errors import UsageError
from cld_core.run.events import JobRef, Submitted
from cld_core.tuned.request import TuneRequest
from cld_core.tuned.work import Tuning
from cldctl.runs import cancel, logs, removal
from tests.support.old_runs import over


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
