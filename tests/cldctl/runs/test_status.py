"""Status of runs: what is shown of unusual ones, that one cannot hide the others, and who is asked about what."""

import time
from pathlib import Path

import pytest
from rich.console import Console

from cld_core.config import load
from cld_core.evaluate.evaluation import evaluations_of
from cld_core.evaluate.request import EvalRequest
from cld_core.files import read_json, write_json
from cld_core.run import Lease, RunFolder
from cld_core.run.events import Cancelled, Ended, JobRef, RankFailed, Requested, Started, Submitted, TurnedAway
from cldctl import clusters
from cldctl.clusters.records import Seen, Survey
from cldctl.runs import survey
from cldctl.runs.status import RunStatus, named_status, status_of
from cldctl.runs.survey import Answers
from cldctl.runs.why import why
from cldctl.runs.work_status import evaluation_status
from cldctl.show.runs import details, overview
from tests.support.made_up import report, run_with
from tests.support.paths import RECIPES
from tests.support.tools import invoke

TOY = RECIPES / "toy.yaml"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "mine", load(TOY), {"created": 1.0})


def ref(job_id: str = "7", **more) -> JobRef:
    return JobRef(cluster="elsewhere", job_id=job_id, **more)


def saying(seen: Seen, problem: str | None = None) -> Answers:
    """Every job of the cluster `elsewhere` is in the same phase."""

    class Same(dict):
        def get(self, key, default=None):
            return seen

    return Answers({"elsewhere": Survey(Same(), problem)})


GONE = saying(Seen("gone"))


def text(view) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(view)
    return console.export_text()


def test_a_run_of_another_format_gets_one_line_from_every_command(run, tmp_path):
    other = RunFolder.create(tmp_path / "old", load(TOY), {"created": 0.5})
    write_json(other.identity_file, {**read_json(other.identity_file), "format": 1})
    shown = invoke("status", "--all", runs=tmp_path)
    assert [line.split(":")[0] for line in shown.stderr.splitlines()] == ["old"], "the reason of what is not readable"
    rows = shown.stdout
    assert [line.split()[:2] for line in rows.splitlines()[3:5]] == [["old", "LOST"], ["mine", "FAILED"]]
    for arguments in (["resume"], ["eval", "--elbo"], ["cancel"], ["logs"], ["report"], ["status"], ["export"]):
        said = invoke(arguments[0], "old", *arguments[1:], runs=tmp_path, code=2).stderr
        assert "made by another version" in said
        assert len(said.splitlines()) == 1


def test_a_process_that_no_job_explains_is_seen_by_its_lease(run):
    run.ledger.append(Submitted(job=ref()))
    run.ledger.append(Started(attempt=0, job_id="7", step=0))
    assert status_of(run, GONE).state == "LOST"
    assert status_of(run, GONE).attempts[-1]["cause"] == "killed"
    lease = Lease.acquire(run.leases, job_id="torchrun")
    row = status_of(run, GONE)
    assert row.state == "RUNNING"
    assert "job torchrun" in row.reason
    lease.release()


def test_a_checkpoint_is_a_step_that_was_reached(tmp_path):
    run = run_with(tmp_path / "mine", 80)
    run.ledger.append(Submitted(job=ref()))
    run.ledger.append(Started(attempt=0, job_id="7", step=0))
    write_json(run.progress_file, {"attempt": 0, "step": 50, "time": 1.0})
    row = status_of(run, saying(Seen("running")))
    assert (row.step, row.checkpoint_step, row.attempts[-1]["last_step"]) == (80, 80, 80)


def test_what_ended_an_attempt_is_the_rank_that_failed_first(run):
    run.ledger.append(Submitted(job=ref()))
    run.ledger.append(Started(attempt=0, job_id="7", step=0))
    run.ledger.append(RankFailed(job_id="7", restart=0, rank=0, host="n1", reason="another rank is gone", time=5.0))
    run.ledger.append(RankFailed(job_id="7", restart=0, rank=1, host="n2", reason="OSError: disk", time=6.0))
    run.ledger.append(Ended(attempt=0, cause="crashed", step=3, detail="another rank is gone, killed or crashed"))
    row = status_of(run, GONE)
    assert row.reason == row.attempts[-1]["detail"] == "rank 1 on n2: OSError: disk"


def test_a_run_whose_cluster_is_away_says_how_old_its_state_is(run):
    run.ledger.append(Submitted(job=ref()))
    away = saying(Seen("unknown"), "elsewhere does not answer")
    row = status_of(run, away)
    assert (row.state, row.as_of) == ("PENDING", 1.0)
    assert "PENDING as of" in text(details(row))
    assert status_of(run, saying(Seen("unknown"))).as_of is None
    assert "as of" in text(overview([row, RunStatus(name="b", path="b", state="RUNNING")]))


def test_the_state_of_an_evaluation(tmp_path):
    run = run_with(tmp_path / "mine", 10)
    request = EvalRequest.of(run.recipe(), ("elbo",), 10, 3)
    request.save(run)
    (work,) = evaluations_of(run)
    states = {
        phase: evaluation_status(work, saying(Seen(phase)))["state"] for phase in ("running", "pending", "unknown")
    }
    assert set(states.values()) == {"STOPPED"}, "nothing was started"
    work.ledger.append(Submitted(job=ref(), shards=(0, 1, 2)))
    for phase, state in (("running", "RUNNING"), ("ending", "RUNNING"), ("pending", "PENDING"), ("gone", "STOPPED")):
        row = evaluation_status(work, saying(Seen(phase)))
        assert (row["state"], row["shards_done"], row["shards"]) == (state, 0, 3)
    report(run, request, elbo={"nll": 1.5, "stderr": 0.5})
    row = evaluation_status(work, GONE)
    assert (row["state"], row["nll"], row["shards_done"]) == ("FINISHED", 1.5, 3)


