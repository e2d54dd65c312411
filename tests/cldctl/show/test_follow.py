"""`--follow`: the exit code says how it ended, and Ctrl-C leaves the job alone."""

import time
from types import SimpleNamespace

import pytest

from cld_core.evaluate.evaluation import Evaluation
from cld_core.evaluate.request import EvalRequest
from cld_core.run import RunFolder
from cld_core.run.events import Ended, JobRef, Submitted, TaskFailed
from cld_core.run.groups import Group
from cldctl import clusters
from cldctl.clusters.records import Seen, Survey
from cldctl.show import follow
from cldctl.show.follow import follow_evaluations, follow_run
from tests.support.clock import Clock
from tests.support.made_up import report, run_with
from tests.support.screen import row
from tests.support.scripted import Scripted, register, trained
from tests.support.tools import ONE, invoke, status, wait_step


def test_interrupted_is_130_and_the_job_goes_on(fresh_runs, monkeypatch):
    run, looks = RunFolder(fresh_runs / "mine"), []

    def interrupt(seconds):
        wait_step(run, 5)
        looks.append(seconds)
        if len(looks) > 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(follow, "time", SimpleNamespace(monotonic=time.monotonic, time=time.time, sleep=interrupt))
    settings = (*ONE, "train.steps=1000000", "--name", "mine", "--cluster", "local", "--follow")
    done = invoke("submit", "toy", *settings, runs=fresh_runs, code=130)
    assert done.stdout.splitlines() == ["mine"]
    assert "mine RUNNING" in done.stderr
    assert "go on" in done.stderr
    wait_step(run, run.progress()["step"] + 5)
    assert status(fresh_runs, "mine")["state"] == "RUNNING"
    invoke("cancel", "mine", runs=fresh_runs)


@pytest.mark.parametrize(
    ("cause", "state", "code"), [("cancelled", "CANCELLED", 5), ("crashed", "FAILED", 1), ("finished", "FINISHED", 0)]
)
def test_the_exit_code_says_how_a_run_ended(tmp_path, monkeypatch, capsys, cause, state, code):
    register(monkeypatch)
    run = trained(run_with(tmp_path / "mine", 10), "1", "gone")
    run.ledger.append(Ended(attempt=0, cause=cause, step=10))
    assert follow_run(run) == code
    said = capsys.readouterr().err
    assert f"{state} at step 10" in said
    for command in ("why", "logs", "resume"):
        assert (f"  cldctl {command} mine" in said.partition("next:\n")[2]) == (code != 0)
    assert ("cldctl sample mine" in said) == (code == 0), "what to type next"


def test_what_to_type_next_about_a_group(tmp_path):
    group, done = Group(tmp_path, "g"), row("a", "FINISHED")

    def following(*others, code, evaluated=False):
        return follow.next_of_group(group, [done, *others], code, evaluated=evaluated)

    assert following(code=0) == ["eval g --elbo"]
    assert following(code=0, evaluated=True) == ["compare g"]
    assert following(row("b", "FAILED"), code=1) == ["why b", "resume g"]
    assert following(row("b", "CANCELLED"), code=5) == ["resume g"]


@pytest.mark.parametrize(("cause", "says"), [("finished", False), ("nonfinite", True), ("cancelled", True)])
def test_a_quiet_command_says_why_it_fails(tmp_path, monkeypatch, capsys, cause, says):
    register(monkeypatch)
    monkeypatch.setattr(follow.err, "quiet", True)
    run = trained(run_with(tmp_path / "mine", 10), "1", "gone")
    run.ledger.append(Ended(attempt=0, cause=cause, step=10, detail="the loss is nan"))
    assert bool(follow_run(run)) == says
    said = capsys.readouterr().err
    assert ("at step 10" in said) == says
    assert ("the loss is nan" in said) == (cause == "nonfinite")
    assert "cldctl" not in said, "hints are left out"


