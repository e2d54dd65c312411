"""What follows a bad end: decided without a cluster, and done with a launcher that is made up."""

import errno
import time
from unittest.mock import Mock

import pytest

from cld_core import files
from cld_core.files import append_line
from cld_core.run import RunFolder
from cld_core.run.events import (
    Cancelled,
    Failed,
    Started,
    TurnedAway,
    Wished,
)
from cld_core.run.history import History
from cld_core.run.ledger import Ledger, to_line
from cld_core.run.work import Budget, Training
from cldctl.clusters.base import Requeue
from cldctl.jobs import aftermath
from cldctl.jobs.aftermath import End, Retry, decide, missing_event
from cldctl.jobs.process import BLIND, HOPELESS, UNFIT
from cldctl.runs.status import with_trouble
from tests.support.failing import FULL_DISK
from tests.support.made_up import (
    ended,
    given_up,
    note,
    ordered,
    queued,
    run_with,
    started,
    unfit,
    wished,
)
from tests.support.scripted import LAUNCHER, Scripted, inside


def after(*happened, restart=0, max_retries=3):
    budget = Budget(retries=max_retries, a_day=20)
    return decide(History.of(happened), inside(restart=restart), budget)


def test_what_another_start_may_get_past():
    for cause in ("crashed", "out_of_memory", "killed"):
        assert isinstance(after(started(), ended(cause)), Retry)
    for cause in ("finished", "cancelled", "nonfinite", "save_failed"):
        assert after(started(), ended(cause)) is None
    assert after(started(job_id="6"), ended(), queued()) is None, "nor one that never began"
    assert after(started(), ended("preempted")).cause == "preempted", "it failed while it stopped"
    assert after(started(), ended("terminated", detail="SIGUSR2")).cause == "terminated"
    assert after(started(), ended("preempted"), wished("preempted")) is None


def test_a_task_of_sharded_work_has_a_budget_of_its_own():
    history = History.of([Failed("crash", job_id="7", restart=restart) for restart in range(2)])
    budget = Budget(retries=3)
    assert decide(history, inside(), budget, 137) == Retry(20.0, "crash 2 of 3 allowed")
    # A fault in the request; its checkpoint is gone; it would draw the same samples.
    assert {decide(history, inside(), budget, code) for code in (2, 3, HOPELESS)} == {None}


def test_a_second_start_that_said_nothing_died_early():
    def missing(*happened, code=1):
        happened = (started(0), ended("preempted"), *happened)
        return missing_event(History.of(happened), inside(restart=1), code, hung=False, step=30)

    assert missing().kind == "early"
    assert missing(code=2) is None, "wrong usage is there at the next start, too"
    assert missing(given_up("damaged", never_began=True)) is None
    assert missing(TurnedAway(job_id="7", reason="held", why="held")) is None


@pytest.fixture
def run(tmp_path):
    run = run_with(
        tmp_path / "mine", 10, overrides=("train.max_retries=1", "cluster.successor=true")
    )
    note(run, queued())
    return run


def wishes(work, code=137, **about):
    """What job 7 wishes for after a bad end of its work; a run stands for its training."""
    job = inside(**about)
    work = Training(work.path) if isinstance(work, RunFolder) else work
    aftermath.after(work, job, End("work", code, ""))
    return job.wishes


def test_a_training_that_crashed_is_started_again_until_its_budget_is_spent(run, capsys):
    note(run, started())
    assert wishes(run, cause="out_of_memory") == [Requeue(10.0)]
    ended, requeued = run.ledger.events()[-2:]
    assert ended.cause == requeued.cause == "out_of_memory", "as the launcher knows"
    assert "mine: crash 1 of 1 allowed; again in 10 s" in capsys.readouterr().err

    note(run, started(1, restart=1), queued("8", successor_of="7"))
    said = "Timeout (0:05:00)!"
    assert wishes(run, 1, restart=1, said=said) == [Requeue(None)]
    history = run.ledger.history()
    assert history.given_up == "2 crashes in a row without a new checkpoint (train.max_retries=1)"
    assert history.last.detail.startswith("no step finished within train.hang_timeout_s")
    assert history.turned_away == {"8": "withdrawn"}, "its successor is not to begin"