def test_a_cluster_hears_which_jobs_are_settled(run, scripted, monkeypatch):
    """Slow accounting must not delay those whose runs finished long ago."""
    asked = []

    def hear(self, jobs, *, settled=(), max_age_s=30.0):
        asked[:] = [job.job_id for job in jobs], [job.job_id for job in settled]
        return Survey({})

    monkeypatch.setattr(scripted, "survey", hear)
    monkeypatch.setitem(clusters.CLUSTERS, "elsewhere", clusters.CLUSTERS["scripted"])
    monkeypatch.setattr(scripted, "name", "elsewhere")
    run.ledger.append(Submitted(time=1.0, job=ref("7")))
    run.ledger.append(Started(time=2.0, attempt=0, job_id="7", step=0))
    survey.of_runs([run])
    assert asked == [["7"], []]
    run.ledger.append(Ended(time=3.0, attempt=0, cause="finished", step=3))
    survey.of_runs([run])
    assert asked == [["7"], ["7"]]
    run.ledger.append(Requested(time=4.0, steps=9))
    run.ledger.append(Submitted(time=4.0, job=ref("8")))
    survey.of_runs([run])
    assert asked == [["8", "7"], ["7"]]


def test_a_cluster_that_this_version_does_not_know_is_a_problem_of_its_own_runs(run):
    run.ledger.append(Submitted(job=ref()))
    answers = survey.of_runs([run])
    assert answers.problem == "cluster 'elsewhere' is not known to this cldctl"
    assert answers.is_stale("elsewhere")
    assert not answers.is_stale("local")


def test_a_withdrawn_job_that_still_waits_is_shown(run):
    run.ledger.append(Started(attempt=0, job_id="7", step=0))
    run.ledger.append(Ended(attempt=0, cause="cancelled", step=3))
    run.ledger.append(Submitted(job=ref("8"), successor_of="7"))
    run.ledger.append(TurnedAway(job_id="8", reason="withdrawn", why="withdrawn"))
    row = status_of(run, saying(Seen("pending")))
    assert (row.state, row.reason) == ("CANCELLED", "job 8 still waits, with nothing to do: `cldctl cancel mine`")
    assert status_of(run, GONE).reason is None


def test_an_end_in_the_ledger_is_not_as_of_some_time(run):
    away = saying(Seen("unknown"), "elsewhere does not answer")
    run.ledger.append(Submitted(job=ref()))
    run.ledger.append(Cancelled(job_id="7"))
    assert (status_of(run, away).state, status_of(run, away).as_of) == ("CANCELLED", 1.0), "its job may not have ended"
    run.ledger.append(Started(attempt=0, job_id="7", step=0))
    run.ledger.append(Ended(attempt=0, cause="cancelled", step=3))
    assert (status_of(run, away).state, status_of(run, away).as_of) == ("CANCELLED", None)
    run.ledger.append(Submitted(job=ref("8")))
    run.ledger.append(Started(attempt=1, job_id="8", step=3))
    run.ledger.append(Ended(attempt=1, cause="finished", step=9))
    assert (status_of(run, away).state, status_of(run, away).as_of) == ("FINISHED", None)


@pytest.mark.parametrize(("every_s", "ago", "reason"), [(1.0, 5, None), (1.0, 40, "no report for 4"), (30.0, 40, None)])
def test_a_rate_is_that_of_a_run_that_reports(run, every_s, ago, reason):
    run.ledger.append(Submitted(job=ref()))
    run.ledger.append(Started(attempt=0, job_id="7", step=0))
    told = {"attempt": 0, "step": 5, "steps": 100, "steps_per_s": 2.0, "every_s": every_s, "time": time.time() - ago}
    write_json(run.progress_file, told)
    suspended = status_of(run, saying(Seen("suspended")))
    assert (suspended.state, suspended.steps_per_s, suspended.eta_s) == ("RUNNING", None, None)
    row = status_of(run, saying(Seen("running")))
    assert row.state == "RUNNING"
    assert (row.steps_per_s, row.eta_s) == ((2.0, 47.5) if reason is None else (None, None))
    assert (row.reason or "").startswith(reason or "")
    assert bool(row.reason) == (reason is not None)


def test_a_damaged_recipe_is_shown_once_and_not_resumed(run):
    run.ledger.append(Submitted(job=ref()))
    run.ledger.append(Started(attempt=0, job_id="7", step=0))
    run.ledger.append(Ended(attempt=0, cause="timeout", step=3))
    run.recipe_file.write_text("[")
    row = named_status(run, GONE)
    assert text(details(row)).count("problem") == 1
    assert "recipe.yaml" in row.problems[0]
    found = why(run)
    assert sum("recipe.yaml" in problem for problem in found.problems) == 1
    assert found.do.startswith("restore recipe.yaml")
    assert not [command for command in found.next if command.startswith("resume")]
