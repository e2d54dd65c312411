"""Several people who watch runs on Slurm: how often it is asked, and how soon they see what happens."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cld_core.files import write_json
from cld_core.run import RunFolder
from cld_core.run.events import Ended, JobRef, Requeued, Started, Submitted
from cldctl.clusters.slurm import shared
from cldctl.runs import logs, selection, status
from cldctl.runs.index import Index
from cldctl.show import follow
from cldctl.show import logs as shown_logs
from cldctl.show import runs as shown_runs
from tests.support import scheduler
from tests.support.made_up import run_with
from tests.support.scheduler import Scheduler
from tests.support.together import Over, Together


@pytest.fixture
def clock(monkeypatch, request) -> Together:
    """Ends after ten minutes, or as many as a test says."""
    clock = Together(60.0 * getattr(request, "param", 10))
    for module in (shown_runs, shown_logs, selection, status, follow):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def slurm(monkeypatch, clock) -> Iterator[Scheduler]:
    yield scheduler.register(monkeypatch, clock)
    shared._answers.cache_clear()


def training(path: Path, job_id: str, when: float) -> RunFolder:
    run = run_with(path, 10)
    job = JobRef(cluster="slurm", job_id=job_id, logs=str(run.logs), restarts=True)
    run.ledger.append(Submitted(time=when, job=job))
    run.ledger.append(Started(time=when, attempt=0, job_id=job_id, step=10))
    write_json(run.progress_file, {"attempt": 0, "step": 12, "steps": 100, "steps_per_s": 1.0, "time": when})
    (run.logs / f"{job_id}_0_log.out").write_text("hello\n")
    return run


def rows_of(root, *chosen):
    return shown_runs.Query(Index(root), selection.Selection(), chosen=chosen).look().rows


def watch(clock, root, seen=lambda rows: None):
    """What `status --watch` does."""
    while True:
        rows = rows_of(root)
        seen(rows)
        clock.sleep(1.0)


@pytest.mark.parametrize("clock", [3], indirect=True)
def test_three_minutes_of_four_watchers_are_at_most_8_calls(tmp_path, clock, slurm, capsys):
    """It was over 3,000: 63 a minute for each `--watch`, 195 for `logs -f`, and 30 for `--follow`."""
    slurm.mine = {"1": "RUNNING|n1|None"}
    run = training(tmp_path / "a", "1", clock.now)
    gone = training(tmp_path / "d", "4", clock.now - 1e5)
    gone.ledger.append(Ended(time=clock.now - 9e4, attempt=0, cause="timeout", step=11))
    log = logs.of_training(run, None, 0)
    clock.run(
        lambda: watch(clock, tmp_path),
        lambda: watch(clock, tmp_path),
        lambda: shown_logs.Printer(lambda: [log], merge=False, tail=None).follow(log.is_growing),
        lambda: follow.follow_run(run),
    )
    assert slurm.calls.total() <= 8, slurm.calls
    assert slurm.calls["squeue"] >= 5, "they do look"
    assert "RUNNING" in capsys.readouterr().err


def test_what_happens_is_seen_within_seconds(tmp_path, clock, slurm):
    slurm.mine = {"1": "RUNNING|n1|None"}
    run, seen = training(tmp_path / "a", "1", clock.now), []

    def look(rows):
        if not seen or seen[-1][1] != rows[0].state:
            seen.append((clock.now, rows[0].state))
        if rows[0].state == "FINISHED":
            raise Over

    def happen():
        clock.sleep(40.5)
        when.append(clock.now)
        run.ledger.append(Ended(time=clock.now, attempt=0, cause="timeout", step=20))
        run.ledger.append(Requeued(time=clock.now, job_id="1", cause="timeout"))
        slurm.mine = {"1": "PENDING||BeginTime"}
        clock.sleep(10)
        when.append(clock.now)
        slurm.mine = {"1": "RUNNING|n2|None"}
        run.ledger.append(Started(time=clock.now, attempt=1, job_id="1", step=20))
        clock.sleep(5)
        when.append(clock.now)
        run.ledger.append(Ended(time=clock.now, attempt=1, cause="finished", step=100))

    when: list[float] = [clock.now]
    began = clock.now
    results = clock.run(lambda: watch(clock, tmp_path, look), happen, lambda: follow.follow_run(run))
    assert [state for _, state in seen] == ["RUNNING", "REQUEUED", "RUNNING", "FINISHED"]
    assert all(0 <= shown - happened <= 1.0 for (shown, _), happened in zip(seen, when, strict=True))
    assert results[2] == 0, "--follow ends with the run"
    assert slurm.calls.total() <= (clock.now - began) / 30 + 1


def test_follow_believes_an_end_that_slurm_confirms(tmp_path, clock, slurm):
    """A job that is about to return to the queue looks gone for a moment."""
    slurm.mine = {"1": "RUNNING|n1|None"}
    run = training(tmp_path / "a", "1", clock.now)

    began = clock.now

    def happen():
        clock.sleep(59.5)
        slurm.mine = {"1": "NODE_FAIL|n1|None"}
        clock.sleep(3)
        slurm.mine = {"1": "PENDING||BeginTime"}
        clock.sleep(120)
        slurm.mine = {"1": "NODE_FAIL|n1|None"}

    def followed():
        return follow.follow_run(run), clock.now - began

    code, after = clock.run(happen, followed)[1]
    assert code == 1
    assert 182.5 < after < 182.5 + 40
    assert slurm.calls.total() <= 15