def test_a_bug_is_given_up_at_once(run):
    note(run, started(), ended(detail="TypeError: no", bug=True))
    wishes(run, 1)
    assert run.ledger.history().given_up == "TypeError: no"


@pytest.fixture
def work(run):
    return ordered(run, 10)


def test_a_task_of_shards_that_crashed_is_started_again_until_its_budget_is_spent(work, capsys):
    assert wishes(work) == [Requeue(10.0)]
    assert wishes(work, restart=1) == [Requeue(None)]
    assert (
        "task 7: 2 crashes (1 allowed); the budget is spent: not started again"
        in capsys.readouterr().err
    )
    assert work.ledger.history().crashes == {"7": 2}


def test_a_training_is_started_again_although_nothing_can_be_written(run, monkeypatch, disk_clock):
    monkeypatch.setattr(Ledger, "append", Mock(side_effect=FULL_DISK))
    append_line(run.ledger.path, to_line(started()))
    assert wishes(run) == [Requeue(10.0)]
    last = run.ledger.full_history().last
    assert (last.cause, last.detail) == ("crashed", "a rank ended with code 137; see cldctl logs")
    assert isinstance(run.ledger.events()[-1], Started), "nothing was written"


def loop(crashes, every_s=600.0):
    """Each attempt gains 40 steps, saves them, and crashes."""
    happened = []
    for number in range(crashes):
        began = time.time() - (crashes - number) * every_s
        happened += [
            started(number, 40 * number, time=began, restart=number),
            ended("crashed", 40 * number + 40, attempt=number, time=began + every_s - 10),
        ]
    return History.of(happened)


def test_a_loop_of_crashes_with_progress_ends():
    def decided(crashes, **how):
        budget = Budget(retries=3, a_day=20)
        return decide(loop(crashes, **how), inside(restart=crashes - 1), budget)

    assert decided(20) == decided(40, every_s=7200.0) == Retry(10.0, "crash 1 of 3 allowed"), (
        "only the last day counts"
    )
    assert (
        decided(21).reason
        == "crashed 21 times in 3 h, 40 steps on average (train.max_crashes_a_day=20)"
    )


def test_status_tells_it():
    said = with_trouble("(BeginTime)", "REQUEUED", loop(7), "7")
    assert said == "(BeginTime); crashed 7 times in 70 min, 40 steps on average"
    assert with_trouble(None, "FINISHED", loop(7), "7") is None


def test_a_job_begins_again_elsewhere_and_no_retry_is_spent(run, capsys):
    note(run, unfit())
    assert wishes(run, UNFIT) == [Requeue(10.0, avoid=("n1",))]
    requeued = run.ledger.events()[-1]
    assert (requeued.cause, requeued.exclude) == ("unfit", ("n1",))
    assert run.ledger.history().crashes_in_a_row == 0
    assert "node n1 is avoided from now on: unfit (gpu)" in capsys.readouterr().err


def test_unfit_machines_are_not_looked_for_for_ever(run):
    for restart in range(aftermath.UNFIT_STARTS):
        note(run, unfit(restart=restart))
        wishes(run, UNFIT, restart=restart)
        assert isinstance(run.ledger.events()[-1], Wished)
    note(run, unfit(restart=aftermath.UNFIT_STARTS))
    assert wishes(run, UNFIT, restart=aftermath.UNFIT_STARTS) == [Requeue(None)]
    assert "11 starts in a row found an unfit machine" in run.ledger.history().given_up


@pytest.fixture
def end(run, work, monkeypatch):
    """Call it as the batch script does, about a job whose earlier starts the first 1000 bytes of
    its log tell of."""
    job = inside()
    job.cause_of = lambda code, offset: "timeout" if offset < 1000 else job.cause
    monkeypatch.setattr(Scripted, "current", lambda self: job)
    folders = {"training": run.path, "shards": work.folder}

    def call(kind, code, *phase, folder=None):
        return aftermath.main(
            [kind, str(folder or folders[kind]), str(run.logs), LAUNCHER, str(code), *phase]
        )

    call.job = job
    return call


