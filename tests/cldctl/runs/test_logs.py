"""Which file the output of a process is in."""

import shutil
from pathlib import Path

import pytest

from cld_core.errors import NotFoundError
from cld_core.evaluation.evaluation import Evaluation
from cld_core.evaluation.request import EvalRequest
from cld_core.run import RunFolder
from cld_core.run.events import JobRef, Started, Submitted, TurnedAway
from cldctl.runs import logs
from tests.support.made_up import run_with
from tests.support.tools import invoke


@pytest.fixture
def run(tmp_path, scripted):
    return run_with(tmp_path / "runs" / "mine", 10)


def write(folder, job_id, text="hello\n"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{job_id}_0_log.out").write_text(text)


def submitted(job_id, folder):
    return Submitted(job=JobRef(cluster="scripted", job_id=job_id, logs=str(folder)), shards=(0,))


def test_the_logs_of_a_sweep_are_found_after_the_run_was_moved_or_copied(run, tmp_path):
    work = Evaluation(EvalRequest.of(run.recipe(), ("elbo",), 10).save(run))
    there = run.evals / "sweep-1" / "logs"
    work.ledger.append(submitted("7", there))
    write(there, "7")
    for move in (shutil.copytree, shutil.move):
        target = tmp_path / move.__name__
        move(run.path, target)
        (file,) = logs.of_evaluation(RunFolder(target), work.name, 0, 0).files()
        assert file.is_relative_to(target)


def test_a_job_that_was_turned_away_has_a_log_and_a_reason(run):
    run.ledger.append(submitted("7", run.logs))
    run.ledger.append(TurnedAway(job_id="7", reason="another job holds it", why="held"))
    write(run.logs, "7")
    shown = invoke("logs", "mine", runs=run.path.parent)
    assert shown.stdout == "hello\n"
    assert "job 7 did not train: another job holds it" in shown.stderr
    run.ledger.append(submitted("8", run.logs))
    log = logs.of_training(run, None, 0)
    assert (log.job.job_id, log.note) == ("8", None)


def test_the_log_of_an_attempt_is_that_of_its_job(run):
    with pytest.raises(NotFoundError, match="was never submitted"):
        logs.of_training(run, None, 0)
    for attempt, job_id in enumerate("78"):
        run.ledger.append(submitted(job_id, "/elsewhere"))
        run.ledger.append(Started(attempt=attempt, job_id=job_id, step=0))
        write(run.logs, job_id)
    (file,) = logs.of_training(run, 0, 0).files()
    assert file == run.logs / "7_0_log.out"
    assert logs.of_training(run, None, 0).job.job_id == "8"
    with pytest.raises(NotFoundError, match=r"no attempt 2\. It has: 0, 1"):
        logs.of_training(run, 2, 0)


def test_an_evaluation_without_a_job_has_no_log(run):
    request = EvalRequest.of(run.recipe(), ("elbo",), 10, 2)
    work = Evaluation(request.save(run))
    with pytest.raises(NotFoundError, match=r"no evaluation .* that was started"):
        logs.of_evaluation(run, work.name, None, 0)
    work.ledger.append(submitted("7", work.folder / "logs"))
    with pytest.raises(NotFoundError, match=r"no job of .* computes shard 1"):
        logs.of_evaluation(run, work.name, 1, 0)
    with pytest.raises(NotFoundError, match=r"no shard 2\. It has: 0 to 1"):
        logs.of_evaluation(run, work.name, 2, 0)


def test_the_logs_of_a_colleague_s_job_are_in_a_folder_of_their_own(run, tmp_path):
    """Wherever the ledger says that it is, it is looked for in this run."""
    run.ledger.append(submitted("7", run.path / "logs-anna"))
    write(run.path / "logs-anna", "7")
    moved = tmp_path / "moved"
    shutil.move(run.path, moved)
    (file,) = logs.of_training(RunFolder(moved), None, 0).files()
    assert file == moved / "logs-anna" / "7_0_log.out"
    work = Evaluation(EvalRequest.of(RunFolder(moved).recipe(), ("elbo",), 10).save(RunFolder(moved)))
    work.ledger.append(submitted("8", work.folder / "logs-anna"))
    write(work.folder / "logs-anna", "8")
    (file,) = logs.of_evaluation(RunFolder(moved), work.name, None, 0).files()
    assert file == work.folder / "logs-anna" / "8_0_log.out"
    for elsewhere in ("/etc", str(moved / "logs-anna" / ".."), "logs-", ""):
        RunFolder(moved).ledger.append(submitted("9", elsewhere))
        assert Path(logs.of_training(RunFolder(moved), None, 0).job.logs).parent == moved
