"""Several people who watch runs on Slurm: how often it is asked, and how soon they see what happens."""

from dataclasses import replace

import pytest

from cld_core.files import write_json
from cld_core.run.events import Ended, JobRef, Started, Submitted, Wished
from cldctl.clusters.slurm import poll
from cldctl.runs import logs, selection, status
from cldctl.runs.index import Index
from cldctl.show import follow
from cldctl.show import runs as shown_runs
from tests.support import scheduler
from tests.support.clock import Clock
from tests.support.made_up import run_with


class Over(BaseException):
    """The time is up."""


@pytest.fixture
def clock(monkeypatch):
    clock = Clock(now=1_000_000.0)
    for module in (shown_runs, selection, status, follow):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def slurm(monkeypatch, clock):
    yield scheduler.register(monkeypatch, clock)
    poll._memory.cache_clear()


def training(path, job_id, when):
    run = run_with(path, 10)
    job = JobRef(cluster="slurm", job_id=job_id, logs=str(run.logs), restarts=True)
    run.ledger.append(Submitted(time=when, job=job))
    run.ledger.append(Started(time=when, attempt=0, job_id=job_id, step=10))
    write_json(run.progress_file, {"attempt": 0, "step": 12, "steps": 100, "steps_per_s": 1.0, "time": when})
    (run.logs / f"{job_id}_0_log.out").write_text("hello\n")
    return run


def rows_of(root, *chosen):
    return shown_runs.Query(Index(root), selection.Selection(), chosen=chosen).look().rows


def test_three_minutes_of_watchers_are_at_most_10_calls(tmp_path, clock, slurm, capsys):
    """`status --watch`, `logs -f` and `--follow`: once, it was hundreds a minute."""
    slurm.mine = {"1": "RUNNING|n1|None"}
    run = training(tmp_path / "a", "1", clock.now)
    gone = training(tmp_path / "d", "4", clock.now - 1e5)
    gone.ledger.append(Ended(time=clock.now - 9e4, attempt=0, cause="timeout", step=11))
    log, end = logs.of_training(run, None, 0), clock.now + 180
    lines = logs.Lines(lambda: [log], merge=False, tail=None, say=print)

    def others_look(now):
        rows_of(tmp_path)
        assert log.is_growing()
        list(lines.new())
        if now >= end:
            raise Over

    clock.then = others_look
    with pytest.raises(Over):
        follow.follow_runs([run])
    assert slurm.calls.total() <= 10, slurm.calls
    assert slurm.calls["squeue"] >= 5, "they do look"
    assert "RUNNING" in capsys.readouterr().err


def test_what_happens_is_seen_at_once(tmp_path, clock, slurm):
    """The run's own ledger tells it, and Slurm need not be asked."""
    slurm.mine, began = {"1": "RUNNING|n1|None"}, clock.now
    run = training(tmp_path / "a", "1", began)
    planned = [
        (40, (Ended(attempt=0, cause="timeout", step=20), Wished(job_id="1", cause="timeout")), "PENDING||BeginTime"),
        (50, (Started(attempt=1, job_id="1", step=20),), "RUNNING|n2|None"),
        (55, (Ended(attempt=1, cause="finished", step=100),), "RUNNING|n2|None"),
    ]
    seen = []

    def happen(now):
        if planned and now >= began + planned[0][0]:
            _, events, slurm.mine["1"] = planned.pop(0)
            for event in events:
                run.ledger.append(replace(event, time=now))
            seen.append(rows_of(tmp_path)[0].state)

    clock.then = happen
    assert follow.follow_runs([run]) == 0, "--follow ends with the run"
    assert seen == ["REQUEUED", "RUNNING", "FINISHED"]
    assert slurm.calls.total() <= (clock.now - began) / 30 + 1
