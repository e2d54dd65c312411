"""Which rank failed first: timestamps decide, and those whose peers are gone are not to blame."""

import pytest

from cld_core.errors import NotFoundError
from cld_core.run.events import Ended, RankFailed, Started, Submitted
from cldctl.runs.failing import failed_log, first_failure, last_failed
from tests.support.ledgers import job
from tests.support.made_up import run_with

GLOO = "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]"


@pytest.fixture
def run(tmp_path, scripted):
    run = run_with(tmp_path / "runs" / "mine", 10)
    run.ledger.append(Submitted(job=job("7", "slurm", logs=str(run.logs))))
    run.ledger.append(Started(attempt=0, job_id="7", step=0, time=100.0))
    run.ledger.append(Ended(attempt=0, cause="crashed", step=15, detail="what rank 0 said", time=200.0))
    return run


def log(run, rank, text, stream="err"):
    head = f"--- start 0 of job 7: rank {rank} on n{rank}, 2026-11-26T08:00:00 ---\n"
    (run.logs / f"7_{rank}_log.{stream}").write_text(head + text)


def failed(run, time, rank, reason, restart=0):
    run.ledger.append(RankFailed(time=time, job_id="7", restart=restart, rank=rank, host=f"n{rank}", reason=reason))


def first(run):
    history = run.ledger.history()
    return first_failure(run, history, last_failed(history))


def test_the_earliest_time_decides_not_the_order_of_lines_or_ranks(run):
    failed(run, 190.0, 0, "ValueError: late")
    failed(run, 150.0, 2, "OSError: early")
    failed(run, 110.0, 1, "ValueError: of another start", restart=1)
    log(run, 2, "Traceback\n  at x\nOSError: early\nslurmstepd: error: something later\n")
    found = first(run)
    assert (found.rank, found.host, found.reason, found.time) == (2, "n2", "OSError: early", 150.0)
    assert found.lines == ("Traceback", "  at x", "OSError: early")


def test_a_rank_whose_peers_are_gone_is_not_first_even_if_its_clock_says_so(run):
    failed(run, 120.0, 0, GLOO)
    failed(run, 121.0, 2, "another rank is gone, killed or crashed")
    failed(run, 150.0, 1, "OSError: the real one")
    assert first(run).rank == 1


def test_a_rank_that_was_killed_is_known_from_srun(run):
    failed(run, 120.0, 0, GLOO)
    log(run, 0, f"{GLOO}\nsrun: error: n2: task 1: Killed\nsrun: error: n1: task 0: Exited with exit code 1\n")
    found = first(run)
    assert (found.rank, found.host, found.reason) == (1, "n2", "Killed")


def test_else_the_logs_of_the_ranks_tell(run):
    log(run, 0, f"Traceback\n{GLOO}\n")
    log(run, 1, "Traceback\ncld_core.errors.DataError: no such images\n")
    found = first(run)
    assert (found.rank, found.reason) == (1, "cld_core.errors.DataError: no such images")
    assert found.file == run.logs / "7_1_log.err"


def test_one_rank_alone_is_the_first(run):
    run.ledger.append(Started(attempt=1, job_id="7", step=10, restart=1, host="n3", ranks=1, time=300.0))
    run.ledger.append(Started(attempt=2, job_id="7", step=10, restart=2, host="n3", ranks=1, time=400.0))
    (run.logs / "7_0_log.out").write_text(
        "--- start 1 of job 7: rank 0 on n3, 2026-11-26T08:00:00 ---\nstep 12 of 20\n"
    )
    found = first(run)
    assert (found.attempt, found.rank, found.host, found.lines) == (1, 0, "n3", ("step 12 of 20",))
    assert failed_log(run, 1)[1] == "attempt 1, rank 0 on n3"


def test_the_log_of_the_failed_rank(run):
    failed(run, 150.0, 1, "OSError: x")
    log(run, 1, "OSError: x\n")
    shown, what = failed_log(run, None)
    assert (shown.rank, shown.restart, what) == (1, 0, "attempt 0, rank 1 on n1")
    run.ledger.append(Started(attempt=1, job_id="7", step=10, restart=1))
    assert failed_log(run, None)[0].restart == 0, "the newest that failed, not the newest"
    with pytest.raises(NotFoundError, match=r"attempt 1 did not fail \(nobody has recorded its end\)"):
        failed_log(run, 1)
