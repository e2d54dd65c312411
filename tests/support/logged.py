"""A run whose first attempt is killed while a logger follows it, and what the loggers have kept."""

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

from cld_core.ranks import Ranks
from cld_core.run import RunFolder
from cld_core.run.work import Start, Training
from cld_core.train.step import Trainer
from tests.support.made_up import run_with
from tests.support.tools import wait_for

SMALL = (
    "network.width=16",
    "network.layers=3",
    "train.batch_size=16",
    "train.log_every=10",
    "train.steps=60",
    "train.checkpoint_every=20",
    "periodic.samples_every=null",
    "periodic.elbo_every=null",
)
# What both attempts report: the first is killed after 35 steps, the second begins at 20.
REPORTED = [(0, 10), (0, 20), (0, 30), (1, 30), (1, 40), (1, 50), (1, 60)]


def killed_and_resumed(path, *overrides, **env):
    """A run that was killed with SIGKILL, once a logger had the last report, and trained to its end
    in another process.

    Args:
        overrides: switch the logger on.
    """
    run = run_with(
        path,
        overrides=(
            *SMALL,
            *overrides,
        ),
    )
    for code in (-signal.SIGKILL, 0):
        words = [sys.executable, "-m", "tests.support.logged", str(path)]
        done = subprocess.run(
            words, env={**os.environ, **env}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "cannot be written" not in done.stdout
    return run


def in_wandb(run):
    """The (attempt, step) of each report of a loss in the offline files of W&B, in their order."""
    files = sorted(
        (run.path / "wandb").glob("offline-run-*/run-*.wandb"), key=lambda file: file.parent.name
    )
    rows = [row for file in files for row in _history(file)]
    return [(row["attempt"], row["step"]) for row in rows if "train/loss" in row]


def in_mlflow(uri, run):
    """The same in MLflow, of the only run that is marked as this one."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri="file:///nowhere")
    experiment = client.get_experiment_by_name("cldctl")
    (found,) = client.search_runs([experiment.experiment_id], f"tags.`cldctl.run` = '{run.name}'")
    attempts = client.get_metric_history(found.info.run_id, "attempt")
    losses = client.get_metric_history(found.info.run_id, "train/loss")
    of_time = {(metric.timestamp, metric.step): int(metric.value) for metric in attempts}
    return [(of_time[metric.timestamp, metric.step], metric.step) for metric in losses]


def _history(file):
    from wandb.proto.wandb_internal_pb2 import Record

    for content in _records(file.read_bytes()):
        record = Record.FromString(content)
        if record.HasField("history"):
            items = record.history.item
            yield {
                item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items
            }


def _records(data):
    """The records of a log of LevelDB, which W&B's files are after seven bytes: blocks of 32 KiB,
    split records."""
    place = 7
    parts = b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if place + 7 + length > len(data):
            return
        parts = (b"" if kind in (1, 2) else parts) + data[place + 7 : place + 7 + length]
        if kind in (1, 4) and length:
            yield parts
        place += 7 + length


def _main(path):
    run = RunFolder(Path(path))
    original = Trainer.step
    spec = run.recipe().monitor

    def kept():
        try:
            points = (
                in_wandb(run) if spec.wandb.is_on else in_mlflow(str(spec.mlflow.tracking_uri), run)
            )
        except Exception:
            return False  # It has not begun, or is being written.
        return (0, 30) in points

    def stepping(self, number, **more):
        if number == 35 and not run.ledger.history().attempts[1:]:
            wait_for(kept, every=0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, number, **more)

    Trainer.step = stepping
    Training(run.path).compute(Ranks(), start=Start(job_id="test"))


if __name__ == "__main__":
    _main(sys.argv[1])
