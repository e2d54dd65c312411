"""MLflow: all attempts of a run are one run there, found by its tag."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# The whole package first: its modules import each other, and another thread may import it, too.
import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from PIL import Image
from torch import Tensor

from . import End, LoggedAttempt, hyperparameters

# The tag that holds the name of a run: names of runs need not be unique in MLflow.
TAG = "cldctl.run"
_STATUS: dict[End, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
# Limits of MLflow: characters that names must not have, the length of a parameter's value, and the
# number of parameters or tags in a request.
_NOT_ALLOWED = re.compile(r"[^\w\-. :/]")
_LENGTH = 500
_AT_ONCE = 100


class MlflowLogger:
    """A run in an experiment of MLflow; another attempt continues it.

    MLflow keeps all values of a step that was repeated. The metric "attempt" tells them apart.
    """

    def __init__(self, about: LoggedAttempt) -> None:
        self._about = about
        spec = about.recipe.monitor.mlflow
        assert spec.tracking_uri is not None, "a logger that is on"
        # Models are not registered, but the client needs a registry with an address that it knows.
        registry = "file:///nowhere"
        if urlsplit(spec.tracking_uri).scheme.startswith("http"):
            registry = spec.tracking_uri
        self._client: Any = mlflow.MlflowClient(
            tracking_uri=spec.tracking_uri, registry_uri=registry
        )
        self._id = self._continued(self._experiment(spec.experiment, spec.tracking_uri))

    def _experiment(self, name: str, uri: str) -> str:
        """The id of the experiment, which is created if there is none."""
        try:
            return str(self._client.create_experiment(name, artifact_location=_artifacts(uri)))
        except MlflowException:
            # It exists, perhaps since a moment ago, made by another run of a sweep.
            experiment = self._client.get_experiment_by_name(name)
            if experiment is None:
                raise
            return str(experiment.experiment_id)

    def _continued(self, experiment: str) -> str:
        """The id of the run, which is created if there is none, with its new parameters logged."""
        name = self._about.folder.name
        # Names of runs hold no quotes.
        runs = self._client.search_runs(
            [experiment], f"tags.`{TAG}` = '{name}'", order_by=["start_time ASC"]
        )
        logged: Mapping[str, str] = {}
        if runs:
            run_id = str(runs[0].info.run_id)
            logged = runs[0].data.params
            self._client.update_run(run_id, status="RUNNING")
        else:
            run = self._client.create_run(experiment, run_name=name, tags={TAG: name})
            run_id = str(run.info.run_id)
        # MLflow never changes a parameter; a value that a resume changed becomes a tag.
        parameters = []
        tags = []
        for key, value in hyperparameters(self._about.recipe).items():
            text = str(value)[:_LENGTH]
            if key not in logged:
                parameters.append(Param(key, text))
            elif logged[key] != text:
                tags.append(RunTag(f"now.{key}", text))
        for first in range(0, len(parameters), _AT_ONCE):
            self._client.log_batch(run_id, params=parameters[first : first + _AT_ONCE])
        self._client.log_batch(run_id, tags=tags[:_AT_ONCE])
        return run_id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        time_ms = int(time.time() * 1000)
        named = {**values, "attempt": float(self._about.attempt)}
        metrics = [
            Metric(_NOT_ALLOWED.sub("_", name), float(value), time_ms, step)
            for name, value in named.items()
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def text(self, name: str, markdown: str, step: int) -> None:
        self._client.log_text(self._id, markdown, f"{name}/step_{step:08d}.md")

    def picture(self, name: str, pixels: Tensor, step: int) -> None:
        self._client.log_image(
            self._id, Image.fromarray(pixels.squeeze(-1).numpy()), f"{name}/step_{step:08d}.png"
        )

    def close(self, end: End) -> None:
        self._client.set_terminated(self._id, _STATUS[end])


def _artifacts(uri: str) -> str | None:
    """Where the files of a new experiment lie; None leaves it to the server.

    For a database in one file, they lie beside it. By default they would lie in the working
    directory of the job.
    """
    parts = urlsplit(uri)
    if parts.scheme != "sqlite":
        return None
    return (Path(parts.path.removeprefix("/")).parent / "mlartifacts").as_uri()