def test_a_work_whose_folder_is_gone_is_not_started_again(end, tmp_path, capsys):
    assert end("shards", 137, "work", "0", folder=tmp_path / "gone") == 0
    assert end.job.wishes == []
    assert capsys.readouterr().err.startswith("task 7: not started again: ")


@pytest.mark.parametrize("kind", ["training", "shards"])
def test_it_says_that_nothing_can_be_read(end, monkeypatch, disk_clock, capsys, kind):
    """The batch script decides then."""
    monkeypatch.setattr(
        files.os, "open", Mock(side_effect=OSError(errno.ESTALE, "Stale file handle"))
    )
    assert end(kind, 137, "work", "0") == BLIND
    assert "its files cannot be read" in capsys.readouterr().err


def test_a_wish_that_slurm_refuses_is_noted(end, run, work):
    """Nothing else: its ranks had said how they ended."""
    for kind, ledger in (("training", run.ledger), ("shards", work.ledger)):
        before = ledger.events()
        assert end(kind, 0, "refused", "Invalid job id") == 0
        (event,) = ledger.events()[len(before) :]
        assert (end.job.wishes, event.what, event.reason) == ([], "requeue", "Invalid job id")


def test_what_was_cancelled_does_not_begin_again(end, run, capsys):
    note(run, started(), Cancelled(job_id="7"))
    assert end("training", 137, "work", "0") == 0
    assert end.job.wishes == []
    assert "job 7 was cancelled: not started again" in capsys.readouterr().err


def test_what_a_signal_meant_is_noted_once_it_is_known(end, run):
    note(run, started(), ended("terminated"))
    end.job.cause = "cancelled"
    assert end("training", 143, "told", "") == 0
    history = run.ledger.history()
    assert (history.cause, history.state, end.job.wishes) == ("cancelled", "CANCELLED", [])


def test_a_successor_of_a_cancelled_job_is_turned_away(end, run):
    note(run, queued("6"), started(job_id="6"))
    end.job.cause = "cancelled"
    assert end("training", 0, "withdrawn", "") == 0
    history = run.ledger.history()
    assert (history.cause, history.turned_away) == ("cancelled", {"7": "withdrawn"})


def test_a_line_of_the_setup_that_fails_is_named_with_its_exit_code(end, run):
    end.job.said = "job 7 ended in cluster.setup with code 2, in line: module load cuda\n"
    said = "cluster.setup failed with code 2, in line: module load cuda"
    assert end("training", 2, "setup", "1000") == 0
    history = run.ledger.history()
    assert (history.not_begun, history.state, end.job.wishes) == ({"7": said}, "FAILED", [])
    # Of a later start of the job, it counts as a crash.
    note(run, started(), ended("preempted"))
    for restart in (1, 2):
        end.job.restart = restart
        end("training", 2, "setup", "1000")
    assert run.ledger.history().failures[-1].reason == said
    assert end.job.wishes == [Requeue(10.0), Requeue(None)]
    assert run.ledger.history().given_up.endswith(f"; the last one: {said}")


def test_a_time_limit_during_the_setup_costs_a_retry(end, run):
    end("training", 143, "setup", "1000")
    end("shards", 143, "setup", "1000")
    assert end.job.wishes == [], "a signal for another reason"
    end.job.cause = "timeout"
    end("training", 143, "setup", "1000")
    died, wished = run.ledger.events()[-2:]
    assert (died.kind, wished.cause, end.job.wishes) == ("early", "timeout", [Requeue(10.0)])
    end("shards", 143, "setup", "1000")
    assert end.job.wishes.pop() == Requeue(10.0)
    end("training", 143, "setup", "1000")
    event = run.ledger.events()[-1]
    assert (event.never_began, end.job.wishes[1:]) == (True, [Requeue(None)])
    assert "the time limit came during cluster.setup, 2 times" in event.reason
