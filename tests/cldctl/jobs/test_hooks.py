"""`hooks.on_change`: called once for each change, by whoever knows of it, and never in the way of the run."""

import json
import os

import psutil
import pytest

from cld_core.config import load
from cld_core.config.monitor import HooksSpec
from cld_core.evaluate.evaluation import Evaluation
from cld_core.evaluate.request import EvalRequest
from cld_core.run import RunFolder
from cld_core.run.events import Ended, GivenUp, JobRef, Requested, Requeued, Started, Submitted
from cld_core.run.process import find
from cldctl.jobs import hook_runner, hooks
from cldctl.jobs.hook_call import KEPT_BYTES, call
from cldctl.jobs.train import go_on
from tests.support.made_up import report, run_with
from tests.support.paths import RECIPES
from tests.support.scripted import REF, inside
from tests.support.tools import wait_for

TELL = 'cat >> "$CLDCTL_RUN_PATH/told"'


@pytest.fixture
def run(tmp_path) -> RunFolder:
    run = run_with(tmp_path / "mine", 20, overrides=(f"hooks.on_change={TELL}", "train.steps=100"))
    hooks.allow(run, run.recipe())
    run.ledger.append(Requested(steps=100))
    run.ledger.append(Submitted(job=REF))
    run.ledger.append(Started(attempt=0, job_id="7", step=0, host="n1"))
    return run


def dispatch(run: RunFolder, *options: str) -> int:
    return hook_runner.main([str(run.path), str(run.logs), *options])


def told(run: RunFolder) -> list[dict]:
    file = run.path / "told"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def states(run: RunFolder) -> list[str]:
    return [content["state"] for content in told(run)]


def log(run: RunFolder) -> str:
    file = run.logs / hook_runner.LOG
    return file.read_text() if file.exists() else ""


def with_command(run: RunFolder, command: str, **more) -> RunFolder:
    recipe = load(RECIPES / "toy.yaml")
    object.__setattr__(recipe, "hooks", HooksSpec(on_change=command, **more))
    hooks.allow(run, recipe)
    return run


class TestWhatItIsToldAbout:
    def test_each_change_once(self, run):
        for _ in range(2):
            assert dispatch(run) == 0
        assert states(run) == ["RUNNING"]
        run.ledger.append(Ended(attempt=0, cause="crashed", step=30, detail="ValueError: no"))
        run.ledger.append(Requeued(job_id="7", cause="crashed"))
        for _ in range(2):
            dispatch(run)
        assert states(run) == ["RUNNING", "REQUEUED"]
        last = told(run)[-1]
        assert last["text"] == "mine: REQUEUED (crashed) at step 30 of 100: ValueError: no"
        expected = {"run": "mine", "cause": "crashed", "step": 30, "steps": 100, "job_id": "7", "host": "n1"}
        assert {name: last[name] for name in expected} == expected
        assert last["link"] == run.path.as_uri()

    def test_what_a_process_that_was_killed_did_not_get_to_is_told_by_the_next(self, run, monkeypatch):
        class Killed(BaseException):
            pass

        def killed(*args, **more):
            raise Killed

        monkeypatch.setattr(hook_runner, "call", killed)
        with pytest.raises(Killed):
            dispatch(run)
        monkeypatch.undo()
        run.ledger.append(Ended(attempt=0, cause="finished", step=100))
        dispatch(run)
        assert states(run) == ["RUNNING", "FINISHED"]

    def test_not_what_was_before_the_last_request(self, run):
        run.ledger.append(Ended(attempt=0, cause="crashed", step=30))
        run.ledger.append(Requested(steps=200))
        run.ledger.append(Started(attempt=1, job_id="8", step=20))
        dispatch(run)
        assert states(run) == ["RUNNING"]
        assert told(run)[0]["attempt"] == 1

    def test_an_evaluation_once_for_each_job(self, run):
        request = EvalRequest.of(run.recipe(), ("elbo",), 20)
        work = Evaluation(request.save(run))
        words = "--evaluation", str(work.folder)
        dispatch(run, *words)
        assert told(run) == []
        work.ledger.append(Submitted(job=JobRef(cluster="scripted", job_id="9_0"), shards=(0,)))
        for task in ("9_0", "9_1"):
            work.ledger.append(GivenUp(job_id=task, reason="its data are gone"))
            dispatch(run, *words)
        assert [(one["state"], one["reason"]) for one in told(run)] == [("FAILED", "its data are gone")]
        work.ledger.append(Submitted(job=JobRef(cluster="scripted", job_id="10_0"), shards=(0,)))
        report(run, request, elbo={"nll": 2.5, "stderr": 0.1, "n": 32, "nfe_mean": 10.0})
        for _ in range(2):
            dispatch(run, *words)
        assert states(run) == ["FAILED", "FINISHED"]
        last = told(run)[-1]
        assert (last["evaluation"], last["results"]["nll"]) == (work.name, 2.5)
        assert last["link"] == work.folder.as_uri()


