"""The commands on the debug and local clusters: what they print, write and return."""

from cld_core.files import read_object, write_json
from cld_core.run import RunFolder
from cld_core.run.checkpoints import remove
from tests.support.tools import ONE, invoke, json_of, status, wait_ended, wait_for


def test_status_as_json_has_the_promised_fields(runs):
    row = status("done")
    assert row["state"] == "FINISHED"
    assert (row["step"], row["steps"], row["checkpoint_step"], row["eta_s"]) == (20, 20, 20, None)
    assert set(row["attempts"][0]) >= {
        "attempt",
        "job_id",
        "started",
        "ended",
        "cause",
        "first_step",
        "last_step",
    }
    assert row["attempts"][0]["cause"] == "finished"
    entry = row["evals"][0]
    assert set(entry) >= {"id", "state", "shards_done", "shards", "fid", "bpd", "nll"}
    assert (entry["state"], entry["shards_done"], entry["shards"]) == ("FINISHED", 1, 1)
    assert entry["nll"] is not None
    assert [entry["name"] for entry in json_of("status --json")] == ["done"]


def test_eval_again_computes_nothing_and_another_setting_is_another(runs):
    evaluate = "eval done --elbo --cluster debug"
    again = invoke(evaluate)
    assert "is already complete" in again.stderr
    assert "FINISHED" in again.stdout
    other = invoke(f"{evaluate} eval.elbo.velocities=2 --samples 20")
    assert "FINISHED" in other.stdout
    assert len(status("done")["evals"]) == 2
    every = invoke(f"{evaluate} --checkpoint all")
    assert "2 evaluations of done: 1 already complete, 1 started" in every.stderr
    assert "elbo against the step" in every.stdout
    reports = [read_object(path) for path in (runs / "done" / "evals").glob("*/report.json")]
    assert sorted(report["checkpoint_step"] for report in reports) == [10, 20, 20]


def test_a_job_goes_on_after_its_submission_calls_its_hook_and_has_a_log(tmp_path):
    told = tmp_path / "told"
    hook = f"hooks.on_change=echo $CLDCTL_STATE >> {told}"
    done = invoke("submit toy --name mine --cluster local", *ONE, hook)
    assert "cldctl cancel mine" in done.stderr
    assert wait_ended("mine")["state"] == "FINISHED"
    assert "step 20/20" in invoke("logs mine -f").stdout
    missing = invoke("logs mine --rank 3", code=3).stderr
    assert "no log of rank 3" in missing
    assert "There is rank 0." in missing
    wait_for(lambda: told.is_file() and "FINISHED" in told.read_text())
    assert told.read_text().split() == ["RUNNING", "FINISHED"], "once for each change"


def test_resume_without_a_name_takes_all_that_can_be(tmp_path):
    for name in ("first", "second"):
        invoke(f"submit toy --name {name} --cluster debug", *ONE)
    run = RunFolder(tmp_path / "first")
    remove(run, 20)
    lines = run.ledger.path.read_text().splitlines()
    run.ledger.path.write_text(
        "\n".join(lines[:-1]) + "\n"
    )  # its end was never written: it was killed
    write_json(run.progress_file, {**run.progress(), "step": 15})
    assert status("first")["state"] == "LOST"
    done = invoke("resume --yes --cluster debug")
    assert "can be resumed: first\n" in done.stderr
    row = status("first")
    assert row["state"] == "FINISHED"
    assert [(entry["first_step"], entry["cause"]) for entry in row["attempts"]] == [
        (0, "killed"),
        (10, "finished"),
    ]
