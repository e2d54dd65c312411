"""Several people who watch runs on Slurm: how often it is asked, and how soon they see what
happens."""

import pytest

from cld_core.files import write_json
from cld_core.run.work import Training
from cldctl.cli.finish import watch
from cldctl.clusters.slurm import poll
from cldctl.runs import follow, logs, selection, status
from cldctl.runs.index import Index
from cldctl.runs.start import PlannedWork, Submission
from cldctl.show import follow as drawn
from cldctl.show import runs as shown_runs
from tests.support import scheduler
from tests.support.clock import Clock
from tests.support.made_up import ended, note, queued, run_with, started


class Over(BaseException):
    """The time is up."""


def training(path, job_id, when):
    run = run_with(path, 10)
    job = queued(job_id, cluster="slurm", logs=run.logs, time=when)
    note(run, job, started(0, 10, job_id, time=when))
    write_json(
        run.progress_file,
        {"attempt": 0, "step": 12, "steps": 100, "steps_per_s": 1.0, "time": when},
    )
    (run.logs / f"{job_id}_0_log.out").write_text("hello\n")
    return run


def test_three_minutes_of_watchers_are_at_most_10_calls(tmp_path, monkeypatch, capsys):
    """`status --watch`, `logs -f` and `--follow`: once, it was hundreds a minute."""
    clock = Clock(now=1_000_000.0)
    for module in (shown_runs, selection, status, follow, drawn):
        monkeypatch.setattr(module, "time", clock)
    slurm = scheduler.register(monkeypatch, clock)
    poll._memory.cache_clear()
    slurm.mine = {"1": "RUNNING|n1|None"}
    run = training(tmp_path / "a", "1", clock.now)
    gone = training(tmp_path / "d", "4", clock.now - 1e5)
    note(gone, ended("timeout", 11, time=clock.now - 9e4))
    log, end = logs.of_training(run, None, 0), clock.now + 180
    lines = logs.LogReader(log)

    def others_look(now):
        shown_runs.Query(Index(tmp_path), selection.Selection()).look()
        assert log.is_growing()
        list(lines.new_lines())
        if now >= end:
            raise Over

    clock.then = others_look
    with pytest.raises(Over):
        watch([Training(run.path)], Submission(works=[PlannedWork(work=Training(run.path))]))
    assert slurm.calls.total() <= 10, slurm.calls
    assert slurm.calls["squeue"] >= 5, "they do look"
    assert "RUNNING" in capsys.readouterr().err
