"""W&B and MLflow without a network: a run that is killed and resumed is one run there, with all of its steps."""

from importlib.util import find_spec

import pytest

from tests.support.logged import REPORTED, in_mlflow, in_wandb, killed_and_resumed

pytestmark = pytest.mark.slow
with_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
with_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")


@with_wandb
def test_weights_and_biases(tmp_path):
    run = killed_and_resumed(tmp_path / "mine", "monitor.wandb.project=p", "monitor.wandb.mode=offline")
    assert in_wandb(run) == REPORTED
    assert len({file.name for file in run.path.glob("wandb/offline-run-*/run-*.wandb")}) == 1, "one id"


@with_mlflow
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