class TestWhatCanBeWrongWithIt:
    def test_it_fails_hangs_or_floods(self, run):
        with_command(run, "echo problem; exit 3")
        assert dispatch(run) == 0
        assert "mine: RUNNING at step 0 of 100: ended with exit code 3" in log(run)
        assert "  problem\n" in log(run)
        with_command(run, "sleep 600", timeout_s=0.2)
        run.ledger.append(Ended(attempt=0, cause="finished", step=100))
        assert dispatch(run) == 0
        assert "did not end within 0.2 s (hooks.timeout_s) and was ended" in log(run)

    @pytest.mark.parametrize("which", ["file", "folder"])
    def test_others_may_write_where_it_is_stored(self, run, which):
        path = run.logs / hooks.SETTINGS if which == "file" else run.logs
        path.chmod(path.stat().st_mode | 0o020)
        assert dispatch(run) == 1
        assert told(run) == []


class TestFiring:
    def test_nobody_waits_for_it(self, run):
        """It hangs until the test lets it go on; meanwhile everything returns."""
        gate = run.path / "gate"
        os.mkfifo(gate)
        with_command(run, f"cat {gate} > /dev/null; {TELL}")
        hooks.fire(run)
        hooks.settle(run, 0.0)
        assert len(hooks._started) == 1, "it is not over"
        gate.write_text("go")
        hooks.settle(run)
        assert hooks._started == []
        assert states(run) == ["RUNNING"]

    def test_signals_that_end_its_job_do_not_end_it(self, run):
        gate = run.path / "gate"
        os.mkfifo(gate)
        with_command(run, f"cat {gate} > /dev/null; {TELL}")
        hooks.fire(run)
        (runner,) = hooks._started
        process = psutil.Process(runner.pid)
        wait_for(lambda: any(f"cat {gate}" in " ".join(it.cmdline()) for it in process.children(recursive=True)))
        for one in (process, *process.children(recursive=True)):
            one.terminate()
        gate.write_text("go")
        hooks.settle(run)
        assert states(run) == ["RUNNING"]

    def test_a_requeue_is_told_before_the_scheduler_is_asked(self, run):
        """Which ends the job's processes."""
        job, seen = inside(), []
        job.requeue = lambda **more: seen.append(len(hooks._started))
        run.ledger.append(Ended(attempt=0, cause="preempted", step=30))
        assert go_on(run, job, "preempted") == "requeued"
        assert seen == [1]
        hooks.settle(run)
        assert states(run) == ["RUNNING", "REQUEUED"]


def test_a_hook_is_neither_part_of_the_model_nor_of_an_evaluation():
    plain, hooked = load(RECIPES / "toy.yaml"), load(RECIPES / "toy.yaml", ["hooks.on_change=date"])
    assert plain.model_digest() == hooked.model_digest()
    assert EvalRequest.of(plain, ("elbo",), 20).id == EvalRequest.of(hooked, ("elbo",), 20).id


def called(command, tmp_path, timeout_s=60.0, content="{}"):
    return call(command, environment=dict(os.environ), content=content, timeout_s=timeout_s, folder=tmp_path)


def test_it_is_ended_with_everything_that_it_started(tmp_path):
    result = called("sleep 600 & echo $!; exec sleep 600", tmp_path, timeout_s=0.5)
    assert "did not end within 0.5 s" in result.problem
    wait_for(lambda: find(int(result.output)) is None)


def test_a_command_that_cannot_be_started_is_a_problem(tmp_path):
    assert "could not be started" in called("nul\0", tmp_path).problem


def test_of_a_flood_little_is_kept(tmp_path):
    result = called("yes", tmp_path)
    assert "wrote more than" in result.problem
    assert len(result.output) == KEPT_BYTES