class Blinking(Scripted):
    """A job that seems to be gone for a moment, between its requeue and the queue."""

    name = "blinking"
    poll_s = 0.0
    looks_to_believe_an_end = 2
    phases: list[str]

    def survey(self, jobs, *, settled=(), max_age_s=30.0):
        phase = self.phases.pop(0)
        return Survey({(self.name, job.job_id): Seen(phase) for job in jobs})


@pytest.mark.parametrize("comes_back", [True, False])
def test_one_answer_that_a_task_is_gone_is_not_its_end(tmp_path, monkeypatch, capsys, comes_back):
    monkeypatch.setitem(clusters.CLUSTERS, "blinking", f"{__name__}:Blinking")
    run = run_with(tmp_path / "mine", 10, 20)
    requests = [EvalRequest.of(run.recipe(), ("elbo",), step) for step in (10, 20)]
    for request in requests:
        request.save(run)
    work = Evaluation(run.evals / requests[0].id)
    work.ledger.append(Submitted(job=JobRef(cluster="blinking", job_id="1"), shards=(0,)))
    report(run, requests[1], elbo={"nll": 1.0, "stderr": 0.1})
    Blinking.phases = ["running", "gone", *(["pending", "gone"] if comes_back else []), "gone", "gone"]
    assert follow_evaluations(run, [request.id for request in requests]) == 1
    assert Blinking.phases == [], "two answers in a row, and one for the results"
    said = capsys.readouterr().err
    assert "points; 1 of 2 evaluations complete" in said
    assert ("PENDING" in said) == comes_back


def test_why_an_evaluation_failed_is_said(tmp_path, monkeypatch, capsys):
    register(monkeypatch)
    run = run_with(tmp_path / "mine", 10)
    request = EvalRequest.of(run.recipe(), ("elbo",), 10)
    request.save(run)
    work = Evaluation(run.evals / request.id)
    work.ledger.append(Submitted(job=JobRef(cluster="scripted", job_id="1"), shards=(0,)))
    work.ledger.append(TaskFailed(job_id="1", reason="RuntimeError: CUDA error: unknown"))
    Scripted.phases["1"] = "gone"
    assert follow_evaluations(run, [request.id]) == 1
    said = capsys.readouterr().err
    assert "a task failed: RuntimeError: CUDA error: unknown" in said
    assert f"logs mine --eval {request.id}" in said


@pytest.mark.parametrize(("draws", "phase"), [(False, "evaluating"), (True, "drawing samples")])
def test_an_evaluation_names_its_phases(tmp_path, monkeypatch, draws, phase):
    monkeypatch.setattr(follow.registry, "draws_samples", lambda names: draws)
    run = run_with(tmp_path / "mine", 10)
    request = EvalRequest.of(run.recipe(), ("elbo",), 10)
    request.save(run)
    work = Evaluation(run.evals / request.id)
    assert follow._phase([work], "PENDING", 0, 9) == "waiting for the queue"
    assert follow._phase([work], "RUNNING", 0, 9) == "starting"
    work.rows("elbo").folder.mkdir(parents=True)
    assert follow._phase([work], "RUNNING", 0, 9) == phase, "its first batch is being computed"
    assert follow._phase([work], "RUNNING", 3, 9) == phase
    assert follow._phase([work], "RUNNING", 9, 9) == "merging"
    assert follow._phase([work], "STOPPED", 3, 9) == ""


def test_a_run_that_trains_shows_the_smoothed_loss_and_its_times(monkeypatch):
    monkeypatch.setattr(follow, "time", clock := Clock())
    monkeypatch.setattr(clock, "time", lambda: 1_100.0, raising=False)
    attempt = {"started": 1_000.0, "ended": None}
    shown = follow.shown_of(row("mine", loss=2.0, smoothed_loss=1.5, phase="training", attempts=[attempt]))
    assert (shown.phase, shown.facts, shown.elapsed_s) == ("training", ["loss 1.5", "221 steps/s"], 100.0)
    assert shown.left_s == 3_563.0
    waits = row("mine", "REQUEUED", phase="waiting for the queue", attempts=[{"started": 900.0, "ended": 1_040.0}])
    assert follow.shown_of(waits).elapsed_s == 60.0
