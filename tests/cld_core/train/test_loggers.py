"""Loggers: none of them harms or delays a training, and what they show of a run."""

import threading
from importlib.util import find_spec
from unittest.mock import Mock

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cld_core.errors import RecipeError
from cld_core.run.history import History
from cld_core.train import loggers
from cld_core.train.loggers import Background, LoggedAttempt, Monitor, close
from tests.cld_core.train.conftest import attempt, remarks
from tests.support.clock import Clock
from tests.support.failing import FULL_DISK
from tests.support.logged import REPORTED, in_mlflow, in_wandb, killed_and_resumed
from tests.support.made_up import ended, note, started
from tests.support.recipes import toy_recipe
from tests.support.tools import wait_for

with_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")


class Recorder:
    """A logger that remembers; ``gate`` holds it up."""

    def __init__(self):
        self.calls = []
        self.gate = threading.Event()
        self.gate.set()
        self.busy = threading.Event()

    def __getattr__(self, kind):
        return lambda *call: self._take(kind, *call)

    def _take(self, *call):
        self.busy.set()
        self.gate.wait()
        self.calls.append(call)


@pytest.fixture
def over():
    return []


@pytest.fixture
def recorder():
    recorder = Recorder()
    yield recorder
    recorder.gate.set()


def background_of(make, over):
    return Background("Nowhere", make, lambda count, reason: over.append((count, reason)))


def scalars(step):
    return lambda logger: logger.scalars({}, step)


def test_one_that_hangs_is_left_behind(recorder, over, monkeypatch, capsys):
    monkeypatch.setattr(loggers, "_MOST", 3)
    recorder.gate.clear()
    logger = background_of(lambda: recorder, over)
    logger.tell(scalars(0))
    recorder.busy.wait()
    for step in range(1, 11):
        logger.tell(scalars(step))
    close([logger], "stopped", within_s=0.01)
    words = "the log in Nowhere cannot be written (it is too slow); going on without\n"
    assert capsys.readouterr().out == words, "once"
    # The one that hangs, three that wait, and seven that do not fit.
    assert over == [(11, "it is too slow")]
    recorder.gate.set()
    logger._thread.join()
    # Reports that wait are not sent after the end.
    assert recorder.calls == [("scalars", {}, 0), ("close", "stopped")]


def test_one_that_cannot_be_opened_is_tried_again_later(recorder, over, monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr(loggers, "time", clock)
    make = Mock(side_effect=[ConnectionError("no\nnetwork"), recorder])
    logger = background_of(make, over)

    def report(step):
        logger.tell(scalars(step))
        wait_for(logger._works.empty)
        wait_for(lambda: len(logger._outcomes) == 1)

    report(1)
    report(2)
    make.assert_called_once_with()  # not at each report
    clock.sleep(61.0)
    report(3)
    close([logger], "finished", within_s=60)
    assert [call for call in recorder.calls if call[0] == "scalars"] == [("scalars", {}, 3)]
    assert over == [(2, "ConnectionError: no network")]
    assert capsys.readouterr().out.count("cannot be written (ConnectionError: no network)") == 1


@pytest.fixture
def run(make):
    return make("train.steps=10", "hooks.on_change=echo secret-command")


@pytest.mark.parametrize("problem", [RuntimeError("broken"), FULL_DISK])
def test_a_training_ends_well_whatever_a_logger_does(make, monkeypatch, problem):
    monkeypatch.setitem(loggers.LOGGERS, "wandb", f"{__name__}:Recorder")
    monkeypatch.setattr(loggers, "resolve", lambda name: Mock(side_effect=problem))
    monkeypatch.setattr("cld_core.config.train.find_spec", lambda name: True)
    run = make("train.steps=10", "monitor.wandb.project=p")
    assert attempt(run)[0] == "finished"
    assert sorted(what for what, *_ in remarks(run)) == ["tensorboard", "wandb"]
    assert min(count for _, count, _ in remarks(run)) >= 3


def test_a_missing_package_is_said_before_training_begins(make, monkeypatch):
    monkeypatch.setattr("cld_core.config.train.find_spec", lambda name: None)
    run = make("train.steps=10", "monitor.wandb.project=p")
    words = r"needs the package wandb.*pip install 'cldctl\[wandb\]'"
    with pytest.raises(RecipeError, match=words):
        attempt(run)
    assert not run.ledger.history().attempts
    assert "pip install" in run.ledger.history().given_up


def test_tensorboard_has_the_recipe_and_why_the_attempt_before_ended(run):
    note(
        run,
        started(host="here", versions={"python": "3"}),
        ended("crashed", 19, detail="<b>`x`|\nsecond"),
        started(1, 10, job_id="8", host="there"),
    )
    about = LoggedAttempt(folder=run, recipe=run.recipe(), attempt=1, first_step=10)
    Monitor(about, may_write=lambda: True).close()
    events = EventAccumulator(str(run.tensorboard)).Reload()
    texts = {
        name: events.Tensors(f"run/{name}/text_summary")[0].tensor_proto.string_val[0].decode()
        for name in ("recipe", "attempt")
    }
    assert "```yaml\nname: toy\n" in texts["recipe"]
    assert "secret-command" not in texts["recipe"]
    assert r"| the one before | crashed at step 19: \<b\>\`x\`\| second |" in texts["attempt"]


def test_hyperparameters_are_numbers_and_texts_without_what_is_private(run):
    found = loggers.hyperparameters(run.recipe())
    assert found["optim.lr"] == run.recipe().optim.lr
    assert all(isinstance(value, bool | int | float | str) for value in found.values())
    assert not [key for key in found if key.partition(".")[0] in ("cluster", "hooks", "monitor")]


@with_wandb
def test_a_server_out_of_reach_leaves_wandb_offline(run, tmp_path, monkeypatch, capsys):
    import wandb

    from cld_core.train.loggers.wandb_logger import WandbLogger

    away = Mock()
    init = Mock(side_effect=[OSError("no route"), away])
    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "teardown", lambda exit_code: None)
    recipe = toy_recipe("monitor.wandb.project=p")
    logger = WandbLogger(LoggedAttempt(folder=run, recipe=recipe, attempt=3, first_step=0))
    logger.scalars({"train/loss": 1.0}, 7)
    calls = [call.kwargs for call in init.call_args_list]
    assert [call["mode"] for call in calls] == ["online", "offline"]
    for call in calls:
        assert call.items() >= {"id": "mine", "resume": "allow", "dir": str(run.path)}.items()
        assert "hooks" not in call["config"]
    away.log.assert_called_once_with({"train/loss": 1.0, "step": 7, "attempt": 3})
    said = capsys.readouterr().out
    assert "out of reach (no route)" in said
    assert "wandb sync" in said


