"""MLflow: one run there for each run here, found by its tag, whatever the number of attempts."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# First and whole: its modules import each other, and another thread may be importing it, too.
import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from PIL import Image
from torch import Tensor

from . import About, End, hyperparameters

# What marks the run of a folder. Names of runs need not be unique in MLflow.
TAG = "cldctl.run"
_STATUS: dict[End, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
# Characters that MLflow does not allow in names, how many a parameter may have, and how many of
# them a request.
_NOT_ALLOWED = re.compile(r"[^\w\-. :/]")
_PARAMETER, _AT_ONCE = 500, 100


class MlflowLogger:
    """A run in an experiment of MLflow; another attempt continues it.

    MLflow keeps all values of a step. The metric "attempt" tells those of a resume from an earlier
    checkpoint apart.
    """

    def __init__(self, about: About) -> None:
        self._about = about
        spec = about.recipe.monitor.mlflow
        assert spec.tracking_uri is not None, "a logger that is on"
        # Models are not registered; without an address of its own, the registry would need one that
        # it can use.
        registry = (
            spec.tracking_uri
            if urlsplit(spec.tracking_uri).scheme.startswith("http")
            else "file:///nowhere"
        )
        self._client: Any = mlflow.MlflowClient(
            tracking_uri=spec.tracking_uri, registry_uri=registry
        )
        self._id = self._continued(self._experiment(spec.experiment, spec.tracking_uri))

    def _experiment(self, name: str, uri: str) -> str:
        """The id of the experiment, which is made if there is none."""
        try:
            return str(self._client.create_experiment(name, artifact_location=_artifacts(uri)))
        except (
            MlflowException
        ):  # there is one, perhaps since a moment ago: another run of a sweep made it
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def _continued(self, experiment: str) -> str:
        name = self._about.folder.name
        # Names of runs hold no quotes.
        found = self._client.search_runs(
            [experiment], f"tags.`{TAG}` = '{name}'", order_by=["start_time ASC"]
        )
        known: Mapping[str, str] = {}
        if found:
            run_id, known = str(found[0].info.run_id), found[0].data.params
            self._client.update_run(run_id, status="RUNNING")
        else:
            run_id = str(
                self._client.create_run(experiment, run_name=name, tags={TAG: name}).info.run_id
            )
        # A parameter never changes there; what a resume changes is a tag.
        texts = {
            key: str(value)[:_PARAMETER]
            for key, value in hyperparameters(self._about.recipe).items()
        }
        fresh = [Param(key, text) for key, text in texts.items() if key not in known]
        changed = [
            RunTag(f"now.{key}", text)
            for key, text in texts.items()
            if known.get(key, text) != text
        ]
        for first in range(0, len(fresh), _AT_ONCE):
            self._client.log_batch(run_id, params=fresh[first : first + _AT_ONCE])
        self._client.log_batch(run_id, tags=changed[:_AT_ONCE])
        return run_id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        named = {**values, "attempt": float(self._about.attempt)}
        metrics = [
            Metric(_NOT_ALLOWED.sub("_", name), float(value), now, step)
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
    """Where the files of a new experiment lie; None: where the server puts them.

    Beside a data base of one file, whose files would otherwise lie in the folder in which a job
    happens to run.
    """
    parts = urlsplit(uri)
    if parts.scheme != "sqlite":
        return None
    return (Path(parts.path.removeprefix("/")).parent / "mlartifacts").as_uri()
