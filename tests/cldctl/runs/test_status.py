"""Status of runs in unusual shape: what is shown, and that one cannot hide the others."""

from pathlib import Path

import pytest
from rich.console import Console

from cld_core.recipe import load
from cld_core.run import Lease, RunFolder
from cld_core.run.atomic import write_json
from cldctl.cluster import launch, slurm
from cldctl.cluster.slurm import Seen
from cldctl.cluster.state import RunStatus, current_report, missing_shards, status_of
from cldctl.commands.status import _row
from cldctl.ui.details import details
from cldctl.ui.tables import overview
from tests.support.paths import RECIPES

TOY = RECIPES / "toy.yaml"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "mine", load(TOY), {"created": 1.0})


def gone(job):
    return Seen("gone")


def text(view) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(view)
    return console.export_text()


def test_brackets_in_messages_are_no_markup(run):
    run.ledger.append("submitted", job_id="7", cluster="local", host="elsewhere")
    run.ledger.append("started", attempt=0, job_id="7", step=0)
    detail = "RuntimeError: [/pytorch/third_party/gloo/pair.cc:525] closed [bold]"
    run.ledger.append("ended", attempt=0, cause="crashed", step=3, detail=detail)
    shown = text(details([status_of(run, gone)]))
    assert "[/pytorch/third_party/gloo/pair.cc:525]" in shown
    assert shown.count("[bold]") == 1, "what ended it is said once"


def test_a_run_that_cannot_be_read_spoils_itself_alone(run):
    run.ledger.path.write_text(
        '{"event": "started", "time": "yesterday", "attempt": 0}\n{"event": "requested", "time": 1}\n'
    )
    row = _row(run, gone)
    assert row.state == "LOST"
    assert "cannot be read" in row.reason
    assert isinstance(row, RunStatus)
    assert "mine" in text(overview([row]))
    run.progress_file.write_text("[1, 2]")
    assert run.progress() == {}


def test_a_report_of_a_checkpoint_that_was_replaced_is_none(run):
    path = run.evals / "elbo-00000010-12345678"
    path.mkdir()
    write_json(path / "report.json", {"checkpoint_step": 10, "checkpoint": "abc"})
    assert current_report(path) is not None, "its checkpoint was cleared away"
    sidecar = run.checkpoint_file(10).with_suffix(".json")
    write_json(sidecar, {"sha256": "abc"})
    assert current_report(path) is not None
    write_json(sidecar, {"sha256": "other"})
    assert current_report(path) is None


def test_a_process_that_no_job_explains_is_seen_by_its_lease(run):
    run.ledger.append("submitted", job_id="7", cluster="local", host="elsewhere")
    run.ledger.append("started", attempt=0, job_id="7", step=0)
    assert status_of(run, gone).state == "LOST"
    assert status_of(run, gone).attempts[-1]["cause"] == "killed"
    lease = Lease.acquire(run.leases, job_id="torchrun")
    row = status_of(run, gone)
    assert row.state == "RUNNING"
    assert "job torchrun" in row.reason
    lease.release()


def test_shards_of_a_replaced_checkpoint_are_missing(run):
    path = run.evals / "elbo-00000010-12345678"
    (path / "shards").mkdir(parents=True)
    write_json(path / "request.json", {"checkpoint_step": 10, "shards": 3})
    for shard, complete in enumerate((True, False)):
        state = {"complete": complete, "checkpoint": "abc"}
        write_json(path / "shards" / f"{shard:05d}.json", state)
    assert missing_shards(path) == [1, 2]
    write_json(run.checkpoint_file(10).with_suffix(".json"), {"sha256": "other"})
    assert missing_shards(path) == [0, 1, 2]


def test_a_waiting_run_says_what_it_waits_for(run):
    run.ledger.append("requested", steps=5)
    run.ledger.append("submitted", job_id="7", cluster="slurm", host="login")
    row = status_of(run, lambda job: Seen("pending", "PENDING", "", "ReqNodeNotAvail"))
    assert (row.state, row.reason, row.host) == ("PENDING", "ReqNodeNotAvail", None)
    assert "PENDING  ReqNodeNotAvail" in text(details([row]))
    row = status_of(run, lambda job: Seen("gone", "FAILED"))
    assert (row.state, row.reason) == ("FAILED", "the job ended before it began (Slurm says FAILED); see `cldctl logs`")


def test_accounting_is_asked_only_about_what_the_run_cannot_say_itself(run, monkeypatch):
    """A slurmdbd that hangs must not keep those waiting whose runs finished long ago."""
    asked = []
    monkeypatch.setattr(slurm, "run_client", lambda command: asked.append(command) or (0, ""))
    run.ledger.append("submitted", job_id="7", cluster="slurm", host="login")
    run.ledger.append("started", attempt=0, job_id="7", step=0)
    launch.look_at([run])
    assert [command[0] for command in asked] == ["squeue", "sacct"]
    run.ledger.append("ended", attempt=0, cause="finished", step=3)
    asked.clear()
    look, _ = launch.look_at([run])
    assert [command[0] for command in asked] == ["squeue"]
    assert status_of(run, look).state == "FINISHED"
    run.ledger.append("requested", steps=9)
    run.ledger.append("submitted", job_id="8", cluster="slurm", host="login")
    asked.clear()
    launch.look_at([run])
    assert [command[0] for command in asked] == ["squeue", "sacct"]