@pytest.fixture
def monitor(run):
    about = LoggedAttempt(folder=run, recipe=run.recipe(), attempt=0, first_step=0)
    monitor = Monitor(about, may_write=lambda: True)
    yield monitor
    monitor.close()


def test_progress_that_cannot_be_written_is_dropped_and_noted_later(
    run, monitor, monkeypatch, capsys
):
    with monkeypatch.context() as patched:
        full = Mock(side_effect=FULL_DISK)
        patched.setattr(loggers, "write_json", full)
        monitor.write(1)
        monitor.write(2)
    assert run.progress() == {}
    monitor.write(3)
    assert run.progress()["step"] == 3
    assert remarks(run) == [("progress.json", 2, "No space left on device")]
    said = capsys.readouterr().out
    words = "progress.json cannot be written (No space left on device); going on without"
    assert said.count(words) == 1
    assert "step 2/10" in said


def test_the_smoothed_loss_is_a_mean_that_forgets(run, monitor):
    for step in range(1, 11):
        monitor.report(step, {"loss": float(step)})
    monitor.write(10)
    assert run.progress()["smoothed_loss"] == pytest.approx(5.5), "the first ten count the same"
    monitor.report(11, {"loss": 15.5})
    monitor.report(12, {"loss": float("nan")})
    monitor.report(13, {})
    monitor.write(13)
    assert run.progress()["smoothed_loss"] == pytest.approx(6.5), "then the newest counts a tenth"


def test_the_warning_is_part_of_the_progress_and_of_the_attempt(run, monitor, capsys):
    monitor.warn("own step time: ...", "rank 2 on n3 is slow")
    monitor.warn("own step time: ...", "rank 2 on n3 is slow")
    monitor.write(5)
    assert capsys.readouterr().out.count("warning: rank 2 on n3 is slow") == 1
    history = History.of([started()]).with_progress(run.progress())
    assert history.attempts[0].warning == "rank 2 on n3 is slow"
    monitor.warn("own step time: ...", None)
    monitor.write(6)
    assert "warning" not in run.progress()


@pytest.mark.slow
@with_wandb
def test_weights_and_biases(tmp_path):
    keys = ("monitor.wandb.project=p", "monitor.wandb.mode=offline")
    run = killed_and_resumed(tmp_path / "mine", *keys)
    assert in_wandb(run) == REPORTED
    files = run.path.glob("wandb/offline-run-*/run-*.wandb")
    assert len({file.name for file in files}) == 1, "one id"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
@pytest.mark.parametrize("kind", [pytest.param("sqlite", marks=pytest.mark.by_hand), "file"])
def test_mlflow(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = f"sqlite:///{tmp_path / 'm.db'}" if kind == "sqlite" else (tmp_path / "store").as_uri()
    run = killed_and_resumed(tmp_path / "mine", f"monitor.mlflow.tracking_uri={uri}")
    assert in_mlflow(uri, run) == REPORTED

    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri="file:///nowhere")
    (found,) = client.search_runs([client.get_experiment_by_name("cldctl").experiment_id])
    assert (found.info.run_name, found.info.status) == ("mine", "FINISHED")
    assert found.data.params["network.width"] == "16"
    assert {file.path for file in client.list_artifacts(found.info.run_id)} == {"run"}
